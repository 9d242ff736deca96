"""Next-token heads of seed 003: untied and started at zero, or tied to the frozen embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UntiedHead(nn.Module):
    """Linear map [n, d] -> [n, V] with bias, all zeros at the start (uniform first prediction)."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, vocabulary)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)


class TiedHead(nn.Module):
    """Frozen embedding rows as output weights, no bias: [n, d] -> [n, V]; table is [V, d]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.detach().clone())

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.table.t()


class NextTokenModel(nn.Module):
    """TokenBlock and head as one model: (contexts per layer, token input) -> logits [n, V]."""

    def __init__(self, token_block: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.token_block, self.head = token_block, head

    def forward(self, contexts: list[Tensor], tokens: Tensor) -> Tensor:
        return self.head(self.token_block(contexts, tokens))


def trainable_parameters(module: nn.Module) -> int:
    """Number of trainable parameters (tied rows are buffers and do not count)."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def tied_rows(table: Tensor, types: Tensor) -> Tensor:
    """Output rows [len(types) + 1, d] for a tied head: kept types, then the mean of all others."""
    rest = torch.ones(table.shape[0], dtype=torch.bool)
    rest[types] = False
    unknown = table[rest].mean(0) if rest.any() else table.mean(0)
    return torch.cat([table[types], unknown[None]])
