"""Adaptive depth in a pretrained model: early exits, gated blocks, a second pass; fixed depth."""
