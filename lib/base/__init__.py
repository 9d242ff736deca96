"""The pretrained base model, its head in chunks, and its tiny random stand-in for tests."""
