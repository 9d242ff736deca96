"""How hard a token is for a model, and which tokens are therefore deferred.

Every criterion is one number per token, computed without its label except ``loss``, which is the
control that sees the truth. Criteria of the reports are cosines between hidden states h0
(embedding), h1 ... h_{n-1} (layer outputs) and h_n (final norm of the last layer):

* ``last_two_layers``  ½[cos(h_{n-3}, h_{n-2}) + cos(h_{n-2}, h_{n-1})]   R2 (28 and 29 of 30)
* ``last_layer``       cos(h_{n-2}, h_{n-1})                              R0 (layer 29)
* ``embedding_to_final`` cos(h_0, h_n)                                    R1
* ``input_to_output``  cos(stage input, stage output)                     R1, stage 2 onwards
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

COSINES = ("last_two_layers", "last_layer", "embedding_to_final", "input_to_output")
HEAD_CRITERIA = ("confidence", "entropy", "margin", "loss")
CRITERIA = COSINES + HEAD_CRITERIA
# On which side of the threshold the hard tokens lie.
HARD_IS_HIGH = {"entropy", "loss"}


def hidden_cosine(hidden: Sequence[Tensor], criterion: str) -> Tensor:
    """Cosine criterion from all hidden states h0 ... hn, each [..., width]; result [...].

    Raises ``ValueError`` for another criterion or a model of fewer than four layers.
    """
    if len(hidden) < 5:
        raise ValueError(f"{len(hidden) - 1} layers are too few; the cosine rules need 4")
    if criterion == "last_two_layers":
        return (
            cosine_similarity(hidden[-4], hidden[-3], dim=-1)
            + cosine_similarity(hidden[-3], hidden[-2], dim=-1)
        ) / 2
    if criterion == "last_layer":
        return cosine_similarity(hidden[-3], hidden[-2], dim=-1)
    if criterion == "embedding_to_final":
        return cosine_similarity(hidden[0], hidden[-1], dim=-1)
    raise ValueError(f"{criterion!r} is no cosine of a base model; allowed: {COSINES[:3]}")


def threshold_for(values: Tensor, hard_ratio: float, criterion: str) -> float:
    """Threshold that makes a share ``hard_ratio`` of ``values`` hard. What is served has that of
    train; a quantile of held-out values fixes a share to be scored, and nothing else.

    Raises ``ValueError`` for a ratio outside 0..1 or an unknown criterion. Ratio 0 and 1 give
    infinities, so that exactly nothing or everything is hard on any data.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion!r} is not known; allowed: {CRITERIA}")
    if not 0 <= hard_ratio <= 1:
        raise ValueError(f"hard_ratio {hard_ratio} is not between 0 and 1")
    high = criterion in HARD_IS_HIGH
    if hard_ratio in (0, 1):
        everything = hard_ratio == 1
        return float("-inf") if everything == high else float("inf")
    # torch.quantile refuses more than 16 million values; sorting has no such limit.
    ordered = values.flatten().double().sort(descending=high).values
    return ordered[min(len(ordered) - 1, round(hard_ratio * len(ordered)))].item()


def is_hard(values: Tensor, threshold: float, criterion: str) -> Tensor:
    """True where the token goes on: strictly below the threshold (above it for entropy, loss)."""
    if criterion not in CRITERIA:
        raise ValueError(f"criterion {criterion!r} is not known; allowed: {CRITERIA}")
    return values > threshold if criterion in HARD_IS_HIGH else values < threshold


def head_criterion(logits: Tensor, criterion: str) -> Tensor:
    """confidence, entropy (nats) or margin of logits [..., vocabulary]; result [...]."""
    log_p = torch.log_softmax(logits.float(), dim=-1)
    if criterion == "confidence":
        return log_p.amax(dim=-1).exp()
    if criterion == "entropy":
        return -(log_p.exp() * log_p).sum(dim=-1)
    if criterion == "margin":
        top = log_p.topk(2, dim=-1).values.exp()
        return top[..., 0] - top[..., 1]
    raise ValueError(
        f"{criterion!r} needs no logits or needs the label; allowed: {HEAD_CRITERIA[:3]}"
    )
