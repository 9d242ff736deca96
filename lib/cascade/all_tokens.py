"""Loss on all tokens when some of them are answered by a stage, and how it moves with the rule.

One answer a token for base and stage is all that is needed: which tokens are routed is a mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib.cascade.dataset import OpenDataset
from lib.cascade.difficulty import CRITERIA, is_hard, threshold_for
from lib.cascade.evaluation import perplexity
from lib.cascade.features import TokenFeatures

MARKER = "###"  # begins every section title of the instruction template
TITLE = 3  # tokens of a title after its marker: name, colon, line break
RULES = ("entropy", "confidence", "margin", "last_two_layers", "gate", "oracle")
GATES = ("gate", "wide_gate", "joint_gate")

Values = Callable[[TokenFeatures], Tensor]  # what a rule orders tokens by, float32 [N]


@dataclass(frozen=True)
class Answers:
    """Losses in nats, float32 [N], of base and stage on the same N tokens. ``features`` are those
    tokens' own; ``template`` bool [N]: labels that belong to the template's section titles."""

    features: TokenFeatures
    stage: Tensor
    template: Tensor

    def perplexities(self, mask: Tensor) -> dict[str, float | None]:
        """Perplexity of all tokens and of those outside the template, stage answering ``mask``."""
        loss = torch.where(mask, self.stage, self.features.scalars["loss"])
        return {"ppl": perplexity(loss), "content_ppl": perplexity(loss[~self.template])}


def scored(data: OpenDataset, answers: dict[str, Answers], masks: dict[str, Tensor]) -> dict:
    """The columns that every row of Experiment 19 has: ours and the base's, on all tokens, on those
    outside the template, and on the routed ones. ``masks``: who is routed, by part."""
    row = {**data.identity(), "rate": masks["test"].float().mean().item()}
    for part, found in answers.items():
        ours = masks[part]
        alone, own = found.perplexities(torch.zeros_like(ours)), found.perplexities(ours)
        name = "val" if part == "valid" else part
        row |= {
            f"{name}_ppl": own["ppl"],
            f"{name}_content_ppl": own["content_ppl"],
            f"base_{name}_ppl": alone["ppl"],
            f"base_{name}_content_ppl": alone["content_ppl"],
        }
        if part == "test" and ours.any():
            row |= {
                "routed_ppl": perplexity(found.stage[ours]),
                "base_routed_ppl": perplexity(found.features.scalars["loss"][ours]),
            }
    return row


def template_mask(features: TokenFeatures, tokenizer: Any) -> Tensor:
    """bool [N]: tokens whose label lies in a section title ("### Response:" and its line break).

    They follow from the template alone, but a base that never saw it is surprised each time.
    """
    marker = torch.tensor(tokenizer(MARKER, add_special_tokens=False).input_ids)
    found = torch.ones(features.tokens, dtype=torch.bool)
    for offset, part in enumerate(marker):  # found[i]: labels i, i + 1, ... are the marker
        found[: features.tokens - offset] &= features.labels[offset:] == part
        found[features.tokens - offset :] = False
    mask = torch.zeros_like(found)
    for offset in range(len(marker) + TITLE):
        mask[offset:] |= found[: features.tokens - offset]
    return mask


def route_values(
    features: TokenFeatures, rule: str, gates: Mapping[str, Values], gain: Tensor
) -> Tensor:
    """What a rule orders tokens by, higher = routed first, float32 [N].

    ``gates``: those of the rules in ``GATES`` that there are. ``gain`` [N] is what the stage truly
    saves: only ``oracle`` may look at it. Raises ``ValueError`` for a rule that is neither in
    ``RULES`` nor a gate that is there.
    """
    if rule in gates:
        return gates[rule](features)
    if rule not in RULES or rule in GATES:
        raise ValueError(f"rule {rule!r} is not known; allowed: {RULES}, and gates that are given")
    if rule == "oracle":
        return gain
    values = features.scalars[rule]
    return values if rule == "entropy" else -values


def rule_mask(
    features: TokenFeatures, rule: str, rate: float, text: TokenFeatures, seed: int
) -> Tensor:
    """bool [N]: which tokens a rule routes, its threshold set on the training ``text``.

    ``everything`` routes all, ``random`` draws; other rules are criteria of ``difficulty``.
    """
    if rule == "everything":
        return torch.ones(features.tokens, dtype=torch.bool)
    if rule == "random":
        return torch.rand(features.tokens, generator=torch.Generator().manual_seed(seed)) < rate
    if rule not in CRITERIA or rule == "loss":
        raise ValueError(
            f"rule {rule!r} cannot route; allowed: everything, random, or a criterion "
            "that needs no label"
        )
    threshold = threshold_for(text.scalars[rule], rate, rule)
    return is_hard(features.scalars[rule], threshold, rule)
