"""Experiment 12: do two layers trained on hard tokens improve them, against the base itself?"""

from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from lib.cascade.material import MaterialHandle
from lib.cascade.stage_run import BaseTwice, StageRun, run_base_twice
from lib.cascade.stage_run import run as run_stage
from lib.cascade.training import StageTraining
from lib.experiments.cascade import (
    CascadeParameters,
    against_base,
    beside_reported,
    common_change,
    finish,
    tasks_of,
)
from lib.figures import training
from lib.parameters import real, whole
from lib.results import store, tables
from lib.results.claims import Claim, Measure
from lib.training.sweep import Task

EXPERIMENT, SLUG = "exp12", "12_two_layer_stage"
SEED, TWICE = "Seed 002", "Base applied twice"
IDENTITY = "Base's head, starts as the base"
DECIDING = (SEED, "Hard", "Random tokens", "First tokens", "Length 1", IDENTITY)


@dataclass(frozen=True)
class Exp12(CascadeParameters):
    """Seed 002's own 100 steps at 1e-4 * 0.5, and a shorter, faster training for the controls.

    The rows named in ``DECIDING`` take ``seeds`` seeds, the rest ``control_seeds`` of them.
    """

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
    control_seeds: int = whole(2, 1, 1_000)

    QUICK = {**CascadeParameters.QUICK, "wikitext_windows": 0, "seed_steps": 2, "seed_batch": 1,
             "steps": 2, "natural_windows": 2}
    TINY = {**CascadeParameters.TINY, "wikitext_windows": 0, "seed_steps": 2, "seed_batch": 1,
            "steps": 2, "natural_windows": 2}

    def counts(self) -> dict[str, int]:
        """With WikiText windows, if any are asked for."""
        return super().counts() | (
            {"wikitext": self.wikitext_windows} if self.wikitext_windows else {})


PARAMETERS = Exp12


def variants(material: MaterialHandle | None, parameters: Exp12) -> dict[str, StageRun]:
    """The seed's stage and the controls, which take equal tokens and steps, and an equal rate
    unless they start from the base's head."""
    p = parameters
    seed = StageRun(
        material, StageTraining(p.seed_steps, p.seed_batch, p.seed_rate, "linear", clip=1.0),
        hard_ratio=p.hard_ratio, natural_windows=p.natural_windows)
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
    twice = BaseTwice(material, hard_ratio=parameters.hard_ratio,
                      natural_windows=min(parameters.natural_windows, parameters.test_windows))
    rows = variants(material, parameters)
    few = min(parameters.seeds, parameters.control_seeds)
    listed = tasks_of(EXPERIMENT, run_stage, rows, few)
    deciding = {name: rows[name] for name in DECIDING}
    listed += tasks_of(EXPERIMENT, run_stage, deciding, parameters.seeds)[few * len(deciding):]
    return tasks_of(EXPERIMENT, run_base_twice, {TWICE: twice}, 1) + listed


def run(material: MaterialHandle, parameters: Exp12) -> pd.DataFrame:
    """Train all variants; one row a variant and seed."""
    return finish(SLUG, tasks(material, parameters), parameters)


def reported_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The seed's figures beside ours, each under the name of what it really is."""
    twice = frame[frame["variant"] == TWICE].iloc[0]
    stage = frame[frame["variant"] == SEED].mean(numeric_only=True)
    return beside_reported([
        ("threshold (10 % quantile of train cosines)", 0.9341, twice["threshold"]),
        ("base, all tokens, one pass: PPL", 12.50, twice["base_all_ppl"]),
        ("base, hard tokens, two passes: PPL (the seed's 'LLM 0 hard')", 24343.01,
         twice["test_ppl"]),
        ("base, the same hard tokens, one pass: PPL", None, twice["base_ppl"]),
        ("... without the ends of records", None, twice["base_inner_ppl"]),
        ("base, easy tokens, one pass: PPL", None, twice["base_easy_ppl"]),
        ("share of ends of records: among hard tokens", None, twice["boundary_share"]),
        ("share of ends of records: among all tokens", None, twice["boundary_all_share"]),
        ("'true early exit' (two passes): share that exits", 0.755, twice["exit_rate"]),
        ("... accuracy of those", 0.0207, twice["exit_accuracy"]),
        ("... PPL of all tokens", 13847.47, twice["twice_all_ppl"]),
        ("base, all tokens, one pass: accuracy", None, twice["base_all_accuracy"]),
        ("stage before training, ALL tokens in text order: PPL", 57792.05,
         stage["natural_before_ppl"]),
        ("stage after training, ALL tokens in text order: PPL", 11618.66,
         stage["natural_after_ppl"]),
        ("stage after training, hard tokens of test: PPL", None, stage["test_ppl"]),
    ], frame)


def perplexity_figure(size: str) -> Figure:
    """Perplexity of the hard test tokens: every variant beside one and two passes of the base."""
    frame = store.read(SLUG, size=size)
    names = list(dict.fromkeys(frame["variant"]))
    once = frame.loc[frame["variant"] == TWICE, "base_ppl"].iloc[0]
    return training.intervals(
        frame, names, f"Hard tokens: stages against the base ({tables.corpora(frame)})",
        label="perplexity of the hard test tokens", logarithmic=True,
        floors={"base, one pass": once})


def boundary_figure(size: str) -> Figure:
    """Perplexity over all test tokens when the stage answers the hard ones."""
    frame = store.read(SLUG, size=size)
    frame = frame[frame["variant"] != TWICE]
    return training.intervals(
        frame, list(dict.fromkeys(frame["variant"])),
        f"All tokens, hard ones answered by the stage ({tables.corpora(frame)})",
        metric="cascade_all_ppl", label="perplexity of all test tokens", logarithmic=True,
        floors={"base alone": frame["base_all_ppl"].iloc[0]})


FIGURES = {"hard": perplexity_figure, "all": boundary_figure}


def _claim(
    name: str, statement: str, measure: Measure, control: str, expect: str = "below", **more
) -> Claim:
    """A claim of seed 002 or a control of it."""
    more = {"reported": None, "unit": "% change of perplexity", "min_seeds": 3, **more}
    return Claim(id=f"{EXPERIMENT}-{name}", experiment=EXPERIMENT, slug=SLUG, source="seed 002",
                 statement=statement, measure=measure, expect=expect, control=control, **more)


CLAIMS = (
    _claim("improves-hard", "A two-layer stage improves the hard tokens it is trained on",
           against_base(SEED), "same tokens, base applied once (the seed applied it twice)",
           reported=-52.3),
    _claim("one-pass", "The base is at least ten times worse on hard tokens than on all tokens",
           against_base(TWICE, "base_ppl", "base_all_ppl"), "base applied once; no randomness",
           expect="above", threshold=900.0, reported=100 * (24343.01 / 12.5 - 1), min_seeds=1),
    _claim("double-pass", "The 24,343 is the base applied to its own output",
           against_base(TWICE), "identical packed tokens, two passes against one; no randomness",
           expect="above", threshold=10_000.0, min_seeds=1),
    _claim("low-cosine-is-hard", "Low-cosine tokens are harder for the base than the others",
           against_base(TWICE, "base_ppl", "base_easy_ppl"), "one pass, split by the seed's rule",
           expect="above", min_seeds=1),
    _claim("low-cosine-is-hard-inside", "... also when the ends of records are left out",
           against_base(TWICE, "base_inner_ppl", "base_easy_ppl"),
           "the label of an end-of-record token is the start of an unrelated record",
           expect="above", min_seeds=1),
    _claim("improves-all", "Handing hard tokens to the stage improves the perplexity of all tokens",
           against_base(SEED, "cascade_all_ppl", "base_all_ppl"),
           "all test tokens, each answered by the model at which it stops"),
    _claim("hard-beats-random", "Training on hard tokens is better for them than on random ones",
           common_change("Hard", "Random tokens"), "equal tokens, steps, rate and initial weights"),
    _claim("hard-beats-first", "... than on the first tokens of the text",
           common_change("Hard", "First tokens"), "equal tokens, steps, rate and initial weights"),
    _claim("hard-beats-loss", "... than on the tokens that the base really gets wrong",
           common_change("Hard", "Highest loss"), "equal tokens, steps, rate and initial weights"),
    _claim("packs-beat-single", "A pack of hard tokens is a useful context for each other",
           common_change("Hard", "Length 1"), "packs of 128 against every token alone"),
    _claim("four-layers", "Four added layers are better than two",
           common_change("4 layers", "Hard"), "equal tokens and steps; seed 002's open list"),
    _claim("more-data", "More text is better at equal steps",
           common_change("Hard", "Hard, half the text"), "equal steps; seed 002's open list"),
    _claim("larger-ratio", "A hard ratio of 30 % is better over all tokens than 10 %",
           common_change("Hard ratio x3", "Hard", "cascade_all_ppl"),
           "all test tokens; seed 002's open list"),
    _claim("base-head-hard", "A stage that starts as the base improves hard tokens",
           against_base(IDENTITY), "same tokens, base applied once, base's frozen head"),
    _claim("base-head-inside", "... also when the ends of records are left out",
           against_base(IDENTITY, "inner_ppl", "base_inner_ppl"),
           "an end of record is always followed by the template's first word"),
    _claim("wikitext", "The cascade of seed 002 improves WikiText-2 as well",
           against_base(SEED, "wikitext_cascade_all_ppl", "wikitext_base_all_ppl"),
           "all tokens of another corpus; seed 002's open list"),
)
