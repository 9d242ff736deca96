"""Experiment 13: is it hardness that helps a head trained on hard tokens, or the wider text?"""

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from lib.cascade.material import MaterialHandle
from lib.cascade.stage_run import StageRun
from lib.cascade.stage_run import run as run_stage
from lib.cascade.training import StageTraining
from lib.cascade.experiments.cascade import (
    CascadeParameters,
    against_base,
    beside_reported,
    finish,
    tasks_of,
)
from lib.figures import training
from lib.parameters import real, whole
from lib.results import store, tables
from lib.results.claims import change, claim_maker
from lib.runs.sweep import Task

EXPERIMENT, SLUG = "hard_vs_all", "13_hard_against_all"
HARD, FIRST, SAME = "Hard tokens", "All tokens (first N)", "All tokens (same text)"
NARROW, LOSS, COPIED = "Hard tokens, narrow text", "Highest loss", "Hard tokens, base's head"


@dataclass(frozen=True)
class Exp13(CascadeParameters):
    """A linear head on the base's final states; N tokens for every arm, equal steps.

    The text of the hard arm is ``text_windows`` long, the part of it that its N tokens need.
    """

    text_windows: int = whole(160, 4, 100_000)
    tokens: int = whole(2048, 32, 10_000_000)
    hard_ratio: float = real(0.116, 0.01, 0.9)
    steps: int = whole(64, 1, 1_000_000)
    batch: int = whole(32, 1, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)

    QUICK = {
        **CascadeParameters.QUICK,
        "train_windows": 24,
        "text_windows": 24,
        "tokens": 256,
        "steps": 12,
    }
    TINY = {**CascadeParameters.TINY, "text_windows": 20, "tokens": 128, "steps": 8}


PARAMETERS = Exp13


def variants(material: MaterialHandle | None, parameters: Exp13) -> dict[str, StageRun]:
    """The seed's two arms and the controls that part hardness from coverage of text."""
    p = parameters
    hard = StageRun(
        material,
        StageTraining(p.steps, p.batch, p.learning_rate, weight_decay=0.01),
        criterion="last_layer",
        hard_ratio=p.hard_ratio,
        train_tokens=p.tokens,
        text_windows=p.text_windows,
        arrangement="single",
        layers=0,
    )
    narrow = max(2, p.tokens // 128)
    return {
        HARD: hard,
        FIRST: replace(hard, selection="first"),
        SAME: replace(hard, selection="random"),
        NARROW: replace(hard, text_windows=narrow),
        LOSS: replace(hard, selection="loss"),
        COPIED: replace(hard, head="copied"),
    }


def tasks(material: MaterialHandle, parameters: Exp13) -> list[Task]:
    """Every run."""
    return tasks_of(EXPERIMENT, run_stage, variants(material, parameters), parameters.seeds)


def run(material: MaterialHandle, parameters: Exp13) -> pd.DataFrame:
    """Train all arms; one row an arm and seed, scored on the same hard test tokens."""
    return finish(SLUG, tasks(material, parameters), parameters)


def reported_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The seed's two arms beside ours, and the line that it did not draw."""
    mean = frame.groupby("variant")[["test_ppl", "base_ppl", "base_inner_ppl"]].mean()
    return beside_reported(
        [
            ("hard tokens: PPL of hard tokens", 1252, mean.loc[HARD, "test_ppl"]),
            ("first N tokens: PPL of hard tokens", 3115, mean.loc[FIRST, "test_ppl"]),
            ("ratio of the two", 0.402, mean.loc[HARD, "test_ppl"] / mean.loc[FIRST, "test_ppl"]),
            (
                "N tokens of the hard arm's text: PPL of hard tokens",
                None,
                mean.loc[SAME, "test_ppl"],
            ),
            (
                "the base's own head, untouched: PPL of hard tokens",
                None,
                mean.loc[HARD, "base_ppl"],
            ),
            ("... without the ends of records", None, mean.loc[HARD, "base_inner_ppl"]),
        ],
        frame,
    )


def perplexity_figure(size: str) -> Figure:
    """Perplexity of the hard test tokens for every arm, beside the base's own head."""
    frame = store.read(SLUG, size=size)
    return training.intervals(
        frame,
        list(dict.fromkeys(frame["variant"])),
        f"A new head for hard tokens ({tables.corpora(frame)})",
        label="perplexity of the hard test tokens",
        logarithmic=True,
        floors={"base's own head": frame["base_ppl"].iloc[0]},
    )


FIGURES = {"hard": perplexity_figure}


_claim = claim_maker(EXPERIMENT, SLUG, "seed 000", min_seeds=3)


CLAIMS = (
    _claim(
        "hard-beats-all",
        "Training on hard tokens beats training on all tokens, for hard ones",
        change(HARD, FIRST),
        "the seed's arms: equal N, but the first N tokens are one ninth of the text",
        reported=100 * (1252 / 3115 - 1),
    ),
    _claim(
        "not-coverage",
        "... also when both arms are drawn from the same text",
        change(HARD, SAME),
        "equal N, steps, initial weights and text",
    ),
    _claim(
        "not-hardness",
        "Wider text alone, without any hardness, is better than the first N",
        change(SAME, FIRST),
        "random tokens of the hard arm's text against its first N",
    ),
    _claim(
        "narrow",
        "Hard tokens of the first N tokens' text alone are enough",
        change(NARROW, FIRST),
        "equal text and steps; the hard ones are a ninth as many tokens",
    ),
    _claim(
        "easy-useless",
        "Easy tokens add nothing: the true worst tokens alone are better than a mixture",
        change(LOSS, SAME),
        "equal N; highest base loss against random, same text",
    ),
    _claim(
        "better-than-base",
        "A head trained on hard tokens serves them better than the base's",
        against_base(HARD),
        "same tokens; the base's own head, not trained on them",
    ),
    _claim(
        "trained-on",
        "... also when it starts from the base's head",
        against_base(COPIED),
        "same tokens; the head copied and trained on",
    ),
    _claim(
        "trained-on-inside",
        "... also when the ends of records are left out",
        against_base(COPIED, "inner_ppl", "base_inner_ppl"),
        "the label of an end-of-record token is the start of an unrelated record",
    ),
)
