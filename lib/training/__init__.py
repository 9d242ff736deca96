"""Objectives, the loop, checkpoints, and the sweep over variants and seeds."""
