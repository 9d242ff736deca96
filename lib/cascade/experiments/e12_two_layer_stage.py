"""Experiment 12: do two layers trained on hard tokens improve them, against the base itself?"""

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from lib.cascade.material import MaterialHandle
from lib.cascade.stage_run import BaseTwice, StageRun, run_base_twice
from lib.cascade.stage_run import run as run_stage
from lib.cascade.training import StageTraining
from lib.cascade.experiments import two_layer_claims
from lib.cascade.experiments.cascade import (
    CascadeParameters,
    beside_reported,
    finish,
    tasks_of,
)
from lib.cascade.experiments.two_layer_claims import EXPERIMENT, IDENTITY, SEED, SLUG, TWICE
from lib.figures import training
from lib.parameters import real, whole
from lib.results import store, tables
from lib.runs.sweep import Task


@dataclass(frozen=True)
class Exp12(CascadeParameters):
    """Seed 002's own 100 steps at 1e-4 * 0.5, and a shorter, faster training for the controls."""

    wikitext_windows: int = whole(40, 0, 10_000)
    hard_ratio: float = real(0.1, 0.01, 0.9)
    seed_steps: int = whole(100, 1, 1_000_000)
    seed_batch: int = whole(4, 1, 10_000)
    seed_rate: float = real(5.0e-5, 0.0, 1.0, above=True)
    steps: int = whole(60, 1, 1_000_000)
    batch: int = whole(1, 1, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    base_head_rate: float = real(3.0e-4, 0.0, 1.0, above=True)
    natural_windows: int = whole(16, 1, 10_000)

    QUICK = {
        **CascadeParameters.QUICK,
        "wikitext_windows": 0,
        "seed_steps": 2,
        "seed_batch": 1,
        "steps": 2,
        "natural_windows": 2,
    }
    TINY = {
        **CascadeParameters.TINY,
        "wikitext_windows": 0,
        "seed_steps": 2,
        "seed_batch": 1,
        "steps": 2,
        "natural_windows": 2,
    }

    def counts(self) -> dict[str, int]:
        """With WikiText windows, if any are asked for."""
        return super().counts() | (
            {"wikitext": self.wikitext_windows} if self.wikitext_windows else {}
        )


PARAMETERS = Exp12


def variants(material: MaterialHandle | None, parameters: Exp12) -> dict[str, StageRun]:
    """The seed's stage and the controls, which take equal tokens and steps, and an equal rate
    unless they start from the base's head."""
    p = parameters
    seed = StageRun(
        material,
        StageTraining(p.seed_steps, p.seed_batch, p.seed_rate, "linear", clip=1.0),
        hard_ratio=p.hard_ratio,
        natural_windows=p.natural_windows,
    )
    short = StageTraining(p.steps, p.batch, p.learning_rate, "linear", clip=1.0)
    hard = replace(seed, training=short, natural_windows=0)
    tokens = replace(short, batch=short.batch * 128)
    gentle = replace(short, learning_rate=p.base_head_rate)
    half = max(1, round(p.hard_ratio * p.train_windows / 2)) * 128
    return {
        SEED: seed,
        "Hard": hard,
        "Random tokens": replace(hard, selection="random"),
        "First tokens": replace(hard, selection="first"),
        "Highest loss": replace(hard, selection="loss"),
        "Length 1": replace(hard, arrangement="single", training=tokens),
        "Full context": replace(hard, arrangement="full"),
        "Hard, half the text": replace(hard, train_tokens=half),
        "Hard ratio x2": replace(hard, hard_ratio=2 * p.hard_ratio),
        "Hard ratio x3": replace(hard, hard_ratio=3 * p.hard_ratio),
        "4 layers": replace(hard, layers=4),
        "Base's head, trained on": replace(hard, head="copied", training=gentle),
        IDENTITY: replace(hard, head="shared", start="identity", training=gentle),
    }


def tasks(material: MaterialHandle, parameters: Exp12) -> list[Task]:
    """Every run, the deterministic double pass first."""
    twice = BaseTwice(
        material,
        hard_ratio=parameters.hard_ratio,
        natural_windows=min(parameters.natural_windows, parameters.test_windows),
    )
    return tasks_of(EXPERIMENT, run_base_twice, {TWICE: twice}, 1) + tasks_of(
        EXPERIMENT, run_stage, variants(material, parameters), parameters.seeds
    )


def run(material: MaterialHandle, parameters: Exp12) -> pd.DataFrame:
    """Train all variants; one row a variant and seed."""
    return finish(SLUG, tasks(material, parameters), parameters)


def trained(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of trained stages: all but the base's double pass."""
    return frame[frame["variant"] != TWICE]


def reported_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The seed's figures beside ours, each under the name of what it really is."""
    twice = frame[frame["variant"] == TWICE].iloc[0]
    stage = frame[frame["variant"] == SEED].mean(numeric_only=True)
    return beside_reported(
        [
            ("threshold (10 % quantile of train cosines)", 0.9341, twice["threshold"]),
            ("base, all tokens, one pass: PPL", 12.50, twice["base_all_ppl"]),
            (
                "base, hard tokens, two passes: PPL (the seed's 'LLM 0 hard')",
                24343.01,
                twice["test_ppl"],
            ),
            ("base, the same hard tokens, one pass: PPL", None, twice["base_ppl"]),
            ("... without the ends of records", None, twice["base_inner_ppl"]),
            ("base, easy tokens, one pass: PPL", None, twice["base_easy_ppl"]),
            ("share of ends of records: among hard tokens", None, twice["boundary_share"]),
            ("share of ends of records: among all tokens", None, twice["boundary_all_share"]),
            ("'true early exit' (two passes): share that exits", 0.755, twice["exit_rate"]),
            ("... accuracy of those", 0.0207, twice["exit_accuracy"]),
            ("... PPL of all tokens", 13847.47, twice["twice_all_ppl"]),
            ("base, all tokens, one pass: accuracy", None, twice["base_all_accuracy"]),
            (
                "stage before training, ALL tokens in text order: PPL",
                57792.05,
                stage["natural_before_ppl"],
            ),
            (
                "stage after training, ALL tokens in text order: PPL",
                11618.66,
                stage["natural_after_ppl"],
            ),
            ("stage after training, hard tokens of test: PPL", None, stage["test_ppl"]),
        ],
        frame,
    )


def perplexity_figure(size: str) -> Figure:
    """Perplexity of the hard test tokens: every variant beside one and two passes of the base."""
    frame = store.read(SLUG, size=size)
    names = list(dict.fromkeys(frame["variant"]))
    once = frame.loc[frame["variant"] == TWICE, "base_ppl"].iloc[0]
    return training.intervals(
        frame,
        names,
        f"Hard tokens: stages against the base ({tables.corpora(frame)})",
        label="perplexity of the hard test tokens",
        logarithmic=True,
        floors={"base, one pass": once},
    )


def boundary_figure(size: str) -> Figure:
    """Perplexity over all test tokens when the stage answers the hard ones."""
    frame = trained(store.read(SLUG, size=size))
    return training.intervals(
        frame,
        list(dict.fromkeys(frame["variant"])),
        f"All tokens, hard ones answered by the stage ({tables.corpora(frame)})",
        metric="cascade_all_ppl",
        label="perplexity of all test tokens",
        logarithmic=True,
        floors={"base alone": frame["base_all_ppl"].iloc[0]},
    )


FIGURES = {"hard": perplexity_figure, "all": boundary_figure}
CLAIMS = two_layer_claims.CLAIMS
