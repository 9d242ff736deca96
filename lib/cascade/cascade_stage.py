"""One stage of a cascade as a run of its own, which builds on the run of the stage before it.

Stage 1 is trained on the tokens that the base's criterion calls hard; every further stage on those
of the previous stage's tokens whose cosine between its input and output is lowest.

Held-out tokens take two ways through the stages, as in R1. ``valid`` and ``test`` are deferred at
quantiles of their own, exactly the ratio: on these a stage is validated and has a perplexity of its
own. ``valid_served`` and ``test_served`` are deferred by the thresholds of train, as a model that
is served does: they say what becomes of all tokens. A stage maps the tokens that it was trained on
further from their input than others, so the second way may reach it with far fewer than the ratio.

A stage that starts as the base and whose best weights are the untrained ones repeats its input. The
cosines of its inputs and outputs are then 1 up to rounding, which alone would choose the tokens of
the next stage, and far fewer than the ratio. ``ends_untrained`` ends the cascade there.

What a finished stage leaves is ``stage.safetensors``: its weights, and for every part which tokens
reached it, what they cost there and the values that decide who goes on. The states that it hands
on would be 240 MB a stage: the process that trained it keeps them for the next one, any other makes
them again from the weights, with the same bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.cascade.dataset import PARTS, OpenDataset, TokenDataset
from lib.cascade.difficulty import is_hard, threshold_for
from lib.cascade.evaluation import (
    boundary_mask,
    mean_loss,
    perplexity,
    stage_outputs,
    stage_scores,
)
from lib.cascade.features import TokenFeatures
from lib.cascade.packing import Packs, arrange, arrange_all
from lib.cascade.single_token import SingleTokenWork
from lib.cascade.stage import StageModel, new_stage, parameter_count
from lib.cascade.stage_run import windows_a_step
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.loop import Training, train

STAGE = "stage.safetensors"
SELECTIONS = ("hard", "random")
WEIGHTS = ("last", "best")
SERVED = "_served"  # ends the name of a part whose tokens are deferred by the thresholds of train
WAYS = (*PARTS, f"valid{SERVED}", f"test{SERVED}")
# What the stage that this process trained last leaves of every part, by the folder of its run,
# which names the run's key and device. Whoever goes on takes it out: it is changed in place.
_LEFT: dict[Path, dict[str, Reached]] = {}


@dataclass(frozen=True)
class Cascade:
    """What all stages of a cascade have in common; how many there are is not part of it.

    ``hard_ratio`` of the tokens that reached a model are deferred to the next one: those of lowest
    ``criterion`` (cosine between input and output from stage 2 on), or ``random`` ones.
    ``weights``: those of the last epoch answer and hand on (R1), or those of the best validation.
    ``ends_untrained``: no stage follows one whose best weights are those that it started with.
    A batch of ``training`` is of packs, or of tokens where they stand alone; a stage in full
    context takes as many windows as hold so many tokens.
    """

    dataset: TokenDataset
    training: Training
    layers: int
    hard_ratio: float
    criterion: str
    arrangement: str
    head: str = "scratch"
    start: str = "random"
    train_tokens: int = 0
    selection: str = "hard"
    weights: str = "last"
    ends_untrained: bool = False

    def __post_init__(self):
        if self.selection not in SELECTIONS or self.weights not in WEIGHTS:
            raise ValueError(
                f"selection {self.selection!r} / weights {self.weights!r}: allowed are "
                f"{SELECTIONS} and {WEIGHTS}"
            )
        if self.ends_untrained and self.weights != "best":
            raise ValueError(
                f"ends_untrained with weights {self.weights!r}, which were trained; allowed: best"
            )


@dataclass(frozen=True)
class CascadeStage:
    """Stage ``number``, from 1, of a cascade."""

    cascade: Cascade
    number: int

    def before(self) -> CascadeStage | None:
        """The stage before it; None for the first."""
        return replace(self, number=self.number - 1) if self.number > 1 else None


@dataclass
class Reached:
    """The tokens of one part that reached the model at hand on one way, and its output there.

    ``position`` int64 [n]; ``states`` [N, width]: of each token the output of the last model that
    it reached; ``values`` [n]: what decides who goes on; ``answered``, ``correct`` [N]: loss and
    success of the model that answers each token so far (of train nobody asks: empty); ``first``
    int64: what the base deferred.
    """

    features: TokenFeatures
    position: Tensor
    states: Tensor
    values: Tensor
    answered: Tensor
    correct: Tensor
    first: Tensor

    def take(self, held: dict[str, Tensor], outputs: Tensor) -> None:
        """Let a stage answer the tokens that it was given."""
        self.position, self.values = held["position"], held["values"]
        self.states = self.states.clone()
        self.states[self.position] = outputs
        if "loss" in held:
            self.answered[self.position] = held["loss"]
            self.correct[self.position] = held["correct"]


class TooFewTokens(ValueError):
    """A stage that nothing is left for."""


@run_function("cascade-stage", version=2)
def run_cascade_stage(config: CascadeStage, seed: int, place: Place) -> Outcome:
    """Train one stage, the stages before it first. Tables: one line ``stages``, and ``curve``.

    The row says whether a ``further`` stage may follow: enough tokens are left, and the cascade
    does not end here. Raises TooFewTokens if the rule leaves none for this one.
    """
    cascade = config.cascade
    data = cascade.dataset.open(place.device)
    parts = reached_before(config, seed, place)
    _LEFT.clear()  # what another cascade left is waited for no longer
    chosen, threshold = deferred(config, parts, seed)
    if not enough(chosen, cascade, data):
        raise TooFewTokens(
            f"hard_ratio {cascade.hard_ratio} leaves too few tokens for stage {config.number}; "
            "allowed: a larger ratio or more windows"
        )
    for name, part in parts.items():
        part.position = part.position[chosen[name]]
        if config.number == 1:
            part.first = part.position
    stage = build(cascade, data, 1000 * config.number + seed).to(place.device)
    head = data.base.model.lm_head.weight

    def score(name: str) -> tuple[dict[str, Tensor], Tensor]:
        part = parts[name]
        return stage_scores(stage, part.states, part.features.labels, _pieces(cascade, part), head)

    def valid() -> dict[str, Any]:
        return {"valid_loss": mean_loss(score("valid")[0]["loss"])}

    own = parts["train"]
    packs = _packs(cascade, own)
    batch = windows_a_step(packs, 1, cascade.training.batch_size, cascade.arrangement)
    work = SingleTokenWork(stage, own.states, own.features.labels, packs, batch, seed, head, valid)
    fit = train(
        work,
        cascade.training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {cascade.dataset.sha256} {config.number}",
    )
    once = functools.cache(score)  # of the weights at hand

    def scored(name: str) -> tuple[dict[str, Tensor], Tensor]:
        # random tokens have one way only
        return once(name.removesuffix(SERVED) if cascade.selection == "random" else name)

    best = _of_weights(scored, parts, "best")
    if cascade.weights == "last":
        stage.load_state_dict(fit.last)
        once.cache_clear()
    kept: dict[str, Tensor] = {f"weights/{n}": v for n, v in stage.state_dict().items()}
    scores = {}
    for name, part in parts.items():
        if name == "train":
            position, outputs = stage_outputs(stage, part.states, _pieces(cascade, part))
            held = {"position": position}  # nobody asks what train costs
        else:
            scores[name], outputs = scored(name)
            held = {key: scores[name][key] for key in ("position", "loss", "correct")}
        before = part.states[held["position"]]
        held["values"] = torch.cosine_similarity(before, outputs, dim=-1)
        part.take(held, outputs)
        kept |= {f"{name}/{key}": value for key, value in held.items()}
        kept[f"{name}/first"] = part.first
    left, _ = deferred(replace(config, number=config.number + 1), parts, seed)
    ends = cascade.ends_untrained and fit.best_epoch == 0
    line = (
        _line(config.number, threshold, parts, scores, data)
        | best
        | {
            "best_epoch": fit.best_epoch,
            "epochs": fit.epoch,
            "updates": fit.updates,
        }
    )
    row = {
        **data.identity(),
        "params": parameter_count(stage),
        "val_ppl": line["val_ppl"],
        "threshold": threshold,
        "further": not ends and enough(left, cascade, data),
    }
    save_tensors(place.folder / STAGE, kept, {"threshold": threshold})
    if row["further"]:
        _LEFT[place.folder] = parts
    curve = [{"stage": config.number, **row} for row in fit.curve]
    return Outcome(row, {"stages": [line], "curve": curve})


def start(cascade: Cascade, data: OpenDataset) -> dict[str, Reached]:
    """Every part as the base leaves it, by way."""
    found = {}
    for name in WAYS:
        features = data.features(name.removesuffix(SERVED))
        values, trained = features.scalars, name == "train"
        found[name] = Reached(
            features,
            torch.arange(features.tokens),
            features.final,
            values[cascade.criterion],
            torch.zeros(0) if trained else values["loss"].clone(),
            torch.zeros(0) if trained else values["correct"].clone(),
            torch.zeros(0, dtype=torch.long),
        )
    return found


def reached_before(config: CascadeStage, seed: int, place: Place) -> dict[str, Reached]:
    """Every part as the stage before ``config`` leaves it, by way; trains that stage if need be."""
    before = config.before()
    data = config.cascade.dataset.open(place.device)
    if before is None:
        return start(config.cascade, data)
    there = place.need(run_cascade_stage, before, seed, STAGE)
    if there.folder in _LEFT:
        return _LEFT.pop(there.folder)
    parts = reached_before(before, seed, place)
    stage, held, _ = load_stage(config.cascade, data, there)
    for name, part in parts.items():
        part.position, part.first = held[name]["position"], held[name].pop("first")
        _, outputs = stage_outputs(stage, part.states, _pieces(config.cascade, part))
        part.take(held[name], outputs)
    return parts


def deferred(
    config: CascadeStage, parts: dict[str, Reached], seed: int
) -> tuple[dict[str, Tensor], float | None]:
    """Who reaches stage ``number``: bool [n] by way, of the tokens that reached the model before
    it; and the threshold of train, None for random ones, which have one way only."""
    cascade = config.cascade
    if cascade.selection == "random":
        generator = torch.Generator().manual_seed(1000 * config.number + seed)
        found = {}
        for name in PARTS:
            order = torch.randperm(len(parts[name].position), generator=generator)
            found[name] = torch.zeros(len(order), dtype=torch.bool)
            found[name][order[: round(cascade.hard_ratio * len(order))]] = True
        return {name: found[name.removesuffix(SERVED)] for name in parts}, None
    criterion = cascade.criterion if config.number == 1 else "input_to_output"
    threshold = threshold_for(parts["train"].values, cascade.hard_ratio, criterion)

    def chosen(name: str, values: Tensor) -> Tensor:
        if name in PARTS:  # of train that is the same threshold
            return is_hard(values, threshold_for(values, cascade.hard_ratio, criterion), criterion)
        return is_hard(values, threshold, criterion)

    return {name: chosen(name, part.values) for name, part in parts.items()}, threshold


def enough(chosen: dict[str, Tensor], cascade: Cascade, data: OpenDataset) -> bool:
    """Whether a stage can be trained (one sequence) and scored (one token a part)."""
    one = data.features("train").length if cascade.arrangement == "packed" else 1
    return bool(chosen["train"].sum() >= one) and all(bool(part.any()) for part in chosen.values())


def build(cascade: Cascade, data: OpenDataset, seed: int) -> StageModel:
    """An untrained stage."""
    base = data.base.model
    head = base.lm_head.weight
    return new_stage(base.config, cascade.layers, cascade.head, cascade.start, head, seed=seed)


def load_stage(
    cascade: Cascade, data: OpenDataset, place: Place
) -> tuple[StageModel, dict[str, dict[str, Tensor]], float | None]:
    """A finished stage, what it left of every part by way, and its threshold."""
    tensors, about = load_tensors(place.folder / STAGE)
    stage = build(cascade, data, 0)
    held: dict[str, dict[str, Tensor]] = {name: {} for name in ("weights", *WAYS)}
    for name, value in tensors.items():
        group, _, rest = name.partition("/")
        held[group][rest] = value
    stage.load_state_dict(held.pop("weights"))
    return stage.to(place.device).eval(), held, about["threshold"]


def base_line(parts: dict[str, Reached], data: OpenDataset) -> dict[str, Any]:
    """The line of ``stages`` before any stage."""
    return _line(0, None, parts, None, data)


def _packs(cascade: Cascade, part: Reached) -> Packs:
    chosen = part.position
    chosen = chosen[: cascade.train_tokens] if cascade.train_tokens else chosen
    return arrange(chosen, cascade.arrangement, part.features.tokens, part.features.length)


def _pieces(cascade: Cascade, part: Reached) -> list[Packs]:
    features = part.features
    return arrange_all(part.position, cascade.arrangement, features.tokens, features.length)


def _of_weights(score, parts: dict[str, Reached], name: str) -> dict[str, float | None]:
    """What the stage's present weights make of its own tokens and of all tokens."""
    own = {"val": score("valid")[0], "test": score("test")[0]}
    found = {f"{name}_{column}_ppl": perplexity(losses["loss"]) for column, losses in own.items()}
    served, _ = score(f"test{SERVED}")
    answered = parts[f"test{SERVED}"].answered.clone()
    answered[served["position"]] = served["loss"]
    return found | {f"{name}_all_ppl": perplexity(answered)}


def _line(number, threshold, parts, scores, data: OpenDataset) -> dict[str, Any]:
    """One line of the ``stages`` table: the tokens of this stage, and all tokens so far."""
    test, served = parts["test"], parts[f"test{SERVED}"]
    base, at = test.features.scalars["loss"], test.position
    inner = ~boundary_mask(test.features, data.base.tokenizer.eos_token_id)
    hard = torch.zeros(test.features.tokens, dtype=torch.bool)
    hard[served.first] = True
    own = scores["test"]["loss"] if scores else base
    return {
        "stage": number,
        "threshold": threshold,
        "train_hard": len(parts["train"].position),
        "test_hard": len(at),
        "reached": len(served.position) / test.features.tokens,
        "val_ppl": perplexity(scores["valid"]["loss"]) if scores else None,
        "test_ppl": perplexity(own),
        "test_inner_ppl": perplexity(own[inner[at]]),
        "base_ppl": perplexity(base[at]),
        "base_inner_ppl": perplexity(base[at][inner[at]]),
        "all_ppl": perplexity(served.answered),
        "all_inner_ppl": perplexity(served.answered[inner]),
        "all_accuracy": served.correct.mean().item(),
        "val_all_ppl": perplexity(parts[f"valid{SERVED}"].answered),
        "equal_all_ppl": perplexity(test.answered),
        "hard_ppl": perplexity(served.answered[hard]),
        "easy_ppl": perplexity(served.answered[~hard]),
        "base_hard_ppl": perplexity(base[hard]),
        "base_easy_ppl": perplexity(base[~hard]),
    }
