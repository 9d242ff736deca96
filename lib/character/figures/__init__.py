"""Figures that only the character experiments draw."""
