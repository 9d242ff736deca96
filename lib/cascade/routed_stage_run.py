"""One routed stage: train it one way, answer all held-out tokens, count the cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.head import head_statistics, loss_by_token, summed_loss
from lib.cascade import baseline_run
from lib.cascade.adaptation_text import TextPart, TextPlan, text_parts
from lib.cascade.adapted import adapted_part, beside_base
from lib.cascade.all_tokens import RULES, Answers, rule_mask, scored, template_mask
from lib.cascade.baseline_run import ADAPTER_FILE, BaselineRun, run_baseline
from lib.cascade.baselines import trained_weights
from lib.cascade.cost import relative_flops
from lib.cascade.dataset import OpenDataset, TokenDataset
from lib.cascade.evaluation import mean_loss
from lib.cascade.features import TokenFeatures
from lib.cascade.gate import JointGate, joint_loss, with_frequency
from lib.cascade.packing import arrange, arrange_all, select
from lib.cascade.query_stage import query_stage, stream_scale
from lib.cascade.routes import cut, routes
from lib.cascade.stage import new_stage
from lib.cascade.work import SequenceWork
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.training.loop import Training, train

EVERY = ("all", "weighted", "joint")  # ways of training that need every token
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
    (the highest), ``all``, ``weighted`` (all, each by the base's own loss on it), or ``joint``
    (all, each by a gate that learns with the stage and is the rule ``joint_gate``; ``holding`` is
    the weight of the square by which the gate's mean misses ``rate``; validated as it is used,
    ``rate`` of the tokens routed).
    ``rates``: for a stage trained on all, the rates at which ``rules`` are compared afterwards;
    ``wide_gate`` and ``joint_gate`` are rules beside the usual ones.
    ``behind``: a low-rank adaptation that keeps its weights; the stage then stands behind the final
    states of the adapted base.
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
    rules: tuple[str, ...] = RULES
    holding: float = 10.0
    behind: BaselineRun | None = None

    def __post_init__(self):
        joint = self.trained == "joint"
        if joint != (self.rule == "joint_gate") or ("joint_gate" in self.rules and not joint):
            raise ValueError(
                f"trained {self.trained!r} and routed by {self.rule!r}, of rules {self.rules}: "
                "allowed: 'joint' together with 'joint_gate', or neither"
            )
        if self.behind is not None and not (self.behind.kind == "low-rank" and self.behind.keep):
            raise ValueError("behind is no low-rank adaptation that keeps its weights")
        if self.start not in STARTS or self.context not in ("packed", "full"):
            raise ValueError(
                f"start {self.start!r} / context {self.context!r}: allowed are "
                f"{STARTS} and packed, full"
            )
        if self.start != "copied" and self.context == "full":
            raise ValueError("context 'full' needs start 'copied'")
        if self.context == "packed" and (self.rates or self.trained in EVERY):
            raise ValueError(
                "context 'packed' holds routed tokens only; trained 'all', 'weighted' or 'joint', "
                "and rates need context 'full'"
            )


def _adaptation(config: RoutedStageRun, seed: int) -> list[tuple]:
    """The adaptation of the base that the stage is behind, if any."""
    return [(run_baseline, config.behind, seed, ADAPTER_FILE)] if config.behind else []


@run_function("routed-stage", starts_from=_adaptation)
def run_routed_stage(config: RoutedStageRun, seed: int, place: Place) -> Outcome:
    """Train one stage and score it on valid, test and, if there, WikiText-2."""
    data = config.dataset.open(place.device)
    base = data.base.model
    plain, adapter = text_parts(data, config.text), None
    if config.behind is None:
        parts = {name: part.features for name, part in plain.items()}
    else:
        (kept,) = place.starts(_adaptation, config, seed)
        adapter = _Adapter(config.behind, data, seed, kept)
        parts = {name: adapter.features(part) for name, part in plain.items()}

    scale = stream_scale(base, data.windows["train"].inputs[:2].to(place.device))
    stage = _stage(config, base, seed, scale).to(place.device)
    head = base.lm_head.weight if getattr(stage, "head", None) is None else None
    answer = _Answering(config, stage, head, base.lm_head.weight)
    text, gate = parts["train"], None
    if config.trained == "joint":
        gate = JointGate(base.model.norm.weight, config.rate).to(place.device)

    def routed(features: TokenFeatures, draw: int) -> Tensor:
        if gate is not None:
            return _above(gate, features, text, config.rate)
        return rule_mask(features, config.rule, config.rate, text, draw)

    look = parts["valid"].windows(0, config.text.look)
    fixed = None if gate is not None else routed(look, seed)

    def valid() -> dict[str, Any]:
        mask = routed(look, seed) if fixed is None else fixed
        return {"valid_loss": mean_loss(answer.losses(look, mask))}

    work = _work(config, answer, stage, gate, text, seed, valid)
    fit = train(
        work,
        replace(config.training, batch_size=work.batch),
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.dataset.sha256}",
    )
    tables: dict[str, list[dict]] = {"curve": fit.curve}
    held_out = {part: features for part, features in parts.items() if part != "train"}
    masks = {
        part: routed(features, seed + 1000 * number)
        for number, (part, features) in enumerate(held_out.items())
    }
    answers = {
        part: Answers(
            f,
            # routes are of every token, also where the rule of this run routes some
            answer.losses(f, torch.ones_like(masks[part]) if config.rates else masks[part]),
            template_mask(f, data.base.tokenizer),
        )
        for part, f in held_out.items()
    }
    row = scored(data, answers, masks) | {
        "params": trained_weights(work.model) + (adapter.weights if adapter else 0),
        "best_epoch": fit.best_epoch,
        "start_val_ppl": fit.curve[0]["val_ppl"],
        "last_val_ppl": fit.curve[-1]["val_ppl"],
        "flops": relative_flops(
            base, stage, masks["test"].float().mean().item(), config.rule, config.context
        ),
    }
    if adapter:
        untouched = {part: plain[part].features for part in held_out}
        row |= beside_base(row, answers, untouched, masks["test"])
    if config.rates:
        fitted = text.windows(0, GATE_LOOKS * config.text.look)
        own = Answers(
            fitted,
            answer.losses(fitted, torch.ones(fitted.tokens).bool()),
            template_mask(fitted, data.base.tokenizer),
        )
        if "wide_gate" in config.rules:
            own, answers = _with_frequencies(own, answers, text, base.config.vocab_size)
        tables["routes"] = routes(
            data.base,
            stage,
            own,
            answers,
            config.rates,
            place.folder,
            config.rules,
            None if gate is None else gate.read_out(),
            adapter.sha256 if adapter else "",
        )
    return Outcome(row, tables)


class _Adapter:
    """The base with the low-rank matrices that a finished run has kept."""

    def __init__(self, config: BaselineRun, data: OpenDataset, seed: int, kept: Place):
        self.base, self.config = data.base, config
        self.tail, self.sha256 = baseline_run.adapted_tail(config, data, seed, kept)
        self.weights = kept.record()["row"]["params"]

    def features(self, part: TextPart) -> TokenFeatures:
        return adapted_part(self.base, self.tail, part, self.config.under)


def _above(gate: JointGate, features: TokenFeatures, text: TokenFeatures, rate: float) -> Tensor:
    """bool [N]: tokens that the gate as it is now routes, its threshold set on training text."""
    read = gate.read_out()
    return read(features.final) > cut(read(text.final).sort().values, rate)


def _with_frequencies(
    own: Answers, answers: dict[str, Answers], text: TokenFeatures, vocabulary: int
) -> tuple[Answers, dict[str, Answers]]:
    """The same answers, their tokens with a log frequency: ``own`` are of the training text."""
    inside = replace(own, features=with_frequency(own.features, text, vocabulary, inside=True))
    others = {
        part: replace(found, features=with_frequency(found.features, text, vocabulary))
        for part, found in answers.items()
    }
    return inside, others


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
    gate: JointGate | None,
    text: TokenFeatures,
    seed: int,
    valid: Callable[[], dict[str, Any]],
) -> SequenceWork:
    """What the stage learns: groups of packs, or the wanted tokens of whole windows."""
    batch, device = config.training.batch_size, answer.device
    if config.trained in EVERY:
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

    if gate is not None:
        final = text.final.view(-1, text.length, text.final.shape[1])

        def loss_with_gate(rows: Tensor) -> tuple[Tensor, int]:
            state, alone = answer.windows(text, rows, wanted[rows]), final[rows].flatten(0, 1)
            truth, alone = labels[rows].flatten().to(device), alone.to(device)
            # not the features' own: an untrained stage must gain exactly nothing, or Adam takes
            # the first step of the gate along rounding errors
            theirs = loss_by_token(alone, answer.base_head, truth)
            held = config.rate, config.holding
            return joint_loss(gate(alone), state, answer.head(), truth, theirs, *held), len(truth)

        both = nn.ModuleDict({"stage": stage, "gate": gate})
        return SequenceWork(both, len(wanted), batch, seed, loss_with_gate, valid)

    def loss_in_text(rows: Tensor) -> tuple[Tensor, int]:
        own = wanted[rows]
        state = answer.windows(text, rows, own)
        weights = None if importance is None else importance[rows][own].to(device)
        truth = labels[rows][own].to(device)
        return summed_loss(state, answer.head(), truth, importance=weights), int(own.sum())

    return SequenceWork(stage, len(wanted), batch, seed, loss_in_text, valid)
