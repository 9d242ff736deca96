"""Runs without routing: the base's own last layers fine-tuned or given low-rank matrices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lib.cascade.adaptation import Adaptation, adapt
from lib.cascade.all_tokens import Answers, head_of, template_mask
from lib.cascade.evaluation import perplexity
from lib.cascade.features import Features
from lib.cascade.ladder_run import scored
from lib.cascade.linear_cross_entropy import head_statistics, summed_loss
from lib.cascade.material import MaterialHandle
from lib.cascade.rivals import Tail, states_under, trained_weights
from lib.text.token_stream import TokenWindows
from lib.training.outcome import Outcome

KINDS = ("tuned", "low-rank", "none")


@dataclass(frozen=True)
class RivalRun:
    """``kind``: ``tuned`` trains the last ``layers`` layers, ``low-rank`` about as many weights as
    ``equal_layers`` layers hold, spread over the last ``layers``; ``none`` is the base itself.
    The frozen part below ``under`` layers is run once and kept."""

    material: MaterialHandle
    training: Adaptation
    kind: str
    layers: int = 2
    equal_layers: int = 2
    under: int = 6
    text_windows: int = 192
    scored_windows: int = 64
    look_windows: int = 16

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
    counts = {"train": config.text_windows, "test": config.scored_windows}
    rest = 2 * config.look_windows
    features = {part: head_of(f, counts.get(part, rest)) for part, f in material.features.items()}
    if config.kind == "none":
        losses, curve, weights = {p: f.scalars["loss"] for p, f in features.items()}, [], 0
    else:
        losses, curve, weights = _train(config, material, features, seed)
    answers = {
        part: Answers(features[part], losses[part], template_mask(features[part], base.tokenizer))
        for part in features
        if part != "train"
    }
    masks = {part: torch.full((features[part].tokens,), config.kind != "none") for part in answers}
    row = scored(material, answers, masks) | {
        "params": weights or base.parameters,
        "flops": 1.0,
        "start_val_ppl": curve[0]["val_ppl"] if curve else None,
        "last_val_ppl": curve[-1]["val_ppl"] if curve else None,
    }
    return Outcome(row, {"curve": curve} if curve else {})


def _train(config: RivalRun, material, features: dict[str, Features], seed: int):
    base = material.base
    tail = Tail(base, config.under)
    one_layer = trained_weights(Tail(base, 1).tune())
    if config.kind == "tuned":
        tail.tune(config.layers)
    else:
        tail.low_rank(config.equal_layers * one_layer, config.layers, seed)
    head = base.model.lm_head.weight
    states = {}
    for part, f in features.items():
        count = f.tokens // f.length
        windows = material.windows[part]
        states[part] = states_under(
            base, TokenWindows(windows.inputs[:count], windows.labels[:count], part), config.under
        )

    @torch.no_grad()
    def losses_of(part: str, windows: int) -> torch.Tensor:
        labels = features[part].labels.view(-1, features[part].length)[:windows]
        return torch.cat(
            [
                head_statistics(tail(x).flatten(0, 1), head, y.flatten())["loss"]
                for x, y in zip(states[part][:windows].split(8), labels.split(8), strict=True)
            ]
        )

    labels = features["train"].labels.view(-1, features["train"].length)

    def loss_of(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        out = tail(states["train"][rows]).flatten(0, 1)
        return summed_loss(out, head, labels[rows].flatten()), labels[rows].numel()

    curve = adapt(
        tail.parameters(),
        loss_of,
        len(labels),
        config.training,
        seed,
        lambda: perplexity(losses_of("valid", config.look_windows)),
    )
    found = {part: losses_of(part, len(states[part])) for part in features if part != "train"}
    return found, curve, trained_weights(tail)
