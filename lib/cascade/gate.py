"""A small learned gate: one linear read-out of the base's state that predicts what a stage gains.

Confidence and entropy know where the base is unsure. They cannot know where it is sure and wrong,
which is where adapting helps most. The gate is fitted by ridge regression on the loss that a
trained stage saved on training tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.runs.task import finite

PENALTIES = (1.0, 100.0, 10_000.0)


@dataclass(frozen=True)
class Gate:
    """``weight`` float32 [width], ``bias`` []: predicted gain in nats = states @ weight + bias."""

    weight: Tensor
    bias: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """states [..., width] -> predicted gain [...]."""
        return states @ self.weight + self.bias


def fit_gate(states: Tensor, gain: Tensor, penalty: float) -> Gate:
    """Ridge regression of ``gain`` [N] (nats) on ``states`` [N, width]; the bias is not penalised.

    Raises ``ValueError`` for a penalty that is not positive.
    """
    if penalty <= 0:
        raise ValueError(f"penalty {penalty} is not positive")
    x, y = states.double(), gain.double()
    centre, mean = x.mean(dim=0), y.mean()
    x = x - centre
    square = x.t() @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(square, x.t() @ (y - mean))
    return Gate(weight.float(), (mean - centre @ weight).float())


def best_gate(train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor], rate: float) -> Gate:
    """The gate whose highest ``rate`` of the validation tokens gains most there.

    ``train`` and ``valid``: (states [N, width], gain [N]); the penalty is one of ``PENALTIES``.
    Raises Diverged for values that are no numbers.
    """
    finite("what the gate is fitted on", *train, *valid)
    states, gain = valid
    count = max(1, round(rate * len(gain)))
    gates = [fit_gate(*train, penalty) for penalty in PENALTIES]
    return max(gates, key=lambda gate: gain[gate(states).topk(count).indices].sum().item())
