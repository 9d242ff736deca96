"""Toys of the character study: each mechanism on one sentence."""
