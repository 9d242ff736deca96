"""Experiment 14: what do further stages of eight layers do, at hard ratios 0.9 and 0.6?"""

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from lib.cascade.material import MaterialHandle
from lib.cascade.staged_run import StagedRun
from lib.cascade.staged_run import run as run_staged
from lib.cascade.experiments.cascade import (
    CascadeParameters,
    against_base,
    at_stage,
    beside_reported,
    finish,
    stage_change,
    tasks_of,
)
from lib.cascade import stage_figure as stages
from lib.parameters import real, reals, whole
from lib.results import store
from lib.results.claims import claim_maker
from lib.runs.sweep import Task

EXPERIMENT, SLUG = "cascade_stages", "14_staged_training"
NINE, SIX, IDENTITY = "Hard ratio 0.9", "Hard ratio 0.6", "Ratio 0.6, starts as the base"


@dataclass(frozen=True)
class Exp14(CascadeParameters):
    """Seed 001's five stages on less text: it used 1,000 windows and up to ten epochs."""

    train_windows: int = whole(32, 4, 100_000)
    valid_windows: int = whole(16, 2, 100_000)
    test_windows: int = whole(32, 2, 100_000)
    hard_ratios: str = reals("0.9,0.6", 0.05, 0.99)
    stages: int = whole(5, 1, 20)
    layers: int = whole(8, 1, 64)
    epochs: int = whole(1, 1, 1_000)
    batch: int = whole(32, 1, 10_000)
    learning_rate: float = real(3.0e-4, 0.0, 1.0, above=True)

    QUICK = {
        **CascadeParameters.QUICK,
        "train_windows": 4,
        "valid_windows": 2,
        "test_windows": 2,
        "stages": 2,
        "layers": 2,
    }
    TINY = {
        **CascadeParameters.TINY,
        "train_windows": 4,
        "valid_windows": 2,
        "test_windows": 2,
        "stages": 2,
        "layers": 1,
    }
    PACKING = "chunks"


PARAMETERS = Exp14


def variants(material: MaterialHandle | None, parameters: Exp14) -> dict[str, StagedRun]:
    """One row a hard ratio, and the smallest ratio with stages that start as the base."""
    p = parameters
    rows = {
        f"Hard ratio {ratio:g}": StagedRun(
            material,
            stages=p.stages,
            layers=p.layers,
            hard_ratio=ratio,
            criterion="embedding_to_final",
            arrangement="single",
            epochs=p.epochs,
            batch=p.batch,
            learning_rate=p.learning_rate,
            weight_decay=0.01,
        )
        for ratio in p.numbers("hard_ratios")
    }
    last, config = list(rows.items())[-1]
    name = last.replace("Hard ratio", "Ratio") + ", starts as the base"
    return rows | {name: replace(config, head="shared", start="identity")}


def tasks(material: MaterialHandle, parameters: Exp14) -> list[Task]:
    """Every run."""
    return tasks_of(EXPERIMENT, run_staged, variants(material, parameters), parameters.seeds)


def run(material: MaterialHandle, parameters: Exp14) -> pd.DataFrame:
    """Train all cascades; one row a variant and seed, and the table ``stages``."""
    return finish(SLUG, tasks(material, parameters), parameters)


def own_figure(size: str) -> Figure:
    """What the seed reports: each stage on its own remaining tokens, with the base on the same."""
    return stages.by_stage(
        SLUG,
        size,
        {"test_ppl": "stage", "base_ppl": "base, same tokens"},
        "Each stage on the tokens that reach it (different tokens each time)",
    )


def all_figure(size: str) -> Figure:
    """What compares: all tokens, each answered by the model at which it stops."""
    return stages.by_stage(
        SLUG, size, {"all_ppl": "all tokens"}, "All test tokens, by the number of stages"
    )


FIGURES = {"own": own_figure, "all": all_figure}


def summary_table(size: str) -> pd.DataFrame:
    """The ``stages`` table averaged over seeds."""
    frame = store.read(SLUG, "stages", size)
    columns = [
        "threshold",
        "train_hard",
        "test_hard",
        "val_ppl",
        "test_ppl",
        "base_ppl",
        "base_inner_ppl",
        "all_ppl",
        "all_accuracy",
    ]
    return frame.groupby(["variant", "stage"], sort=False)[columns].mean().round(4)


def reported_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The seed's stage figures (ratio 0.9, and 0.6 from its next action) beside ours."""
    size = frame["size"].iloc[0]
    found = (
        store.read(SLUG, "stages", size)
        .groupby(["variant", "stage"])[["threshold", "val_ppl", "all_ppl"]]
        .mean()
    )
    seed = {
        NINE: {1: (0.1786, 84.43), 2: (0.4670, 92.65), 3: (0.5187, 96.47)},
        SIX: {1: (0.1234, 151.90), 2: (None, 102.45), 3: (None, 45.72)},
    }
    rows = []
    for variant, by_stage in seed.items():
        for number, (threshold, ppl) in by_stage.items():
            if (variant, number) in found.index:
                ours = found.loc[(variant, number)]
                rows += [
                    (f"{variant}, stage {number}: threshold", threshold, ours["threshold"]),
                    (
                        f"{variant}, stage {number}: PPL of its own tokens (valid)",
                        ppl,
                        ours["val_ppl"],
                    ),
                ]
    all_seed = (7.89, 41.83, 51.06, 54.92)
    for number in sorted(found.loc[SIX].index):
        rows.append(
            (
                f"{SIX}: ALL test tokens with {number} stages",
                all_seed[number] if number < 4 else None,
                found.loc[(SIX, number), "all_ppl"],
            )
        )
    return beside_reported(rows, frame)


_claim = claim_maker(EXPERIMENT, SLUG, "seed 001", min_seeds=3)


CLAIMS = (
    _claim(
        "stage-two-worse",
        "At ratio 0.9 the second stage is worse than the first",
        stage_change(NINE, 1, 2, "val_ppl"),
        "each on its own remaining tokens, as in the seed",
        expect="above",
        reported=100 * (92.65 / 84.43 - 1),
    ),
    _claim(
        "threshold-rises",
        "The threshold rises from stage to stage (the seed: states change less)",
        at_stage(NINE, 2, "threshold", 1),
        "stage 2 minus stage 1: of two cosines, base (h0, h30) and stage (in, out)",
        expect="above",
        reported=0.4670 - 0.1786,
        unit="cosine",
    ),
    _claim(
        "smaller-ratio",
        "Ratio 0.6 is more selective, so its later stages are better",
        stage_change(SIX, 1, 3, "val_ppl"),
        "stage 3 against stage 1, each on its own tokens",
        reported=100 * (45.72 / 151.9 - 1),
    ),
    _claim(
        "smaller-ratio-base",
        "... but not because those tokens are easier for the base too",
        stage_change(SIX, 1, 3, "base_ppl"),
        "base on the tokens of stage 3 against stage 1 (test; the stages' own figure: valid)",
        expect="above",
    ),
    _claim(
        "improves-all",
        "The cascade improves the perplexity of all tokens (ratio 0.6)",
        against_base(SIX, "test_ppl", "base_all_ppl"),
        "all test tokens after all five stages, each by the model at which it stops",
        reported=100 * (57.02 / 7.89 - 1),
        source="follow-up of seed 001",
    ),
    _claim(
        "improves-all-nine",
        "The cascade improves the perplexity of all tokens (ratio 0.9)",
        against_base(NINE, "test_ppl", "base_all_ppl"),
        "all test tokens, each answered by the model at which it stops",
    ),
    _claim(
        "improves-all-base",
        "... also when its stages start as the base",
        against_base(IDENTITY, "test_ppl", "base_all_ppl"),
        "base's frozen head and an identity start, otherwise equal",
    ),
)
