"""What is computed from trained models and from finished runs."""
