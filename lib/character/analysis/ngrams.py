"""N-gram baselines: what counting alone predicts."""

import math

import torch
from torch import Tensor

ADD = 0.1  # to every count, so that what is unseen has a probability


def unigram_perplexity(train: Tensor, held_out: Tensor, symbols: int) -> float:
    """Perplexity of held-out indices (M,) under the symbol frequencies of train (N,)."""
    counts = torch.bincount(train, minlength=symbols).double() + ADD
    log_probability = (counts / counts.sum()).log()
    return math.exp(-log_probability[held_out].mean().item())


def bigram_perplexity(train: Tensor, held_out: Tensor, symbols: int) -> float:
    """The same under the frequencies of pairs; the first held-out symbol is not scored."""
    return math.exp(-pairs(train, symbols)[held_out[:-1], held_out[1:]].mean().item())


def pairs(train: Tensor, symbols: int) -> Tensor:
    """Log probability [symbols, symbols] of a symbol (column) after another one in train (N,)."""
    seen = torch.bincount(train[:-1] * symbols + train[1:], minlength=symbols * symbols)
    counts = seen.view(symbols, symbols).double() + ADD
    return (counts / counts.sum(1, keepdim=True)).log()
