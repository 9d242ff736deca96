"""A gate that sees more than the base's last state.

A ridge read-out like ``gate``, of the final state and seven further numbers: what the head says
(entropy, confidence, margin), how much the state still changes over the layers (the reports' three
cosines), and how often the token itself stands in the training text. These are standardised on the
text that the gate is fitted on. What the head says must be computed before the gate can choose, so
a deferred token pays the head twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib.cascade.features import COSINES, TokenFeatures
from lib.cascade.gate import Gate, best_gate

FREQUENCY = "log_frequency"
SEEN = ("entropy", "confidence", "margin", *COSINES, FREQUENCY)


def with_frequency(
    features: TokenFeatures, text: TokenFeatures, vocabulary: int, inside: bool = False
) -> TokenFeatures:
    """The same tokens with one more scalar, ``log_frequency`` [N]: the logarithm of the share of a
    token in the ids of the training ``text``, one added to every count.

    ``inside``: the tokens are part of that text; then none counts itself, or a token that stands
    there once would be told from one that never does.
    """
    counts = torch.bincount(text.ids, minlength=vocabulary)[features.ids] - int(inside)
    share = (counts + 1).float() / (text.tokens + vocabulary)
    return replace(features, scalars={**features.scalars, FREQUENCY: share.log()})


@dataclass(frozen=True)
class WideGate:
    """``mean`` and ``deviation`` float32 [7] of the numbers in ``SEEN``, and the read-out."""

    gate: Gate
    mean: Tensor
    deviation: Tensor

    def __call__(self, features: TokenFeatures) -> Tensor:
        """Predicted gain in nats of every token, float32 [N]."""
        return self.gate(_joined(features, self.mean, self.deviation))


def best_wide_gate(
    train: tuple[TokenFeatures, Tensor], valid: tuple[TokenFeatures, Tensor], rate: float
) -> WideGate:
    """The wide gate whose highest ``rate`` of the validation tokens gains most there.

    ``train`` and ``valid``: (features with their log frequency, gain [N] in nats); the penalty is
    chosen as in ``best_gate``. Raises KeyError without a log frequency, and Diverged for values
    that are no numbers.
    """
    seen = _seen(train[0])
    deviation = seen.std(dim=0)
    scale = seen.mean(dim=0), torch.where(deviation > 0, deviation, 1.0)
    gate = best_gate(
        (_joined(train[0], *scale), train[1]), (_joined(valid[0], *scale), valid[1]), rate
    )
    return WideGate(gate, *scale)


def _seen(features: TokenFeatures) -> Tensor:
    return torch.stack([features.scalars[name] for name in SEEN], dim=1)


def _joined(features: TokenFeatures, mean: Tensor, deviation: Tensor) -> Tensor:
    """Final state and standardised numbers, float32 [N, width + 7]."""
    return torch.cat([features.final, (_seen(features) - mean) / deviation], dim=1)
