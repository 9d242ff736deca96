"""Notebooks 20 and 21."""
