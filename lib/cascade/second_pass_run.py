"""A second pass of the base's last layers: train it, answer all held-out tokens, count the cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.head import head_statistics, summed_loss
from lib.cascade.adaptation_text import TextPlan, text_parts
from lib.cascade.all_tokens import Answers, rule_mask, scored, template_mask
from lib.cascade.baselines import Tail, states_under, trained_weights
from lib.cascade.cost import second_pass_flops
from lib.cascade.dataset import TokenDataset
from lib.cascade.evaluation import mean_loss
from lib.cascade.features import TokenFeatures
from lib.cascade.second_pass import FEEDBACKS, SecondPass
from lib.cascade.work import SequenceWork
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.training.loop import Training, train

MIX_FACTOR = 30.0  # of the learning rate: at 1e-3 and 64 updates a mix can reach 1
BATCH = 8  # windows of a forward pass


@dataclass(frozen=True)
class SecondPassRun:
    """The last ``layers`` layers run again, with about as many trained weights as ``equal_layers``
    layers hold. ``feedback``: what of the first pass is led back (``mixed``, ``recirculated``).
    ``rule`` and ``rate`` say over which tokens: ``everything``, or as in ``RoutedStageRun``."""

    dataset: TokenDataset
    text: TextPlan
    training: Training
    feedback: str = "mixed"
    rule: str = "everything"
    rate: float = 0.25
    layers: int = 4
    equal_layers: int = 2

    def __post_init__(self):
        if self.feedback not in FEEDBACKS:
            raise ValueError(f"feedback {self.feedback!r} is not known; allowed: {FEEDBACKS}")


class _Work(SequenceWork):
    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        own = [p for name, p in self.model.named_parameters() if p.requires_grad and name != "mix"]
        mix = getattr(self.model, "mix", None)
        return [(own, 1.0)] + ([] if mix is None else [([mix], MIX_FACTOR)])


@run_function("second-pass")
def run_second_pass(config: SecondPassRun, seed: int, place: Place) -> Outcome:
    """Train one second pass and score it on valid, test and, if there, WikiText-2.

    Tokens that are not chosen are answered by the first pass, which is the base.
    """
    data = config.dataset.open(place.device)
    base = data.base
    parts = text_parts(data, config.text)
    trained = config.equal_layers * trained_weights(Tail(base, 1).tune())
    model = SecondPass(base, config.layers, config.feedback, trained, seed).to(place.device)
    head = base.model.lm_head.weight
    text = parts["train"].features
    states = {name: states_under(base, part.windows, config.layers) for name, part in parts.items()}

    def chosen(features: TokenFeatures, number: int) -> Tensor:
        draw = seed + 1000 * number
        return rule_mask(features, config.rule, config.rate, text, draw)

    def answered(part: str, rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """States of the chosen tokens [n, width] of some windows, and their labels [n]."""
        own = mask.view(-1, text.length)[rows]
        found = model(states[part][rows].to(place.device), own.to(place.device))
        return found, parts[part].windows.labels[rows][own].to(place.device)

    @torch.no_grad()
    def losses_of(part: str, features: TokenFeatures, mask: Tensor) -> Tensor:
        """Loss [N] of the second pass where ``mask``, of the base elsewhere."""
        loss, found = features.scalars["loss"].clone(), []
        for rows in torch.arange(features.tokens // features.length).split(BATCH):
            final, labels = answered(part, rows, mask)
            found.append(head_statistics(final, head, labels)["loss"].cpu())
        loss[mask] = torch.cat(found)
        return loss

    learnt = chosen(text, len(parts))

    def loss_of(rows: Tensor) -> tuple[Tensor, int]:
        final, labels = answered("train", rows, learnt)
        return summed_loss(final, head, labels), len(labels)

    look = parts["valid"].features.windows(0, config.text.look)
    look_mask = chosen(look, 0)

    def valid() -> dict[str, Any]:
        return {"valid_loss": mean_loss(losses_of("valid", look, look_mask))}

    work = _Work(model, len(states["train"]), config.training.batch_size, seed, loss_of, valid)
    fit = train(
        work,
        config.training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.dataset.sha256}",
    )
    held_out = {name: part.features for name, part in parts.items() if name != "train"}
    masks = {name: chosen(f, number) for number, (name, f) in enumerate(held_out.items())}
    answers = {
        name: Answers(f, losses_of(name, f, masks[name]), template_mask(f, base.tokenizer))
        for name, f in held_out.items()
    }
    row = scored(data, answers, masks) | {
        "params": trained_weights(model),
        "best_epoch": fit.best_epoch,
        "start_val_ppl": fit.curve[0]["val_ppl"],
        "last_val_ppl": fit.curve[-1]["val_ppl"],
        "flops": second_pass_flops(
            base.model,
            config.layers,
            masks["test"].float().mean().item(),
            config.rule,
            model.feedback_weights,
        ),
    }
    return Outcome(row, {"curve": fit.curve})
