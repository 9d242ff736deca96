"""What a model reads at each position: contexts of all layers, the token, and the next token.

Contexts of a window or of a long stream are made batch by batch; those of a recurrent block stay in
memory where they fit. Neither changes a number beyond rounding.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.contexts import layer_outputs, sequential

CPU = torch.device("cpu")
IN_MEMORY = 4_500_000_000  # bytes of layer contexts that are held rather than made again


class Contexts(Protocol):
    """Contexts of a stream, by rows."""

    widths: list[int]

    def rows(self, begin: int, end: int) -> list[Tensor]:
        """One tensor [end - begin, D_l] a layer."""
        ...

    def __len__(self) -> int: ...


class Held:
    """Contexts as they are: a tensor [N, D_l] a layer."""

    def __init__(self, layers: list[Tensor]):
        self.layers, self.widths = layers, [layer.shape[1] for layer in layers]

    def rows(self, begin: int, end: int) -> list[Tensor]:
        return [layer[begin:end] for layer in self.layers]

    def __len__(self) -> int:
        return len(self.layers[0])


class Computed:
    """Layer contexts made from final contexts [N, D] and tokens x [N, m*d] when they are read."""

    def __init__(self, block: ContextBlock, final: Tensor, x: Tensor, starts: Tensor | None):
        self.block, self.final, self.x, self.widths = block, final, x, block.widths
        self.begins = {0} | set([] if starts is None else starts.tolist())

    @torch.no_grad()
    def rows(self, begin: int, end: int) -> list[Tensor]:
        previous = self.final[max(begin - 1, 0) : end - 1]
        if begin == 0:
            previous = torch.cat([self.final.new_zeros(1, self.final.shape[1]), previous])
        if inside := [row - begin for row in self.begins if begin <= row < end]:
            previous = previous.clone()
            previous[inside] = 0.0
        return self.block(previous, self.x[begin:end])

    def __len__(self) -> int:
        return len(self.final)


class WindowContexts:
    """The `count` - 1 embeddings before each token at every one of `layers`, oldest first."""

    def __init__(self, embedded: Tensor, count: int, layers: int):
        if count < 1:
            raise ValueError(f"count is {count}; a window holds at least the token itself")
        self.embedded, self.count = embedded, count
        self.widths = [(count - 1) * embedded.shape[1]] * layers

    def rows(self, begin: int, end: int) -> list[Tensor]:
        before, d = self.count - 1, self.embedded.shape[1]
        if not before:
            return [self.embedded.new_zeros(end - begin, 0)] * len(self.widths)
        low = max(begin - before, 0)
        missing = self.embedded.new_zeros(low - (begin - before), d)
        part = torch.cat([missing, self.embedded[low : end - 1]])
        shared = torch.cat([part[k : k + end - begin] for k in range(before)], dim=1)
        return [shared] * len(self.widths)

    def __len__(self) -> int:
        return len(self.embedded)


@dataclass(frozen=True)
class Features:
    """Contexts of N positions, token input [N, m*d], and the output index of the same token [N].

    Position i predicts the output of i + 1.
    """

    contexts: Contexts
    tokens: Tensor
    outputs: Tensor
    device: torch.device = CPU

    def __post_init__(self) -> None:
        lengths = {len(self.contexts), len(self.tokens), len(self.outputs)}
        if len(lengths) != 1 or min(lengths) < 2:
            raise ValueError(f"all parts must have one length of at least 2, not {sorted(lengths)}")

    @property
    def positions(self) -> int:
        """How many tokens are predicted: all but the first."""
        return len(self.outputs) - 1

    def batch(self, begin: int, end: int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Inputs of positions begin..end-1 and their targets, on the device."""
        contexts = self.contexts.rows(begin, end)
        targets = self.outputs[begin + 1 : end + 1].to(self.device)
        return (
            [c.to(self.device) for c in contexts],
            self.tokens[begin:end].to(self.device),
            targets,
        )


def layer_contexts(
    block: ContextBlock, final: Tensor, x: Tensor, starts: Tensor | None = None
) -> Held | Computed:
    """Contexts of all layers: held in memory where they fit, else made when they are read."""
    if 4 * len(x) * sum(block.widths) <= IN_MEMORY:
        return Held(layer_outputs(block, final, x, starts))
    return Computed(block, final, x, starts)


def recurrent_features(
    block: ContextBlock,
    x: Tensor,
    outputs: Tensor,
    device: torch.device = CPU,
) -> Features:
    """Features from the exact recurrence of a context block over x [N, m*d]."""
    final = sequential(block, x)
    return Features(layer_contexts(block, final, x), x, outputs, device)
