"""Runs without routing: the base's own last layers fine-tuned or given low-rank matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lib.cascade.adaptation import Adaptation, adapt
from lib.cascade.adaptation_text import TextPart, TextPlan, text_parts
from lib.cascade.all_tokens import Answers, template_mask
from lib.cascade.evaluation import perplexity
from lib.cascade.ladder_run import scored
from lib.cascade.linear_cross_entropy import head_statistics, summed_loss
from lib.cascade.material import Material, MaterialHandle
from lib.cascade.rivals import Tail, states_under, trained_weights
from lib.runs.task import Outcome

KINDS = ("tuned", "low-rank", "none")


@dataclass(frozen=True)
class RivalRun:
    """``kind``: ``tuned`` trains the last ``layers`` layers, ``low-rank`` about as many weights as
    ``equal_layers`` layers hold, spread over the last ``layers``; ``none`` is the base itself.
    The frozen part below ``under`` layers is run once and kept."""

    material: MaterialHandle
    text: TextPlan
    training: Adaptation
    kind: str
    layers: int = 2
    equal_layers: int = 2
    under: int = 6

    def __post_init__(self):
        if self.kind not in KINDS or not self.layers <= self.under:
            raise ValueError(
                f"kind {self.kind!r} over {self.layers} of {self.under} layers; "
                f"allowed: {KINDS}, and no more layers than are kept apart"
            )


def run(config: RivalRun, seed: int, folder: Path) -> Outcome:
    """Train one rival and score it on all tokens of valid, test and, if there, WikiText-2."""
    material = config.material.open()
    base = material.base
    parts = text_parts(material, config.text)
    if config.kind == "none":
        losses, curve, weights = {p: t.features.scalars["loss"] for p, t in parts.items()}, [], 0
    else:
        losses, curve, weights = _train(config, material, parts, seed)
    answers = {
        part: Answers(text.features, losses[part], template_mask(text.features, base.tokenizer))
        for part, text in parts.items()
        if part != "train"
    }
    masks = {
        part: torch.full((parts[part].features.tokens,), config.kind != "none") for part in answers
    }
    row = scored(material, answers, masks) | {
        "params": weights or base.parameters,
        "flops": 1.0,
        "start_val_ppl": curve[0]["val_ppl"] if curve else None,
        "last_val_ppl": curve[-1]["val_ppl"] if curve else None,
    }
    return Outcome(row, {"curve": curve} if curve else {})


def _train(config: RivalRun, material: Material, parts: dict[str, TextPart], seed: int):
    base = material.base
    tail = Tail(base, config.under)
    one_layer = trained_weights(Tail(base, 1).tune())
    if config.kind == "tuned":
        tail.tune(config.layers)
    else:
        tail.low_rank(config.equal_layers * one_layer, config.layers, seed)
    head = base.model.lm_head.weight
    states = {name: states_under(base, part.windows, config.under) for name, part in parts.items()}

    @torch.no_grad()
    def losses_of(part: str, windows: int) -> torch.Tensor:
        labels = parts[part].windows.labels[:windows]
        return torch.cat(
            [
                head_statistics(tail(x).flatten(0, 1), head, y.flatten())["loss"]
                for x, y in zip(states[part][:windows].split(8), labels.split(8), strict=True)
            ]
        )

    labels = parts["train"].windows.labels

    def loss_of(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        out = tail(states["train"][rows]).flatten(0, 1)
        return summed_loss(out, head, labels[rows].flatten()), labels[rows].numel()

    curve = adapt(
        tail.parameters(),
        loss_of,
        len(labels),
        config.training,
        seed,
        lambda: perplexity(losses_of("valid", config.text.look)),
    )
    found = {part: losses_of(part, len(states[part])) for part in parts if part != "train"}
    return found, curve, trained_weights(tail)
