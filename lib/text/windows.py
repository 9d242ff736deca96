"""Cut a stream of symbols into windows, and windows into batches.

Windows do not overlap: x = symbols[64 i : 64 i + 64], y = the same shifted by one, so that every
position has a true next symbol and n = floor((N - 1) / 64) windows come out of N symbols.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Inputs and targets, both (n, T) int64."""

    inputs: Tensor
    targets: Tensor

    @classmethod
    def cut(cls, symbols: Tensor, length: int) -> "Windows":
        """Non-overlapping windows of a stream (N,). Raises ValueError if not one fits."""
        count = (len(symbols) - 1) // length
        if count < 1:
            raise ValueError(f"{len(symbols)} symbols do not fill one window of {length} + 1")
        inputs = symbols[: count * length].view(count, length)
        targets = symbols[1 : count * length + 1].view(count, length)
        return cls(inputs, targets)

    def __len__(self) -> int:
        return len(self.inputs)

    def whole_batches(self, size: int) -> "Windows":
        """Only the windows that fill whole batches (the fixed-order loader of Exp 5-11).

        Raises ValueError if not one batch fills.
        """
        count = len(self) // size * size
        if count == 0:
            raise ValueError(f"{len(self)} windows do not fill one batch of {size}")
        return Windows(self.inputs[:count], self.targets[:count])

    def batches(
        self, size: int, generator: torch.Generator | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (<= size, T); shuffled by the generator, in order without one."""
        order = torch.arange(len(self))
        if generator is not None:
            order = torch.randperm(len(self), generator=generator)
        for chosen in order.split(size):
            yield self.inputs[chosen], self.targets[chosen]
