"""Learned gates: who goes through a stage, read off what the base knows of a token.

``Gate``: one linear read-out of the base's state, fitted by ridge regression on the loss that a
trained stage saved on training tokens. Confidence and entropy know where the base is unsure. They
cannot know where it is sure and wrong, which is where adapting helps most.

``WideGate``: the same of the state and seven further numbers: what the head says (entropy,
confidence, margin), how much the state still changes over the layers (the reports' three cosines),
and how often the token stands in the training text. These are standardised on the text that the
gate is fitted on. What the head says must be computed before the gate can choose, so a deferred
token pays the head twice.

``JointGate``: trained together with its stage. Every token is answered by both, the stage with the
weight g that the gate gives it, so that the stage learns most where it is used and the gate sees
what the stage gains there. Nothing but the mean of g is held, at the share that is to be routed.
Afterwards g orders the tokens like any other rule, with a threshold. The objective is that of a
mixture of experts whose second expert is frozen (Jacobs et al. 1991), with a share for the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lib.base.head import summed_loss
from lib.cascade.features import COSINES, TokenFeatures
from lib.runs.task import finite

PENALTIES = (1.0, 100.0, 10_000.0)
FREQUENCY = "log_frequency"
SEEN = ("entropy", "confidence", "margin", *COSINES, FREQUENCY)


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
