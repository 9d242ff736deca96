"""Experiment 15: over all tokens, what does a cascade cost and what does it give?"""

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from lib.cascade.material import MaterialHandle
from lib.cascade.staged_run import StagedRun
from lib.cascade.staged_run import run as run_staged
from lib.cascade.experiments.cascade import (
    CascadeParameters,
    against_base,
    beside_reported,
    finish,
    tasks_of,
)
from lib.cascade import stage_figure as stages
from lib.parameters import real, whole
from lib.results import store
from lib.results.claims import change, claim_maker
from lib.runs.sweep import Task

EXPERIMENT, SLUG = "cascade_stages", "15_all_tokens"
SCRATCH, IDENTITY = "Scratch head, cosine", "Starts as the base, cosine"
ENTROPY = "Starts as the base, entropy"


@dataclass(frozen=True)
class Exp15(CascadeParameters):
    """Two stages of two layers, served with real early exit and timed: hence one worker."""

    workers: int = whole(1, 1, 64)
    train_windows: int = whole(32, 4, 100_000)
    valid_windows: int = whole(8, 2, 100_000)
    test_windows: int = whole(16, 2, 100_000)
    hard_ratio: float = real(0.3, 0.05, 0.9)
    stages: int = whole(2, 1, 20)
    layers: int = whole(2, 1, 64)
    train_tokens: int = whole(2048, 128, 10_000_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    base_head_rate: float = real(3.0e-4, 0.0, 1.0, above=True)
    served_windows: int = whole(4, 1, 10_000)

    QUICK = {**CascadeParameters.QUICK, "hard_ratio": 0.5, "train_tokens": 256, "served_windows": 2}
    TINY = {**CascadeParameters.TINY, "hard_ratio": 0.5, "train_tokens": 256, "served_windows": 2}


PARAMETERS = Exp15


def variants(material: MaterialHandle | None, parameters: Exp15) -> dict[str, StagedRun]:
    """The seed's kind of stage, one that starts as the base, and one handed on by entropy."""
    p = parameters
    scratch = StagedRun(
        material,
        stages=p.stages,
        layers=p.layers,
        hard_ratio=p.hard_ratio,
        criterion="last_two_layers",
        arrangement="packed",
        epochs=1,
        batch=1,
        learning_rate=p.learning_rate,
        train_tokens=p.train_tokens,
        served_windows=p.served_windows,
        speed=True,
    )
    identity = replace(
        scratch, head="shared", start="identity", learning_rate=p.base_head_rate, speed=False
    )
    return {SCRATCH: scratch, IDENTITY: identity, ENTROPY: replace(identity, criterion="entropy")}


def tasks(material: MaterialHandle, parameters: Exp15) -> list[Task]:
    """Every run."""
    return tasks_of(EXPERIMENT, run_staged, variants(material, parameters), parameters.seeds)


def run(material: MaterialHandle, parameters: Exp15) -> pd.DataFrame:
    """Train and serve all cascades; one row a variant and seed, tables ``stages``, ``served``."""
    return finish(SLUG, tasks(material, parameters), parameters)


def split_figure(size: str) -> Figure:
    """Perplexity of easy and hard tokens (split by the base) by the number of stages."""
    return stages.by_stage(
        SLUG,
        size,
        {"all_ppl": "all", "easy_ppl": "easy", "hard_ppl": "hard"},
        "Served with early exit: all, easy and hard tokens",
        table="served",
    )


def exit_figure(size: str) -> Figure:
    """Share of tokens that the base answers, by the number of stages."""
    return stages.by_stage(
        SLUG,
        size,
        {"exit_0": "answered by the base"},
        "Share of tokens that stop at the base",
        table="served",
        label="share of all tokens",
        logarithmic=False,
    )


FIGURES = {"split": split_figure, "exits": exit_figure}


def served_table(size: str) -> pd.DataFrame:
    """The ``served`` table averaged over seeds."""
    frame = store.read(SLUG, "served", size)
    columns = [c for c in frame if c.endswith(("_ppl", "_accuracy")) or c.startswith("exit_")]
    return frame.groupby(["variant", "stage"], sort=False)[columns].mean().round(3)


def cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Floating-point operations a token and seconds, cascade over base, mean over seeds."""
    frame = frame[frame["base_prefill_seconds"].notna()]  # one row is timed: the cost is the same
    ratios = pd.DataFrame(
        {
            "variant": frame["variant"],
            "FLOPs": frame["cascade_flops"] / frame["base_flops"],
            "prefill": frame["cascade_prefill_seconds"] / frame["base_prefill_seconds"],
            "generation": frame["cascade_generate_seconds"] / frame["base_generate_seconds"],
        }
    )
    return ratios.groupby("variant", sort=False).mean().round(3)


def reported_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The seeds' cost and all-token figures beside ours."""
    found = (
        store.read(SLUG, "stages", frame["size"].iloc[0])
        .groupby(["variant", "stage"])[["all_ppl", "reached"]]
        .mean()
    )
    scratch = frame[frame["variant"] == SCRATCH].mean(numeric_only=True)
    return beside_reported(
        [
            ("all tokens, base alone: PPL", 7.89, found.loc[(SCRATCH, 0), "all_ppl"]),
            (
                "all tokens, base + 1 newly drawn stage: PPL",
                41.83,
                found.loc[(SCRATCH, 1), "all_ppl"],
            ),
            (
                "all tokens, base + 2 newly drawn stages: PPL",
                51.06,
                found.loc[(SCRATCH, 2), "all_ppl"],
            ),
            ("share handed to stage 1", None, found.loc[(SCRATCH, 1), "reached"]),
            (
                "compute, % (seed: of base + stage for every token; ours: of the base alone)",
                95.3,
                100 * scratch["cascade_flops"] / scratch["base_flops"],
            ),
        ],
        frame,
    )


_claim = claim_maker(EXPERIMENT, SLUG, "seeds 001, 002", min_seeds=3)


CLAIMS = (
    _claim(
        "saves",
        "The cascade saves computation",
        against_base(SCRATCH, "cascade_flops", "base_flops"),
        "matrix products of a token against the base alone; the seed: base + stage for all",
        reported=-4.7,
        unit="% change of FLOPs",
    ),
    _claim(
        "generates-faster",
        "The cascade generates faster than the base alone",
        against_base(SCRATCH, "cascade_generate_seconds", "base_generate_seconds"),
        "wall clock, in turns, same prompts, 8 tokens for 2 of them; other load beside",
        unit="% change of seconds",
    ),
    _claim(
        "all-scratch",
        "A cascade with newly drawn heads improves all tokens",
        against_base(SCRATCH, "test_ppl", "base_all_ppl"),
        "all test tokens, hard ones in packs as in training; the seed's stages had 8 layers",
        reported=100 * (51.06 / 7.89 - 1),
        source="follow-up of seed 001",
    ),
    _claim(
        "all-identity",
        "A cascade whose stages start as the base improves all tokens",
        against_base(IDENTITY, "test_ppl", "base_all_ppl"),
        "all test tokens, hard ones in packs as in training (served: see the notebook)",
    ),
    _claim(
        "cosine-against-entropy",
        "The seeds' cosine hands on better tokens than entropy does",
        change(IDENTITY, ENTROPY),
        "all test tokens; equal ratio, stages, tokens and steps",
    ),
)
