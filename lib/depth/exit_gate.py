"""A learned gate at every exit: ridge regression from the state there to what more depth gains.

The target is the loss at the exit minus the loss after the last layer, the input the state after
the last norm. Fitted on text that neither training nor the thresholds see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.runs.task import finite

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # times the number of tokens
HELD = 5  # every fifth token chooses the penalty


@dataclass(frozen=True)
class ExitGate:
    """Weights [exits, d] and biases [exits]; the score is minus the expected gain."""

    weight: Tensor
    bias: Tensor

    def score(self, index: int, read: Tensor) -> Tensor:
        """read [..., d] -> [...]."""
        return -(read @ self.weight[index] + self.bias[index])


def fit(reads: list[Tensor], gains: list[Tensor]) -> ExitGate:
    """reads [N, d] and gains [N] of every exit. Raises Diverged for values that are no numbers."""
    finite("what the gates are fitted on", *reads, *gains)
    found = [_ridge(x.double(), y.double()) for x, y in zip(reads, gains, strict=True)]
    return ExitGate(
        torch.stack([weight for weight, _ in found]).float(),
        torch.stack([bias for _, bias in found]).float(),
    )


def _ridge(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    held = torch.arange(len(x), device=x.device) % HELD == 0
    errors = []
    for penalty in PENALTIES:
        weight, bias = _solve(x[~held], y[~held], penalty)
        errors.append((x[held] @ weight + bias - y[held]).square().mean().item())
    return _solve(x, y, PENALTIES[errors.index(min(errors))])


def _solve(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    middle, level = x.mean(0), y.mean()
    a = x - middle
    scatter = a.T @ a + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(scatter, a.T @ (y - level))
    return weight, level - middle @ weight
