"""One rung of the ladder: train a stage one way, answer all held-out tokens, count the cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.cascade.adaptation import Adaptation, adapt
from lib.cascade.adaptation_text import TextPlan, cut_features, text_parts
from lib.cascade.all_tokens import Answers, rule_mask, template_mask
from lib.cascade.cost import relative_flops
from lib.cascade.evaluation import perplexity
from lib.cascade.features import Features
from lib.cascade.linear_cross_entropy import head_statistics, summed_loss
from lib.cascade.material import Material, MaterialHandle
from lib.cascade.packing import arrange, arrange_all, select
from lib.cascade.query_stage import query_stage, stream_scale
from lib.cascade.rivals import trained_weights
from lib.cascade.route_table import routes
from lib.cascade.stage import new_stage
from lib.runs.task import Outcome

STARTS = ("seed", "seed-shared-head", "residual", "copied")
GATE_LOOKS = 4  # the gate is fitted on so many times the windows that early stopping looks at
PACK = 64  # tokens of a pack, so that packs and windows give equal numbers of updates


@dataclass(frozen=True)
class LadderRun:
    """``start``: ``seed`` (new layers, own head, own norm: seed 002), ``seed-shared-head`` (speaks
    through the base's frozen head), ``residual`` (also starts at the base), ``copied`` (its layers
    are the base's last ones, outputs zeroed). ``context``: ``packed`` (sees only other routed
    tokens) or ``full``. ``own_positions``: rotated by place in the text, not in the pack.

    ``rule`` and ``rate`` say who is routed; ``trained``: ``routed``, ``random`` (as many), ``loss``
    (the highest), ``all``, or ``weighted`` (all, each by the base's own loss on it).
    ``rates``: for a stage trained on all, the rates at which rules are compared afterwards.
    """

    material: MaterialHandle
    text: TextPlan
    training: Adaptation
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


def run(config: LadderRun, seed: int, folder: Path) -> Outcome:
    """Train one stage and score it on valid, test and, if there, WikiText-2."""
    material = config.material.open()
    base = material.base.model
    parts = {name: part.features for name, part in text_parts(material, config.text).items()}
    text = parts.pop("train")
    scale = stream_scale(base, material.windows["train"].inputs[:2])
    stage = _stage(config, base, seed, scale)
    head = base.lm_head.weight if getattr(stage, "head", None) is None else None
    answer = _Answering(config, stage, head, base.lm_head.weight)
    look = cut_features(parts["valid"], 0, config.text.look)
    look_mask = rule_mask(look, config.rule, config.rate, text, seed)

    def valid() -> float:
        return perplexity(answer.losses(look, look_mask))

    curve = _train(config, answer, stage, text, seed, valid)
    tables: dict[str, list[dict]] = {"curve": curve}
    masks = {
        part: rule_mask(f, config.rule, config.rate, text, seed + 1000 * number)
        for number, (part, f) in enumerate(parts.items())
    }
    answers = {
        part: Answers(f, answer.losses(f, masks[part]), template_mask(f, material.base.tokenizer))
        for part, f in parts.items()
    }
    row = scored(material, answers, masks) | {
        "params": trained_weights(stage),
        "start_val_ppl": curve[0]["val_ppl"],
        "last_val_ppl": curve[-1]["val_ppl"],
        "flops": relative_flops(
            base, stage, masks["test"].float().mean().item(), config.rule, config.context
        ),
    }
    if config.rates:
        fitted = cut_features(text, 0, GATE_LOOKS * config.text.look)
        own = Answers(
            fitted,
            answer.losses(fitted, torch.ones(fitted.tokens).bool()),
            template_mask(fitted, material.base.tokenizer),
        )
        tables["routes"] = routes(material.base, stage, own, answers, config.rates, folder)
    return Outcome(row, tables)


def scored(material: Material, answers: dict[str, Answers], masks: dict[str, Tensor]) -> dict:
    """The columns that every row of the experiment has: ours and the base's, on all tokens, on
    those outside the template, and on the routed ones."""
    row = {
        "corpus": material.corpus,
        "corpus_sha256": material.corpus_sha256,
        "base": material.base.name,
        "base_source": material.base.source,
        "base_sha256": material.base.sha256,
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


def _stage(config: LadderRun, base, seed: int, scale: float) -> nn.Module:
    if config.start == "copied":
        return query_stage(base, config.layers, scale)
    head, start = {
        "seed": ("scratch", "random"),
        "seed-shared-head": ("shared", "random"),
        "residual": ("shared", "identity"),
    }[config.start]
    return new_stage(base.config, config.layers, head, start, seed=seed)


class _Answering:
    """A stage's states and losses, whichever way its tokens are laid out."""

    def __init__(self, config: LadderRun, stage: nn.Module, head: Tensor | None, base_head: Tensor):
        self.config, self.stage, self.base_head = config, stage, base_head
        self.own_head = head is None

    def head(self) -> Tensor:
        return self.stage.head.weight if self.own_head else self.base_head

    def packed(self, features: Features, index: Tensor) -> Tensor:
        """States of packed tokens: index [packs, length] -> [packs * length, width]."""
        positions = (
            index % features.length
            if self.config.own_positions
            else torch.arange(index.shape[1]).expand_as(index)
        )
        if self.config.start == "copied":
            return self.stage(features.final[index], positions=positions)
        return self.stage(features.final[index], positions).flatten(0, 1)

    def windows(self, features: Features, rows: Tensor, wanted: Tensor) -> Tensor:
        """States of the wanted tokens of whole windows, each seeing all before it."""
        return self.stage(
            features.final.view(-1, features.length, features.final.shape[1])[rows], wanted
        )

    @torch.no_grad()
    def losses(self, features: Features, mask: Tensor) -> Tensor:
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
        loss[place] = head_statistics(state, self.head(), features.labels[place])["loss"]
        return loss


def _train(
    config: LadderRun,
    answer: _Answering,
    stage: nn.Module,
    text: Features,
    seed: int,
    valid: Callable[[], float],
) -> list[dict]:
    chosen = (
        torch.arange(text.tokens)
        if config.trained in ("all", "weighted")
        else select(
            text,
            {"routed": "hard"}.get(config.trained, config.trained),
            config.rate,
            config.rule if config.rule not in ("random", "everything") else "entropy",
            seed=seed,
        )
    )
    if config.context == "packed":
        index = arrange(chosen, "packed", text.tokens, PACK).index
        # as many packs a step as windows hold chosen tokens, so that updates are equal in number
        per_step = max(1, round(config.training.batch * text.length * config.rate / PACK))
        groups = index[: len(index) // per_step * per_step].view(-1, per_step, PACK)

        def loss_of(rows: Tensor) -> tuple[Tensor, int]:
            packs = groups[rows].flatten(0, 1)
            return summed_loss(
                answer.packed(text, packs), answer.head(), text.labels[packs.flatten()]
            ), packs.numel()

        one = Adaptation(**{**vars(config.training), "batch": 1})
        return adapt(stage.parameters(), loss_of, len(groups), one, seed, valid)
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
        weights = None if importance is None else importance[rows][own]
        loss = summed_loss(state, answer.head(), labels[rows][own], importance=weights)
        return loss, int(own.sum())

    return adapt(stage.parameters(), loss_in_text, len(wanted), config.training, seed, valid)
