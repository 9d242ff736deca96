"""What is trained: low-rank adapters on every linear map, changes of every norm gain, few extras.

The base stays frozen and outside, so that a checkpoint holds the adapters alone. The adapters are
those of Hu et al. (2021, LoRA): y = x Wᵀ + s (x Aᵀ) Bᵀ with A [r, in], B [out, r] = 0 at first and
s = 2, so that an untrained adapter is the base bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
SCALE = 2.0


class Map:
    """A linear map [out, in] with or without its low-rank change."""

    def __init__(self, weight: Tensor, a: Tensor | None = None, b: Tensor | None = None):
        self.weight, self.a, self.b = weight, a, b

    def __call__(self, x: Tensor) -> Tensor:
        # x [..., in] -> [..., out]
        y = F.linear(x, self.weight)
        if self.a is None:
            return y
        return y + F.linear(F.linear(x, self.a), self.b) * SCALE

    def merged(self) -> Map:
        """The same map as one matrix."""
        if self.a is None:
            return self
        return Map((self.weight + SCALE * (self.b @ self.a)).detach())


def rank_for(layers: int, rank: int, whole: int) -> int:
    """The rank that gives ``layers`` layers about as many weights as ``whole`` of ``rank``."""
    return max(1, round(rank * whole / layers))


class Adapters(nn.Module):
    """Adapters of ``layers`` layers whose maps have ``shapes`` (out, in), and named extras.

    ``extras``: name -> initial value of further trained tensors (the gate of a block, the mix of a
    second pass).
    """

    def __init__(
        self,
        layers: int,
        width: int,
        shapes: dict[str, tuple[int, int]],
        rank: int,
        extras: dict[str, Tensor] | None = None,
    ):
        super().__init__()
        self.rank = rank
        self.layers = nn.ModuleList()
        for _ in range(layers):
            own = nn.ParameterDict()
            for name in MAPS:
                out, inside = shapes[name]
                a = torch.empty(rank, inside)
                nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                own[f"{name}_a"], own[f"{name}_b"] = nn.Parameter(a), torch.zeros(out, rank)
            own["norm1"], own["norm2"] = torch.zeros(width), torch.zeros(width)
            self.layers.append(own)
        self.norm = nn.Parameter(torch.zeros(width))
        self.extras = nn.ParameterDict({n: v.clone() for n, v in (extras or {}).items()})

    def count(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in self.parameters())
