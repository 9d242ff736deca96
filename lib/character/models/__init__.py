"""Networks on characters: the block, the transformer, HRM and its memories, LCT."""
