"""What the runs of Experiments 12 to 14 will cost on this machine, before anything is trained.

    python -m lib.cascade.cost_plan 13 12 14            the full size
    python -m lib.cascade.cost_plan 14 --size tenth

A short calibration times updates and scoring of every kind of stage on random states. Conditions
come the most decisive first: those that reported claims need, then explanations, then our own, and
among equals the cheapest. Runs that are finished, or stages of them, are left out.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from lib import registry
from lib.base.pretrained import Base
from lib.cascade.cascade_run import CascadeRun
from lib.cascade.cascade_stage import Cascade, CascadeStage, run_cascade_stage
from lib.cascade.dataset import TokenDataset
from lib.cascade.evaluation import stage_scores
from lib.cascade.features import window_features
from lib.cascade.packing import Packs
from lib.cascade.single_token import SingleTokenWork
from lib.cascade.stage import StageModel, new_stage
from lib.cascade.stage_run import StageRun
from lib.experiment import Experiment
from lib.parameters import FULL, Parameters
from lib.refusals import told
from lib.results.claims import EXPLANATION, REPORTED, Claim
from lib.results.store import Results
from lib.runs import places
from lib.runs.devices import choose
from lib.runs.key import run_key
from lib.runs.task import finished
from lib.training.loop import Training, train

EXPECTED_EPOCHS = 3  # of a stage that stops early: R1's stopped after 2 to 4
LENGTH = 128
PLANNED = ("12", "13", "14")  # experiments that it knows the runs of
WEIGHTS = {REPORTED: 3, EXPLANATION: 2}
REPEATS = 3


@dataclass(frozen=True)
class Kind:
    """What the time of an update depends on. ``counted``: share of the tokens read that are
    learnt."""

    layers: int
    head: str
    start: str
    arrangement: str
    clip: float
    counted: float = 1.0


@dataclass(frozen=True)
class Rate:
    """Seconds of an update: ``fixed`` and ``each`` sequence; of scoring: ``scored`` a token."""

    fixed: float
    each: float
    scored: float

    def update(self, sequences: float) -> float:
        """Seconds of an update on so many sequences."""
        return self.fixed + self.each * sequences


Calibration = Callable[[Kind], Rate]


def calibration(base: Base) -> Calibration:
    """Times a kind of stage when it is first asked for."""

    @functools.cache
    def measured(kind: Kind) -> Rate:
        few, many = (32, 128) if kind.arrangement == "single" else (1, 4)
        head = base.model.lm_head.weight

        def stage() -> StageModel:
            return new_stage(base.model.config, kind.layers, kind.head, kind.start, head)

        length = 1 if kind.arrangement == "single" else LENGTH
        index = torch.arange(many * length).view(many, length)
        counted = torch.rand(index.shape, generator=torch.Generator().manual_seed(0))
        packs = Packs(index, counted < kind.counted)
        states = torch.randn(index.numel(), base.model.config.hidden_size)
        labels = torch.zeros(index.numel(), dtype=torch.long)
        training = Training(epochs=REPEATS, patience=0, clip=kind.clip, restore="last")

        def seconds(sequences: int) -> float:
            own = Packs(packs.index[:sequences], packs.counted[:sequences])
            work = SingleTokenWork(
                stage(), states, labels, own, sequences, 0, head,
                lambda: {"valid_loss": 0.0},
            )  # fmt: skip
            # one update an epoch; the first one makes the moments
            return min(row["epoch_seconds"] for row in train(work, training).curve[1:])

        low, high = seconds(few), seconds(many)
        each = max(0.0, (high - low) / (many - few))
        scored_stage = stage()
        started = time.perf_counter()
        stage_scores(scored_stage, states, labels, [Packs.whole(index)], head)
        scored = (time.perf_counter() - started) / index.numel()
        return Rate(max(0.0, low - few * each), each, scored)

    return measured


def feature_rate(base: Base) -> float:
    """Seconds a token of the base's features, head included."""
    inputs = torch.zeros(2, LENGTH, dtype=torch.long)
    window_features(base, inputs, inputs)
    started = time.perf_counter()
    window_features(base, inputs, inputs)
    return (time.perf_counter() - started) / inputs.numel()


def stage_seconds(config: StageRun, measure: Calibration) -> float:
    """Expected seconds of one stage: updates, and scoring on the way and at the end."""
    counts, training = dict(config.dataset.counts), config.training
    share = config.hard_ratio if config.arrangement == "full" else 1.0
    kind = Kind(config.layers, config.head, config.start, config.arrangement, training.clip, share)
    rate, sequences = measure(kind), float(training.batch_size)
    if config.arrangement == "full":
        sequences /= share
    held_out = {part: counts[part] * LENGTH for part in ("valid", "test")}
    # what is scored: hard tokens, or in full context the windows that hold them
    scored = {part: n * (1 if config.arrangement == "full" else config.hard_ratio) for part, n in
              held_out.items()}  # fmt: skip
    looks = training.validations + 1 + (training.restore == "best")
    natural = 2 * config.natural_windows * LENGTH
    tokens = looks * scored["valid"] + 2 * scored["test"] + natural
    return training.max_updates * rate.update(sequences) + tokens * rate.scored


def cascade_seconds(cascade: Cascade, number: int, measure: Calibration) -> float:
    """Expected seconds of stage ``number`` of a cascade; early stopping after EXPECTED_EPOCHS."""
    counts, training = dict(cascade.dataset.counts), cascade.training
    reached = cascade.hard_ratio**number
    full = cascade.arrangement == "full"
    kind = Kind(
        cascade.layers,
        cascade.head,
        cascade.start,
        cascade.arrangement,
        training.clip,
        reached if full else 1.0,
    )
    rate = measure(kind)
    tokens = counts["train"] * LENGTH * reached
    tokens = min(tokens, cascade.train_tokens or tokens)
    if cascade.arrangement == "packed":
        sequences, updates = training.batch_size, tokens / LENGTH / training.batch_size
    elif full:
        sequences = max(1, round(training.batch_size / (LENGTH * reached)))
        updates = counts["train"] / sequences
    else:
        sequences, updates = training.batch_size, tokens / training.batch_size
    epochs = min(training.epochs, EXPECTED_EPOCHS)
    read = 1.0 if full else reached
    # held-out tokens by one way or two, by the best weights and, where these answer, the last
    ways, again = (1 if cascade.selection == "random" else 2), cascade.weights == "last"
    looks = {"valid": epochs + training.validate_first + again + ways, "test": ways * (1 + again)}
    scored = sum(times * counts[part] for part, times in looks.items()) + counts["train"]
    scored *= LENGTH * read
    return epochs * updates * rate.update(sequences) + scored * rate.scored


def left_seconds(function: Callable, config: Any, seed: int, measure: Calibration) -> float:
    """Expected seconds of what is not finished of a run; 0 for kinds that take no training."""
    if _finished(function, config, seed):
        return 0.0
    if isinstance(config, StageRun):
        return stage_seconds(config, measure)
    if isinstance(config, CascadeRun):
        seconds = 0.0
        for number in range(1, config.stages + 1):
            stage = CascadeStage(config.cascade, number)
            record = _finished(run_cascade_stage, stage, seed)
            if record and not record["row"]["further"]:
                break  # the cascade has ended
            seconds += 0.0 if record else cascade_seconds(config.cascade, number, measure)
        return seconds
    return 0.0


def _finished(function: Callable, config: Any, seed: int) -> dict[str, Any] | None:
    """The record of a run, or None."""
    key = run_key(function, config, seed, choose("auto").type)
    return finished(places.runs_folder() / key)


def plan(
    experiment: Experiment, parameters: Parameters, dataset: TokenDataset, measure: Calibration
) -> pd.DataFrame:
    """One row a condition with runs left: seeds, hours a seed, hours, and the claims it decides."""
    decided = {variant: [] for variant in experiment.variants}
    for claim in experiment.claims:
        for variant in variants_of(claim, experiment):
            decided[variant].append(claim)
    rows, planned = [], set()
    for variant, entry in experiment.variants.items():
        seconds = []
        for run in entry.runs(parameters, dataset):
            key = run_key(run.function, run.config, run.seed)
            if key not in planned and not run.side:  # a run that two rows share is made once
                planned.add(key)
                seconds.append(left_seconds(run.function, run.config, run.seed, measure))
        seconds = [value for value in seconds if value]
        if not seconds:
            continue
        claims = decided[variant]
        rows.append(
            {
                "experiment": experiment.number,
                "condition": experiment.label(variant),
                "seeds left": len(seconds),
                "hours a seed": sum(seconds) / len(seconds) / 3600,
                "hours": sum(seconds) / 3600,
                "weight": max((WEIGHTS.get(claim.kind, 1) for claim in claims), default=0),
                "claims": len(claims),
            }
        )
    columns = ["experiment", "condition", "seeds left", "hours a seed", "hours", "weight", "claims"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["weight", "hours"], ascending=[False, True], ignore_index=True)


def variants_of(claim: Claim, experiment: Experiment) -> list[str]:
    """The variants that a claim looks at: its measure is tried on made-up tables."""
    variants, columns = list(experiment.variants), {"stage": 0.0, "wikitext_ppl": 2.0}
    for _ in range(100):  # a column more at each try
        rows = pd.DataFrame(
            [
                {
                    "variant": variant,
                    "seed": 0,
                    "run_id": variant,
                    "stage": stage,
                    "batch": batch,
                    "work": "generation",
                    "size": FULL,
                    **{name: 2.0 for name in columns if name != "stage"},
                }
                for variant in variants
                for stage, batch in ((1, 1), (2, 8), (3, 0))
            ]
        )
        main = rows[rows["stage"] == 1]
        curve = pd.concat([rows.assign(epoch=epoch, val_ppl=2.0) for epoch in (1, 2)])
        tables = {"": main, "stages": rows, "speed": rows, "curve": curve}
        results = Results(experiment.slug, tables)
        try:
            claim.measure(results)
        except KeyError as missing:
            if missing.args[0] in columns:
                break
            columns[missing.args[0]] = 2.0
            continue
        return [variant for variant in variants if variant in results.used]
    return []


def planned(number: str) -> Experiment:
    """The experiment of a number such as 14."""
    return registry.experiment(next(s for s in registry.module_names() if s.startswith(number)))


def report(numbers: Iterable[str], size: str) -> pd.DataFrame:
    """The plan of several experiments at a size, its features in a line of their own."""
    frames, collected = [], 0
    measure = per_token = None
    for number in numbers:
        experiment = planned(number)
        parameters = experiment.parameters.at(size)
        (dataset,) = experiment.texts(parameters)
        base = dataset.open().base
        if measure is None:
            measure, per_token = calibration(base), feature_rate(base)
        frame = plan(experiment, parameters, dataset, measure)
        frames.append(frame)
        if len(frame):
            collected += sum(count for _, count in dataset.counts) * LENGTH
    whole = pd.concat(frames, ignore_index=True)
    whole = whole.sort_values(["weight", "hours"], ascending=[False, True], ignore_index=True)
    whole["hours so far"] = whole["hours"].cumsum()
    print(f"features of at most {collected:,} tokens: {collected * per_token / 3600:.2f} h, once")
    print(f"{whole['hours'].sum():.1f} core-hours of training are left")
    return whole


@told()
def main(given: list[str] | None = None) -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("experiments", nargs="*", default=["13", "12", "14"])
    parser.add_argument("--size", default=FULL)
    chosen = parser.parse_args(given)
    if unknown := set(chosen.experiments) - set(PLANNED):
        parser.error(
            f"{', '.join(sorted(unknown))} cannot be planned; allowed: {', '.join(PLANNED)}"
        )
    for number in chosen.experiments:
        if chosen.size not in (sizes := planned(number).parameters.sizes()):
            parser.error(f"{number} has no size {chosen.size!r}; allowed: {', '.join(sizes)}")
    torch.set_num_threads(1)
    table = report(chosen.experiments, chosen.size)
    print(table.drop(columns="weight").round(2).to_string(index=False))


if __name__ == "__main__":
    main()
