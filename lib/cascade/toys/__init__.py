"""Toys of the cascade study: each mechanism on one sentence."""
