"""Networks: the block, the transformer, HRM and its memories, LCT, the pretrained base."""
