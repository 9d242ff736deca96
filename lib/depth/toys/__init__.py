"""Toys of the depth study: each mechanism on one sentence."""
