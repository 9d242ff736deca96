"""A gate that is trained together with its stage.

Every token is answered by both, the stage with the weight g that the gate gives it, so that the
stage learns most where it is used and the gate sees what the stage gains there. Nothing but the
mean of g is held, at the share that is to be routed. Afterwards g orders the tokens like any other
rule, with a threshold. The objective is that of a mixture of experts whose second expert is frozen
(Jacobs et al. 1991), with a share for the first one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lib.base.head import summed_loss
from lib.cascade.gate import Gate


class JointGate(nn.Module):
    """g = sigmoid(weight . state / gain + bias), which begins at ``rate`` for every token.

    ``gain`` float32 [width] is that of the base's final norm: over it a state has unit mean square.
    Raises ``ValueError`` for a rate that is not between 0 and 1.
    """

    def __init__(self, gain: Tensor, rate: float):
        super().__init__()
        if not 0 < rate < 1:
            raise ValueError(f"rate {rate} is not between 0 and 1: such a gate could not learn")
        self.weight = nn.Parameter(torch.zeros_like(gain))
        self.bias = nn.Parameter(torch.tensor(math.log(rate / (1 - rate))))
        self.register_buffer("gain", gain.detach().clone())

    def forward(self, states: Tensor) -> Tensor:
        """states [..., width] -> g [...]."""
        return (states @ (self.weight / self.gain) + self.bias).sigmoid()

    @torch.no_grad()
    def read_out(self) -> Gate:
        """The same gate before the sigmoid, which does not change the order of tokens."""
        weight = (self.weight / self.gain).cpu()
        return Gate(weight, self.bias.detach().cpu().clone())


def joint_loss(
    g: Tensor,
    states: Tensor,
    head: Tensor,
    labels: Tensor,
    base_loss: Tensor,
    rate: float,
    holding: float,
) -> Tensor:
    """Sum over n tokens of g * loss of the stage + (1 - g) * loss of the base, in nats [], and
    n * ``holding`` * (mean of g - ``rate``)^2.

    g, base_loss [n], states [n, width] of the stage, head [vocabulary, width], labels int64 [n].
    """
    ours = summed_loss(states, head, labels, importance=g)
    theirs = ((1 - g) * base_loss).sum()
    return ours + theirs + len(g) * holding * (g.mean() - rate).square()
