"""Perplexity and accuracy on all, easy and hard tokens, with the split fixed by the base.

A stage's own perplexity is of the tokens that reached it, and those of another stage, threshold or
criterion are other tokens: two such numbers do not compare. What compares is the loss over **all**
tokens when each is answered by the model at which it stops.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.cascade.difficulty import is_hard
from lib.cascade.features import Features, window_features
from lib.cascade.packing import Packs, arrange_all
from lib.cascade.stage import Stage
from lib.cascade.training import stage_scores
from lib.base.pretrained import Base


def perplexity(loss: Tensor) -> float | None:
    """exp(mean) of token losses in nats; None for no token; at most 1e300, so that it is finite.

    Raises ``FloatingPointError`` for a loss that is not: a failed model has no perplexity.
    """
    if loss.numel() == 0:
        return None
    mean = loss.double().mean().item()
    if not math.isfinite(mean):
        raise FloatingPointError(f"the mean loss of {loss.numel()} tokens is {mean}")
    return math.exp(min(mean, 690.0))


def share(hits: Tensor) -> float | None:
    """Mean of hits (0 or 1) [n]; None for no token."""
    return hits.float().mean().item() if hits.numel() else None


def hard_mask(features: Features, criterion: str, threshold: float) -> Tensor:
    """bool [N]: the tokens that the base hands on."""
    return is_hard(features.scalars[criterion], threshold, criterion)


def boundary_mask(features: Features, eos: int) -> Tensor:
    """bool [N]: tokens that end a record, whose label is the first token of an unrelated one."""
    return features.ids == eos


def score_handed_on(
    stage: Stage,
    features: Features,
    mask: Tensor,
    arrangement: str,
    eos: int,
    base_head: Tensor | None = None,
) -> dict[str, float | None]:
    """Stage against base on the tokens of ``mask``, and the cascade of both on all tokens.

    ``*_inner_ppl`` leaves out the ends of records. ``base_*`` is one pass of the base.
    """
    chosen = mask.nonzero()[:, 0]
    pieces = arrange_all(chosen, arrangement, features.tokens, features.length)
    scores, _ = stage_scores(stage, features.final, features.labels, pieces, base_head)
    ours, theirs = scores["loss"], features.scalars["loss"][chosen]
    inner = ~boundary_mask(features, eos)[chosen]
    answered, correct = features.scalars["loss"].clone(), features.scalars["correct"].clone()
    answered[chosen], correct[chosen] = ours, scores["correct"]
    return {
        "hard_tokens": len(chosen),
        "ppl": perplexity(ours),
        "inner_ppl": perplexity(ours[inner]),
        "accuracy": share(scores["correct"]),
        "base_ppl": perplexity(theirs),
        "base_inner_ppl": perplexity(theirs[inner]),
        "base_easy_ppl": perplexity(features.scalars["loss"][~mask]),
        "base_all_ppl": perplexity(features.scalars["loss"]),
        "base_all_accuracy": features.scalars["correct"].mean().item(),
        "cascade_all_ppl": perplexity(answered),
        "cascade_all_accuracy": correct.mean().item(),
    }


def natural_perplexity(
    stage: Stage, features: Features, windows: int, base_head: Tensor | None = None
) -> float:
    """The stage's perplexity on *all* tokens of the first windows in their natural order: what
    seed 002 compared with the base's figure on hard tokens."""
    index = torch.arange(windows * features.length).view(windows, features.length)
    packs = Packs(index, torch.ones_like(index, dtype=torch.bool))
    scores, _ = stage_scores(stage, features.final, features.labels, [packs], base_head)
    return perplexity(scores["loss"])


def applied_twice(
    base: Base, features: Features, packs: list[Packs], batch: int = 8
) -> dict[str, Tensor]:
    """The base over its own final states as input embeddings (the slip of seed 002).

    Returns ``loss``, ``correct`` and ``last_two_layers`` of the second pass, in order of position.
    """
    found, positions = [], []
    for pack in packs:
        for start in range(0, len(pack), batch):
            index = pack.index[start : start + batch]
            part = window_features(_Embedded(base), features.final[index], features.labels[index])
            found.append(torch.stack([part[n] for n in ("loss", "correct", "last_two_layers")]))
            positions.append(index.flatten())
    order = torch.cat(positions).argsort()
    return dict(
        zip(("loss", "correct", "last_two_layers"), torch.cat(found, 1)[:, order], strict=True)
    )


class _Embedded:
    """A base whose ``input_ids`` are taken as embeddings; looks like a ``Base`` from outside."""

    def __init__(self, base: Base):
        self.model, self.lm_head = self, base.model.lm_head
        self.inner = base.model.model

    def __call__(self, input_ids: Tensor, **settings):
        return self.inner(inputs_embeds=input_ids, **settings)
