"""One routed stage: train it one way, answer all held-out tokens, count the cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.head import head_statistics, summed_loss
from lib.cascade.adaptation_text import TextPlan, first_windows, text_parts
from lib.cascade.all_tokens import Answers, rule_mask, template_mask
from lib.cascade.baselines import trained_weights
from lib.cascade.cost import relative_flops
from lib.cascade.dataset import OpenDataset, TokenDataset
from lib.cascade.evaluation import mean_loss, perplexity
from lib.cascade.features import TokenFeatures
from lib.cascade.packing import arrange, arrange_all, select
from lib.cascade.query_stage import query_stage, stream_scale
from lib.cascade.routes import routes
from lib.cascade.stage import new_stage
from lib.cascade.work import SequenceWork
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.training.loop import Training, train

STARTS = ("report", "report-shared-head", "residual", "copied")
GATE_LOOKS = 4  # the gate is fitted on so many times the windows that early stopping looks at
PACK = 64  # tokens of a pack, so that packs and windows give equal numbers of updates


@dataclass(frozen=True)
class RoutedStageRun:
    """``start``: ``report`` (new layers, own head, own norm: R2), ``report-shared-head`` (speaks
    through the base's frozen head), ``residual`` (also starts at the base), ``copied`` (its layers
    are the base's last ones, outputs zeroed). ``context``: ``packed`` (sees only other routed
    tokens) or ``full``. ``own_positions``: rotated by place in the text, not in the pack.

    ``rule`` and ``rate`` say who is routed; ``trained``: ``routed``, ``random`` (as many), ``loss``
    (the highest), ``all``, or ``weighted`` (all, each by the base's own loss on it).
    ``rates``: for a stage trained on all, the rates at which rules are compared afterwards.
    """

    dataset: TokenDataset
    text: TextPlan
    training: Training
    start: str = "copied"
    context: str = "full"
    own_positions: bool = True
    rule: str = "entropy"
    rate: float = 0.25
    trained: str = "routed"
    layers: int = 2
    rates: tuple[float, ...] = ()

    def __post_init__(self):
        if self.start not in STARTS or self.context not in ("packed", "full"):
            raise ValueError(
                f"start {self.start!r} / context {self.context!r}: allowed are "
                f"{STARTS} and packed, full"
            )
        if self.start != "copied" and self.context == "full":
            raise ValueError("context 'full' needs start 'copied'")
        if self.context == "packed" and (self.rates or self.trained in ("all", "weighted")):
            raise ValueError(
                "context 'packed' holds routed tokens only; trained 'all' or 'weighted', and rates "
                "need context 'full'"
            )


@run_function("routed-stage")
def run(config: RoutedStageRun, seed: int, place: Place) -> Outcome:
    """Train one stage and score it on valid, test and, if there, WikiText-2."""
    data = config.dataset.open(place.device)
    base = data.base.model
    parts = {name: part.features for name, part in text_parts(data, config.text).items()}
    scale = stream_scale(base, data.windows["train"].inputs[:2].to(place.device))
    stage = _stage(config, base, seed, scale).to(place.device)
    head = base.lm_head.weight if getattr(stage, "head", None) is None else None
    answer = _Answering(config, stage, head, base.lm_head.weight)
    text = parts.pop("train")
    look = first_windows(data, config.text, "valid", config.text.look)
    look_mask = rule_mask(look, config.rule, config.rate, text, seed)

    def valid() -> dict[str, Any]:
        return {"valid_loss": mean_loss(answer.losses(look, look_mask))}

    work = _work(config, answer, stage, text, seed, valid)
    fit = train(
        work,
        replace(config.training, batch_size=work.batch),
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.dataset.sha256}",
    )
    tables: dict[str, list[dict]] = {"curve": fit.curve}
    masks = {
        part: rule_mask(f, config.rule, config.rate, text, seed + 1000 * number)
        for number, (part, f) in enumerate(parts.items())
    }
    answers = {
        part: Answers(f, answer.losses(f, masks[part]), template_mask(f, data.base.tokenizer))
        for part, f in parts.items()
    }
    row = scored(data, answers, masks) | {
        "params": trained_weights(stage),
        "best_epoch": fit.best_epoch,
        "start_val_ppl": fit.curve[0]["val_ppl"],
        "last_val_ppl": fit.curve[-1]["val_ppl"],
        "flops": relative_flops(
            base, stage, masks["test"].float().mean().item(), config.rule, config.context
        ),
    }
    if config.rates:
        fitted = first_windows(data, config.text, "train", GATE_LOOKS * config.text.look)
        own = Answers(
            fitted,
            answer.losses(fitted, torch.ones(fitted.tokens).bool()),
            template_mask(fitted, data.base.tokenizer),
        )
        tables["routes"] = routes(data.base, stage, own, answers, config.rates, place.folder)
    return Outcome(row, tables)


def scored(data: OpenDataset, answers: dict[str, Answers], masks: dict[str, Tensor]) -> dict:
    """The columns that every row of the experiment has: ours and the base's, on all tokens, on
    those outside the template, and on the routed ones."""
    row = {
        **data.identity(),
        "rate": masks["test"].float().mean().item(),
    }
    for part, found in answers.items():
        ours, none = masks[part], torch.zeros_like(masks[part])
        alone = found.perplexities(none)
        own = found.perplexities(ours)
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


def _stage(config: RoutedStageRun, base, seed: int, scale: float) -> nn.Module:
    if config.start == "copied":
        return query_stage(base, config.layers, scale)
    head, start = {
        "report": ("scratch", "random"),
        "report-shared-head": ("shared", "random"),
        "residual": ("shared", "identity"),
    }[config.start]
    return new_stage(base.config, config.layers, head, start, seed=seed)


class _Answering:
    """A stage's states and losses, whichever way its tokens are laid out."""

    def __init__(
        self, config: RoutedStageRun, stage: nn.Module, head: Tensor | None, base_head: Tensor
    ):
        self.config, self.stage, self.base_head = config, stage, base_head
        self.own_head, self.device = head is None, base_head.device

    def head(self) -> Tensor:
        return self.stage.head.weight if self.own_head else self.base_head

    def packed(self, features: TokenFeatures, index: Tensor) -> Tensor:
        """States of packed tokens: index [packs, length] -> [packs * length, width]."""
        positions = (
            index % features.length
            if self.config.own_positions
            else torch.arange(index.shape[1]).expand_as(index)
        )
        states, positions = features.final[index].to(self.device), positions.to(self.device)
        if self.config.start == "copied":
            return self.stage(states, positions=positions)
        return self.stage(states, positions).flatten(0, 1)

    def windows(self, features: TokenFeatures, rows: Tensor, wanted: Tensor) -> Tensor:
        """States of the wanted tokens of whole windows, each seeing all before it."""
        states = features.final.view(-1, features.length, features.final.shape[1])[rows]
        return self.stage(states.to(self.device), wanted.to(self.device))

    @torch.no_grad()
    def losses(self, features: TokenFeatures, mask: Tensor) -> Tensor:
        """Loss [N] of the stage where ``mask``, of the base elsewhere."""
        loss = features.scalars["loss"].clone()
        if not mask.any():
            return loss
        if self.config.context == "packed":
            states, places = [], []
            for pack in arrange_all(mask.nonzero()[:, 0], "packed", features.tokens, PACK):
                for index in pack.index.split(8):
                    states.append(self.packed(features, index))
                    places.append(index.flatten())
            place, state = torch.cat(places), torch.cat(states)
        else:
            wanted = mask.view(-1, features.length)
            rows = torch.arange(len(wanted))
            state = torch.cat(
                [self.windows(features, part, wanted[part]) for part in rows.split(8)]
            )
            place = mask.nonzero()[:, 0]
        labels = features.labels[place].to(self.device)
        loss[place] = head_statistics(state, self.head(), labels)["loss"].cpu()
        return loss


def _work(
    config: RoutedStageRun,
    answer: _Answering,
    stage: nn.Module,
    text: TokenFeatures,
    seed: int,
    valid: Callable[[], dict[str, Any]],
) -> SequenceWork:
    """What the stage learns: groups of packs, or the wanted tokens of whole windows."""
    batch, device = config.training.batch_size, answer.device
    if config.trained in ("all", "weighted"):
        chosen = torch.arange(text.tokens)
    else:
        by = config.rule if config.rule not in ("random", "everything") else "entropy"
        selection = "hard" if config.trained == "routed" else config.trained
        chosen = select(text, selection, config.rate, by, seed=seed)
    if config.context == "packed":
        index = arrange(chosen, "packed", text.tokens, PACK).index
        # as many packs a step as windows hold chosen tokens, so that updates are equal in number
        per_step = max(1, round(batch * text.length * config.rate / PACK))
        groups = index[: len(index) // per_step * per_step].view(-1, per_step, PACK)

        def loss_in_packs(rows: Tensor) -> tuple[Tensor, int]:
            packs = groups[rows].flatten(0, 1)
            labels = text.labels[packs.flatten()].to(device)
            return summed_loss(answer.packed(text, packs), answer.head(), labels), packs.numel()

        return SequenceWork(stage, len(groups), 1, seed, loss_in_packs, valid)
    wanted = torch.zeros(text.tokens, dtype=torch.bool)
    wanted[chosen] = True
    wanted, labels = wanted.view(-1, text.length), text.labels.view(-1, text.length)
    importance = None
    if config.trained == "weighted":
        loss = text.scalars["loss"]
        importance = (loss / loss.mean()).view(-1, text.length)

    def loss_in_text(rows: Tensor) -> tuple[Tensor, int]:
        own = wanted[rows]
        state = answer.windows(text, rows, own)
        weights = None if importance is None else importance[rows][own].to(device)
        truth = labels[rows][own].to(device)
        return summed_loss(state, answer.head(), truth, importance=weights), int(own.sum())

    return SequenceWork(stage, len(wanted), batch, seed, loss_in_text, valid)
