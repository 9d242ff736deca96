"""The one training loop, and random numbers."""
