"""Toys of the context study: each mechanism on one sentence."""
