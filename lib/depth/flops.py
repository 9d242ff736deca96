"""What a token costs, in multiplications, relative to the untouched base (all layers and the head).

Counted: every linear map, attention over the mean context of a window, every read-out of the head,
keys and values of tokens that have stopped, gates. Not counted: norms, softmax, rotations (below
1 %). One multiplication counts as one; a factor of two would cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.depth.llama import Llama


@dataclass(frozen=True)
class Costs:
    """Multiplications a token: of a layer, of its keys and values alone, of the head, of a gate."""

    layer: float
    keys: float
    head: float
    gate: float
    layers: int  # of the base

    @classmethod
    def of(cls, llama: Llama, layers: int, context: float) -> Costs:
        """``context``: tokens that a token attends to in the mean, itself included."""
        sizes = {name: m.weight.numel() for name, m in llama.layers[0].maps.items()}
        attention = 2 * llama.heads * llama.head_width * context
        return cls(
            sum(sizes.values()) + attention,
            sizes["k"] + sizes["v"],
            llama.head.numel(),
            llama.width,
            layers,
        )

    @property
    def base(self) -> float:
        """Of the untouched base."""
        return self.layers * self.layer + self.head

    def relative(
        self, layers: float, keys: float = 0.0, heads: float = 1.0, gates: float = 0.0
    ) -> float:
        """Cost of so many layers, layers of keys and values alone, read-outs, gates; 1 = base."""
        spent = layers * self.layer + keys * self.keys + heads * self.head + gates * self.gate
        return spent / self.base
