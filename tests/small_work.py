"""A regression that trains in milliseconds, with all that a loop may meet."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lib.training.loop import Work


class Network(nn.Module):
    """Two layers with dropout between them, and a third that only some batches pass through."""

    def __init__(self, dropout: float = 0.0, tied: bool = False):
        super().__init__()
        self.first, self.second, self.side = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.out, self.dropout = nn.Linear(4, 1), nn.Dropout(dropout)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor, side: bool = False) -> Tensor:
        hidden = torch.tanh(self.second(self.dropout(torch.tanh(self.first(x)))))  # (n, 4)
        return self.out(self.side(hidden) if side else hidden)


class Regression(Work):
    """Points on a curve in ``count`` batches of 8; every third batch passes through the side."""

    def __init__(
        self, seed: int = 0, count: int = 5, dropout: float = 0.0, side: bool = False,
        tied: bool = False, steps: int = 1,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.model = Network(dropout, tied)
        points = torch.Generator().manual_seed(7)
        self.x = torch.randn(count, 8, 4, generator=points)
        self.y = self.x.sum(-1, keepdim=True).sin()
        self.side, self.steps, self.seen = side, steps, 0

    def updates_an_epoch(self) -> int:
        return len(self.x) * self.steps

    def batches(self, epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch))
        for number in order.tolist():
            yield number, self.x[number], self.y[number]

    def losses(self, batch: Any) -> Iterator[tuple[Tensor, float]]:
        number, x, y = batch
        for _ in range(self.steps):
            found = self.model(x, self.side and number % 3 == 0)
            yield nn.functional.mse_loss(found, y), len(x)
        self.seen += 1

    def size(self, batch: Any) -> int:
        return len(batch[1])

    def validate(self) -> dict[str, Any]:
        with torch.no_grad():
            return {"valid_loss": nn.functional.mse_loss(self.model(self.x), self.y).item()}

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        return {"seen": torch.tensor(self.seen)}, {"seen": self.seen}

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        assert int(tensors["seen"]) == about["seen"]
        self.seen = about["seen"]
