"""Experiment 15: over all tokens, what does a cascade cost and what does it give?

The cascades are those of Experiment 14 at ratio 0.6 (the same runs), served with real early exit,
counted in operations and timed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.cascade.cascade_run import CascadeRun, CascadeSpeed, ServedRun, run_served, run_speed
from lib.cascade.claims import against_base, on_alpaca
from lib.cascade.difficulty import CRITERIA
from lib.cascade.figures.by_stage import by_stage
from lib.cascade.packing import ARRANGEMENTS
from lib.cascade.parameters import (
    IMPLIED,
    QUICK_WINDOWS,
    TINY_WINDOWS,
    ZERO_START,
    StagedParameters,
)
from lib.cascade.tables import beside_reported
from lib.cascade.variants import Variant
from lib.experiment import Experiment, Run
from lib.parameters import real, whole
from lib.results import tables
from lib.results.claims import Measure, by_seed, change
from lib.results.store import Absent, Results
from lib.results.tables import one

# the size of the first committed tables: two stages of two layers on packs, by R2's cosine
SMALL = {
    "train_windows": 32,
    "valid_windows": 8,
    "test_windows": 16,
    "cuts": "stream",
    "hard_ratio": 0.3,
    "stages": 2,
    "layers": 2,
    "criterion": "last_two_layers",
    "arrangement": "packed",
    "train_tokens": 2048,
    "epochs": 1,
    "batch": 1,
    "learning_rate": 1.0e-3,
    "base_head_rate": 3.0e-4,
    "weight_decay": 0.0,
    "served_windows": 4,
    "new_tokens": 8,
    "seeds": 3,
}
SHORT = {"hard_ratio": 0.5, "train_tokens": 256, "served_windows": 2, "rounds": 1}


class Exp15(StagedParameters):
    """The cascades of Experiment 14, served on ``served_windows`` test windows and timed in
    ``rounds`` while they generate ``new_tokens``: hence one worker."""

    workers: int = whole(1, 1, 64)
    hard_ratio: float = real(0.6, 0.05, 0.9)
    served_windows: int = whole(100, 1, 10_000)
    new_tokens: int = whole(128, 1, 2_000)
    rounds: int = whole(3, 1, 100)

    LADDER = {
        "third": {**StagedParameters.LADDER["third"], "served_windows": 33},
        "tenth": {**StagedParameters.LADDER["tenth"], "served_windows": 10},
        "small": SMALL,
    }
    QUICK = {**SMALL, **QUICK_WINDOWS, **SHORT}
    TINY = {**SMALL, **TINY_WINDOWS, **SHORT, "new_tokens": 4}

    def check(self) -> None:
        """Raises ParameterError for what cannot be served and a pack that is not filled."""
        self.refuse("criterion", CRITERIA, "input_to_output", "loss")
        self.refuse("arrangement", ARRANGEMENTS, "full")
        self.at_most("served_windows", "test_windows")
        if self.arrangement == "packed":
            self.check_pack(self.hard_ratio, self.train_tokens)


def _run(p: Exp15, dataset, changes: dict) -> CascadeRun:
    return CascadeRun(p.cascade(dataset, p.hard_ratio, **changes), p.stages)


def _served(label: str, **changes) -> Variant:
    def config(p: Exp15, dataset) -> ServedRun:
        return ServedRun(_run(p, dataset, changes), p.served_windows)

    def timed(p: Exp15, dataset) -> list[Run]:
        config = _run(p, dataset, changes)
        speed = CascadeSpeed(config, new_tokens=p.new_tokens, repeats=p.rounds)
        seeds = range(p.seeds)
        return [Run(run_speed, speed, s, side=True) for s in seeds]

    factors = {k: v for k, v in changes.items() if k not in IMPLIED}
    return Variant(label, config, run_served, beside=timed, factors=factors)


VARIANTS = {
    "scratch": _served("Scratch head, cosine"),
    "zero": _served("Starts as the base, cosine", **ZERO_START),
    "zero_entropy": _served("Starts as the base, entropy", **ZERO_START, criterion="entropy"),
}


def served_table(results: Results) -> pd.DataFrame:
    """Perplexities by stages served, and the share that stops at the base; means over seeds."""
    frame = one(results).named("served")
    columns = ["all_ppl", "easy_ppl", "hard_ppl", "all_accuracy", "exit_0"]
    means = frame.groupby(["variant", "stage"], sort=False)[columns].mean()
    return tables.captioned(means, one(results)())


def cost_table(results: Results) -> pd.DataFrame:
    """Operations a token and seconds, cascade over base, mean over seeds."""
    own = one(results)
    frame = own.named()
    ratio = frame["cascade_flops"] / frame["base_flops"]
    found = ratio.groupby(frame["variant"], sort=False).mean().rename("FLOPs").to_frame()
    speed = own.named("speed")
    name = speed["work"] + ", batch " + speed["batch"].astype(str)
    timed = speed.assign(name=name).pivot_table("relative_time", "variant", "name", sort=False)
    return tables.captioned(found.join(timed).round(3), frame)


def reported_table(results: Results) -> pd.DataFrame:
    """The reports' cost and all-token figures beside ours."""
    own = one(results)
    frame, stages = own(), own("stages")
    found = stages.groupby(["variant", "stage"])[["all_ppl", "reached"]].mean()
    scratch = frame[frame["variant"] == "scratch"].mean(numeric_only=True)
    reported = {0: 7.89, 1: 41.83, 2: 51.06, 3: 54.92, 4: 56.61, 5: 57.02}
    rows = [
        (
            f"all tokens, base + {number} newly drawn stages: PPL",
            reported.get(number),
            found.loc[("scratch", number), "all_ppl"],
        )
        for number in found.loc["scratch"].index
    ]
    rows += [
        (
            "share deferred to stage 1 (report: 1 - 0.407)",
            0.593,
            found.loc[("scratch", 1), "reached"],
        ),
        (
            "compute, % (R2: of base + stage for every token; ours: of the base alone)",
            95.3,
            100 * scratch["cascade_flops"] / scratch["base_flops"],
        ),
    ]
    return beside_reported(rows, frame)


def slowdown(variant: str, work: str, batch: int) -> Measure:
    """Percent by which a kind of work takes longer than by the base alone, seed by seed."""

    def measure(results: Results) -> np.ndarray:
        frame = results("speed")
        frame = frame[(frame["work"] == work) & (frame["batch"] == batch)]
        if frame.empty:
            raise Absent(f"no {work} in batches of {batch} was timed")
        held = Results(results.slug, {"": frame}, used=results.used)
        return 100 * (by_seed(held, variant, "relative_time").to_numpy() - 1)

    return measure


claim = on_alpaca("cascade_stages", "R1")

CLAIMS = (
    claim(
        "costs-less",
        "The cascade needs fewer operations than the base alone",
        against_base("scratch", "cascade_flops", "base_flops"),
        "matrix products of a token; R2 counts against base and stage for every token",
        kind="own",
        unit="% change of FLOPs",
    ),
    claim(
        "generates-faster",
        "The cascade generates faster than the base alone",
        slowdown("scratch", "generation", 1),
        "interleaved wall clock, same prompts, one at a time",
        unit="% change of seconds",
        kind="own",
    ),
    claim(
        "generates-faster-batched",
        "The cascade generates faster than the base alone in batches of 8",
        slowdown("scratch", "generation", 8),
        "interleaved wall clock, same prompts, 8 at a time",
        unit="% change of seconds",
        kind="own",
    ),
    claim(
        "all-scratch",
        "A cascade with newly drawn heads improves all tokens",
        against_base("scratch", "test_ppl", "base_all_ppl"),
        "all test tokens, each answered by the model at which it stops",
        kind="own",
    ),
    claim(
        "all-identity",
        "Stages that start as the base improve all tokens, each answered where it stops",
        against_base("zero", "test_ppl", "base_all_ppl"),
        "all test tokens, each answered by the model at which it stops",
        kind="own",
    ),
    claim(
        "cosine-against-entropy",
        "The reports' cosine defers better tokens than entropy does",
        change("zero", "zero_entropy", "equal_all_ppl"),
        "all test tokens, of which each defers exactly the ratio; equal stages",
        kind="own",
    ),
)

E15 = Experiment(
    slug="15_all_tokens",
    question="Over all tokens, what does a cascade cost and what does it give?",
    parameters=Exp15,
    texts=Exp15.texts,
    variants=VARIANTS,
    baseline="scratch",
    report="cascade_stages",
    figures={
        "split": by_stage(
            {"all_ppl": "all tokens", "hard_ppl": "hard tokens (easy ones keep the base's answer)"},
            "All tokens, served with early exit",
            table="served",
            label="perplexity over that of the base",
            over_base=True,
            apart=True,
        ),
        "exits": by_stage(
            {"exit_0": "answered by the base"},
            "Share of tokens that stop at the base",
            table="served",
            label="share of all tokens",
            logarithmic=False,
        ),
    },
    claims=CLAIMS,
)
