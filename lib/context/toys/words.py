"""The sentence of all toys as words with random embeddings."""

import torch
from torch import Tensor

from lib.toy import SENTENCE, drawn

WORDS = SENTENCE.split()
WIDTH, LAYERS = 16, 3


def embedded() -> Tensor:
    """An embedding [T, width] for each word, the same for the same word."""
    different = sorted(set(WORDS))
    with drawn():
        table = torch.randn(len(different), WIDTH)
    return table[[different.index(word) for word in WORDS]]
