"""What the head says of states, in chunks: losses a token, confidence, entropy, margin."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.base.head import CHUNK, head_statistics, summed_loss
from lib.depth.llama import Llama


def mean_loss(llama: Llama, states: Tensor, labels: Tensor) -> Tensor:
    """Mean loss (nats) of states [B, T, d] at labels [B, T], with gradient."""
    read, labels = llama.read(states).flatten(0, 1), labels.flatten()
    return summed_loss(read, llama.head, labels) / len(labels)


@torch.no_grad()
def token_losses(llama: Llama, states: Tensor, labels: Tensor) -> Tensor:
    """Loss of every token in nats [B, T]."""
    read, wanted = llama.read(states).flatten(0, 1), labels.flatten()
    parts = []
    for start in range(0, len(read), CHUNK):
        rows = slice(start, start + CHUNK)
        logits = read[rows] @ llama.head.t()
        parts.append(logits.logsumexp(1) - logits.gather(1, wanted[rows, None])[:, 0])
    return torch.cat(parts).view(labels.shape)


@torch.no_grad()
def statistics(llama: Llama, states: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, confidence, entropy, margin and correctness of every token, each like ``labels``."""
    rows = llama.read(states).reshape(-1, llama.width)
    found = head_statistics(rows, llama.head, labels.flatten())
    return {name: values.view(labels.shape) for name, values in found.items()}
