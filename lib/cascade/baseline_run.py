"""Runs without routing: the base's own last layers fine-tuned or given low-rank matrices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from lib.base.head import head_statistics, summed_loss
from lib.base.pretrained import Base
from lib.cascade.adaptation_text import TextPart, TextPlan, text_parts
from lib.cascade.all_tokens import Answers, scored, template_mask
from lib.cascade.baselines import Tail, states_under, trained_weights
from lib.cascade.dataset import OpenDataset, TokenDataset
from lib.cascade.evaluation import mean_loss
from lib.cascade.work import SequenceWork
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.loop import Fit, Training, train

KINDS = ("tuned", "low-rank", "none")
ADAPTER_FILE = "adapter.safetensors"


@dataclass(frozen=True)
class BaselineRun:
    """``kind``: ``tuned`` trains the last ``layers`` layers, ``low-rank`` about as many weights as
    ``equal_layers`` layers hold, spread over the last ``layers``; ``none`` is the base itself.
    The frozen part below ``under`` layers is run once and kept. ``keep``: the trained weights are
    left in the run's folder."""

    dataset: TokenDataset
    text: TextPlan
    training: Training
    kind: str
    layers: int = 2
    equal_layers: int = 2
    under: int = 6
    keep: bool = False

    def __post_init__(self):
        if self.kind not in KINDS or not self.layers <= self.under:
            raise ValueError(
                f"kind {self.kind!r} over {self.layers} of {self.under} layers; "
                f"allowed: {KINDS}, and no more layers than are kept apart"
            )


@run_function("baseline")
def run_baseline(config: BaselineRun, seed: int, place: Place) -> Outcome:
    """Train one baseline and score it on all tokens of valid, test and, if there, WikiText-2."""
    data = config.dataset.open(place.device)
    base = data.base
    parts = text_parts(data, config.text)
    fit, weights = None, 0
    if config.kind == "none":
        losses = {part: text.features.scalars["loss"] for part, text in parts.items()}
    else:
        losses, fit, weights = _train(config, data, parts, seed, place)
    answers = {
        part: Answers(text.features, losses[part], template_mask(text.features, base.tokenizer))
        for part, text in parts.items()
        if part != "train"
    }
    masks = {
        part: torch.full((parts[part].features.tokens,), config.kind != "none") for part in answers
    }
    row = scored(data, answers, masks) | {
        "params": weights or base.parameters,
        "best_epoch": fit.best_epoch if fit else None,
        "flops": 1.0,
        "start_val_ppl": fit.curve[0]["val_ppl"] if fit else None,
        "last_val_ppl": fit.curve[-1]["val_ppl"] if fit else None,
    }
    return Outcome(row, {"curve": fit.curve} if fit else {})


def adapted_tail(
    config: BaselineRun, data: OpenDataset, seed: int, kept: Place
) -> tuple[Tail, str]:
    """The trained last layers of a finished run that kept its weights, and the SHA-256 of base and
    run together. Raises ``ValueError`` if the run had another base or other weights."""
    weights, about = load_tensors(kept.folder / ADAPTER_FILE)
    if about["base_sha256"] != data.base.sha256:
        raise ValueError(f"the weights in {kept.folder.name} were trained on another base")
    tail = _tail(config, data.base, seed)
    if weights.keys() != {name for name, p in tail.named_parameters() if p.requires_grad}:
        raise ValueError(f"the weights in {kept.folder.name} are not those of this adaptation")
    # the frozen ones are the base's
    tail.load_state_dict(weights, strict=False)
    digest = hashlib.sha256(f"{data.base.sha256} {kept.folder.name}".encode())
    return tail.requires_grad_(False).to(kept.device), digest.hexdigest()


def _tail(config: BaselineRun, base: Base, seed: int) -> Tail:
    """The last layers of the base, untrained, with what is to be trained."""
    tail = Tail(base, config.under)
    if config.kind == "tuned":
        return tail.tune(config.layers)
    one_layer = trained_weights(Tail(base, 1).tune())
    return tail.low_rank(config.equal_layers * one_layer, config.layers, seed)


def _train(
    config: BaselineRun, data: OpenDataset, parts: dict[str, TextPart], seed: int, place: Place
) -> tuple[dict[str, torch.Tensor], Fit, int]:
    base, tail = data.base, _tail(config, data.base, seed).to(place.device)
    head = base.model.lm_head.weight
    states = {name: states_under(base, part.windows, config.under) for name, part in parts.items()}

    @torch.no_grad()
    def losses_of(part: str, windows: int) -> torch.Tensor:
        labels = parts[part].windows.labels[:windows]
        found = []
        for x, y in zip(states[part][:windows].split(8), labels.split(8), strict=True):
            out = tail(x.to(place.device)).flatten(0, 1)
            found.append(head_statistics(out, head, y.flatten().to(place.device))["loss"].cpu())
        return torch.cat(found)

    labels = parts["train"].windows.labels

    def loss_of(rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        out = tail(states["train"][rows].to(place.device)).flatten(0, 1)
        truth = labels[rows].flatten().to(place.device)
        return summed_loss(out, head, truth), truth.numel()

    def valid() -> dict[str, Any]:
        return {"valid_loss": mean_loss(losses_of("valid", config.text.look))}

    work = SequenceWork(tail, len(labels), config.training.batch_size, seed, loss_of, valid)
    fit = train(
        work,
        config.training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.dataset.sha256}",
    )
    if config.keep:
        weights = {name: p for name, p in tail.named_parameters() if p.requires_grad}
        save_tensors(place.folder / ADAPTER_FILE, weights, {"base_sha256": base.sha256})
    found = {part: losses_of(part, len(states[part])) for part in parts if part != "train"}
    return found, fit, trained_weights(tail)
