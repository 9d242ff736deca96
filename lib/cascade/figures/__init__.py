"""Figures of the CASCADE experiments."""
