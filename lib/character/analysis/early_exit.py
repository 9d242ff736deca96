"""What early exit costs and saves, from what two layers say about every symbol.

All functions work on ``Readings``: flat arrays over symbols, so that no model is run twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Readings:
    """Per symbol (N,): what the shared head reads after one layer.

    ``loss`` in nats, ``confidence`` the largest probability, ``prediction`` its symbol.
    """

    loss: np.ndarray
    confidence: np.ndarray
    prediction: np.ndarray
    correct: np.ndarray

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor) -> "Readings":
        """From logits (N, V) and targets (N,)."""
        top = logits.softmax(-1).max(-1)
        return cls(
            F.cross_entropy(logits, targets, reduction="none").double().numpy(),
            top.values.numpy(),
            top.indices.numpy(),
            (top.indices == targets).numpy(),
        )

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss.mean()))


def at_threshold(shallow: Readings, deep: Readings, threshold: float, depth: float) -> dict:
    """One row of an exit table; ``depth`` is the exit layer's share of all layers.

    ``agree_correct_pct`` is the report's agreement among exiting symbols: both right or both wrong.
    ``agree_pct`` is agreement proper: the same predicted symbol. ``random_*`` is what the same
    share of exits costs when the exiting symbols are drawn at random (the expectation, exactly).
    Cells about exiting symbols are None when none exits.
    """
    exits = shallow.confidence >= threshold
    share = float(exits.mean())
    loss = np.where(exits, shallow.loss, deep.loss).mean()
    correct = np.where(exits, shallow.correct, deep.correct).mean()
    random_loss = share * shallow.loss.mean() + (1 - share) * deep.loss.mean()
    random_correct = share * shallow.correct.mean() + (1 - share) * deep.correct.mean()
    return {
        "threshold": threshold,
        "exit_pct": 100 * share,
        "compute_pct": 100 * compute(share, depth),
        "ppl": float(np.exp(loss)),
        "acc_pct": 100 * float(correct),
        "random_ppl": float(np.exp(random_loss)),
        "random_acc_pct": 100 * float(random_correct),
        "exit_shallow_acc_pct": _percent(shallow.correct[exits]),
        "exit_deep_acc_pct": _percent(deep.correct[exits]),
        "agree_correct_pct": _percent((shallow.correct == deep.correct)[exits]),
        "agree_pct": _percent((shallow.prediction == deep.prediction)[exits]),
    }


def compute(share: float, depth: float) -> float:
    """Share of the full model's block compute when ``share`` of the symbols exit at ``depth``.

    The formula of R4. It leaves out heads, the router, and the keys and values that an exited
    symbol owes to later ones in the layers that it skips.
    """
    return share * depth + (1 - share)


def best_threshold(shallow: Readings, deep: Readings, thresholds: Iterable[float]) -> float:
    """The first threshold of highest accuracy: the report's rule; use it on a split of its own."""
    accuracies = [
        (np.where(shallow.confidence >= t, shallow.correct, deep.correct).mean(), -i, t)
        for i, t in enumerate(thresholds)
    ]
    return max(accuracies)[2]


def _percent(values: np.ndarray) -> float | None:
    return 100 * float(values.mean()) if len(values) else None
