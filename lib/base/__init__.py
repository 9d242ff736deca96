"""The pretrained base model, where it comes from, and its tiny random stand-in for tests."""
