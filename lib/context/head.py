"""Next-token head of seed 003, untied and started at zero, and the model it completes."""

from __future__ import annotations

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


class NextTokenModel(nn.Module):
    """TokenBlock and head as one model: (contexts per layer, token input) -> logits [n, V]."""

    def __init__(self, token_block: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.token_block, self.head = token_block, head

    def forward(self, contexts: list[Tensor], tokens: Tensor) -> Tensor:
        return self.head(self.token_block(contexts, tokens))


def trainable_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
