"""N-gram baselines: what counting alone predicts."""

import math

import torch
from torch import Tensor


def unigram_perplexity(train: Tensor, held_out: Tensor, symbols: int, add: float = 0.1) -> float:
    """Perplexity of held-out indices (M,) under the symbol frequencies of train (N,).

    ``add`` is added to every count, so that unseen symbols have a probability.
    """
    counts = torch.bincount(train, minlength=symbols).double() + add
    log_probability = (counts / counts.sum()).log()
    return math.exp(-log_probability[held_out].mean().item())


def bigram_perplexity(train: Tensor, held_out: Tensor, symbols: int, add: float = 0.1) -> float:
    """The same under the frequencies of pairs; the first held-out symbol is not scored."""
    pairs = torch.bincount(train[:-1] * symbols + train[1:], minlength=symbols * symbols)
    counts = pairs.view(symbols, symbols).double() + add
    log_probability = (counts / counts.sum(1, keepdim=True)).log()
    return math.exp(-log_probability[held_out[:-1], held_out[1:]].mean().item())
