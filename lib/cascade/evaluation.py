"""Perplexity and accuracy on all, easy and hard tokens, with the split fixed by the base.

A stage's own perplexity is of the tokens that reached it, and those of another stage, threshold or
criterion are other tokens: two such numbers do not compare. What compares is the loss over **all**
tokens when each is answered by the model at which it stops.

``*_inner_*`` leaves out the end-of-sequence tokens, whose label is the first token of an unrelated
record: no model can know it, and every stage learns that it is the template's first word.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lib.base.head import head_statistics
from lib.base.pretrained import Base
from lib.cascade.difficulty import is_hard
from lib.cascade.features import TokenFeatures, window_features
from lib.cascade.packing import Packs, arrange_all
from lib.cascade.stage import StageModel

BATCH_TOKENS = 2048  # of a forward pass


def mean_loss(loss: Tensor) -> float:
    """Mean of token losses in nats. Raises ``FloatingPointError`` where it is no number."""
    mean = loss.double().mean().item()
    if not math.isfinite(mean):
        raise FloatingPointError(f"the mean loss of {loss.numel()} tokens is {mean}")
    return mean


def perplexity(loss: Tensor) -> float | None:
    """exp(mean) of token losses in nats; None for no token; at most 1e300, so that it is finite.

    Raises ``FloatingPointError`` for a loss that is not: a failed model has no perplexity.
    """
    return math.exp(min(mean_loss(loss), 690.0)) if loss.numel() else None


def share(hits: Tensor) -> float | None:
    """Mean of hits (0 or 1) [n]; None for no token."""
    return hits.float().mean().item() if hits.numel() else None


def hard_mask(features: TokenFeatures, criterion: str, threshold: float) -> Tensor:
    """bool [N]: the tokens that the base defers."""
    return is_hard(features.scalars[criterion], threshold, criterion)


def boundary_mask(features: TokenFeatures, eos: int) -> Tensor:
    """bool [N]: tokens that end a record, whose label is the first token of an unrelated one."""
    return features.ids == eos


@torch.no_grad()
def stage_outputs(stage: StageModel, inputs: Tensor, packs: list[Packs]) -> tuple[Tensor, Tensor]:
    """What the stage makes of the counted tokens of ``packs``: positions int64 [n], ascending, and
    outputs [n, width], both on the CPU. inputs [N, width]."""
    stage.eval()
    device = next(stage.parameters()).device
    positions, outputs = [], []
    for pack in packs:
        size = max(1, BATCH_TOKENS // pack.index.shape[1])
        for start in range(0, len(pack), size):
            index, counted = (t[start : start + size] for t in (pack.index, pack.counted))
            outputs.append(stage(inputs[index].to(device)).cpu()[counted])
            positions.append(index[counted])
    if not positions:
        return torch.zeros(0, dtype=torch.long), inputs[:0]
    position, order = torch.cat(positions).sort()
    return position, torch.cat(outputs)[order]


@torch.no_grad()
def stage_scores(
    stage: StageModel,
    inputs: Tensor,
    labels: Tensor,
    packs: list[Packs],
    base_head: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """What the stage says of the counted tokens of ``packs``, by stream position.

    Returns the statistics of ``head_statistics`` for the counted tokens in ascending order of
    position, with ``position`` int64 [n] itself, and the stage's outputs [n, width].
    """
    position, output = stage_outputs(stage, inputs, packs)
    weight = stage.head_weight(base_head)
    found = head_statistics(output.to(weight.device), weight, labels[position].to(weight.device))
    scores = {name: values.cpu() for name, values in found.items()}
    return {**scores, "position": position}, output


def score_deferred(
    stage: StageModel,
    features: TokenFeatures,
    mask: Tensor,
    arrangement: str,
    eos: int,
    base_head: Tensor | None,
) -> dict[str, float | None]:
    """Stage against base on the tokens of ``mask``, and the cascade of both on all tokens.

    ``base_*`` is one pass of the base. ``loss`` is the stage's mean loss (nats).
    """
    chosen = mask.nonzero()[:, 0]
    pieces = arrange_all(chosen, arrangement, features.tokens, features.length)
    scores, _ = stage_scores(stage, features.final, features.labels, pieces, base_head)
    ours, theirs = scores["loss"], features.scalars["loss"]
    inner = ~boundary_mask(features, eos)
    answered, correct = theirs.clone(), features.scalars["correct"].clone()
    answered[chosen], correct[chosen] = ours, scores["correct"]
    return {
        "hard_tokens": len(chosen),
        "loss": mean_loss(ours),
        "ppl": perplexity(ours),
        "inner_ppl": perplexity(ours[inner[chosen]]),
        "accuracy": share(scores["correct"]),
        "base_ppl": perplexity(theirs[chosen]),
        "base_inner_ppl": perplexity(theirs[mask & inner]),
        "base_easy_ppl": perplexity(theirs[~mask]),
        "base_all_ppl": perplexity(theirs),
        "base_all_inner_ppl": perplexity(theirs[inner]),
        "base_all_accuracy": features.scalars["correct"].mean().item(),
        "cascade_all_ppl": perplexity(answered),
        "cascade_all_inner_ppl": perplexity(answered[inner]),
        "cascade_all_accuracy": correct.mean().item(),
    }


def natural_perplexity(
    stage: StageModel, features: TokenFeatures, windows: int, base_head: Tensor | None
) -> float:
    """The stage's perplexity on *all* tokens of the first windows in their natural order: what R2
    compared with the base's figure on hard tokens."""
    index = torch.arange(windows * features.length).view(windows, features.length)
    packs = [Packs.whole(index)]
    scores, _ = stage_scores(stage, features.final, features.labels, packs, base_head)
    return perplexity(scores["loss"])


def applied_twice(base: Base, features: TokenFeatures, packs: list[Packs]) -> dict[str, Tensor]:
    """The base over its own final states as input embeddings (the slip of R2).

    Returns ``loss``, ``correct`` and ``last_two_layers`` of the second pass, in order of position.
    """
    wanted, device = ("loss", "correct", "last_two_layers"), base.model.device
    found, positions = [], []
    for pack in packs:
        for index in pack.index.split(8):
            states, labels = features.final[index].to(device), features.labels[index].to(device)
            part = window_features(_Embedded(base), states, labels)
            found.append(torch.stack([part[name] for name in wanted]).cpu())
            positions.append(index.flatten())
    order = torch.cat(positions).argsort()
    return dict(zip(wanted, torch.cat(found, 1)[:, order], strict=True))


class _Embedded:
    """A base whose ``input_ids`` are taken as embeddings; looks like a ``Base`` from outside."""

    def __init__(self, base: Base):
        self.model, self.lm_head = self, base.model.lm_head
        self.inner = base.model.model

    def __call__(self, input_ids: Tensor, **settings):
        return self.inner(inputs_embeds=input_ids, **settings)
