"""The claims of Experiment 18 and the measures that decide them."""

import numpy as np
import pandas as pd

from lib.context.scaling import fit_power_law
from lib.context.scaling_run import column, last_column
from lib.context.experiments.context_vector import LAYOUTS
from lib.context.experiments.scaling_variants import (
    EQUAL,
    EXPERIMENT,
    FIXED,
    SEED,
    SLUG,
    Exp18,
    variant,
)
from lib.results.claims import Measure, Tables, by_seed, claim_maker, difference, filled


def grid(frame: pd.DataFrame, layout: str, metric: str) -> pd.DataFrame:
    """Values of a metric, seeds x sizes.

    Raises Absent when the layout has none, ValueError when only some of its runs have one.
    """
    own = frame[frame["variant"].str.startswith(LAYOUTS[layout] + ",")]
    filled(own[metric], f"{LAYOUTS[layout]} has no {metric}")
    return own.pivot(index="seed", columns="tokens", values=metric).astype(float)


def exponents(layout: str, metric: str = "test_ppl") -> Measure:
    """Exponent of the law without floor, one a seed."""

    def measure(tables: Tables) -> np.ndarray:
        wide = grid(tables(), layout, metric)
        return np.array([fit_power_law(list(wide.columns), row).alpha for row in wide.to_numpy()])

    return measure


def exponent_gap(layout: str, metric: str, baseline: str) -> Measure:
    """Difference of exponents between two schedules, seed by seed."""
    return difference(exponents(layout, metric), exponents(layout, baseline))


def step(layout: str, metric: str) -> Measure:
    """Change of a metric from the second largest to the largest size, seed by seed."""

    def measure(tables: Tables) -> np.ndarray:
        wide = grid(tables(), layout, metric)
        return (wide.iloc[:, -1] - wide.iloc[:, -2]).to_numpy()

    return measure


def patience_cost(patience: int) -> Measure:
    """Percent by which stopping early raises test perplexity at the largest size."""

    def measure(tables: Tables) -> np.ndarray:
        early = grid(tables(), "first_layer", column(FIXED, patience, "test_ppl"))
        fixed = grid(tables(), "first_layer", column(FIXED, 0, "test_ppl"))
        return (100 * (early / fixed - 1)).iloc[:, -1].to_numpy()

    return measure


def rank_spread(tables: Tables) -> np.ndarray:
    """Largest minus smallest effective rank over the sizes, in points, seed by seed."""
    wide = grid(tables(), "first_layer", "er_pct")
    return (wide.max(axis=1) - wide.min(axis=1)).to_numpy()


def worse_than_unigram(tables: Tables) -> np.ndarray:
    """Percent change from the unigram model to the seed's recipe at the smallest size."""
    frame = tables()
    ours = grid(frame, "first_layer", column(SEED, 1, "test_ppl")).iloc[:, 0]
    name = variant("first_layer", int(ours.name))
    return (100 * (ours / by_seed(frame, name, "unigram_test_ppl") - 1)).to_numpy()


_claim = claim_maker(EXPERIMENT, SLUG, "seed 003, section 4", unit="exponent", min_seeds=3)

CLAIMS = (
    _claim(
        "falls",
        "Perplexity falls with training tokens by a power law (exponent below 0)",
        exponents("first_layer"),
        "one validation and one test text, one vocabulary, one batch for all sizes",
        reported=-0.459,
    ),
    _claim(
        "steepness",
        "The exponent is as steep as -0.459 under a fixed batch and fixed texts (within 0.05)",
        lambda tables: exponents("first_layer")(tables) + 0.459,
        "sizes are 2,000 to 16,000 tokens of another text, so this speaks of the recipe only",
        expect="within",
        threshold=0.05,
        unit="difference of exponent",
    ),
    _claim(
        "recipe-steepens",
        "The seed's growing number of updates makes the exponent steeper, patience 1 in both",
        exponent_gap("first_layer", column(SEED, 1, "test_ppl"), column(FIXED, 1, "test_ppl")),
        "same contexts, texts, sizes and patience; only the batch differs: it gives the seed's 8 "
        "to 342 updates an epoch",
        unit="difference of exponent",
        source="control of seed 003, section 4",
    ),
    _claim(
        "recipe-and-stopping-steepen",
        "The seed's batches with patience 1 make the exponent steeper than a fixed batch that "
        "never stops early",
        exponent_gap("first_layer", column(SEED, 1, "test_ppl"), column(FIXED, 0, "test_ppl")),
        "same contexts, texts and sizes; batch and stopping differ together",
        unit="difference of exponent",
        source="control of seed 003, section 4",
    ),
    _claim(
        "equal-budget",
        "The exponent stays below 0 when every size gets an equal budget of updates",
        exponents("first_layer", column(EQUAL, 0, "test_ppl")),
        f"best epoch on valid within {Exp18.equal_updates} updates of one batch for every size",
    ),
    _claim(
        "equal-updates-last",
        "... also at the last update, where every size has made equally many",
        exponents("first_layer", last_column(EQUAL, "test_ppl")),
        f"all {Exp18.equal_updates} updates of one batch for every size, no choice of the epoch",
        source="control of seed 003, section 4",
    ),
    _claim(
        "smallest-beats-unigram",
        "The seed's recipe at the smallest size beats the unigram model",
        worse_than_unigram,
        "add-one unigram model of the same training tokens",
        unit="% change of perplexity",
        source="control of seed 003, section 4",
    ),
    _claim(
        "rank-constant",
        "The effective rank hardly depends on the number of tokens (spread below 3 points)",
        rank_spread,
        "rank of exact contexts on one fixed test text",
        threshold=3.0,
        reported=0.8,
        unit="points of effective rank",
    ),
    _claim(
        "accuracy-dips",
        "Accuracy falls from the second largest to the largest size",
        step("first_layer", column(FIXED, 1, "test_acc_pct")),
        "fixed test text; patience 1 as in the seed (whose texts differed by size)",
        reported=-2.2,
        unit="points of accuracy",
        source="seed 003, section 5",
    ),
    _claim(
        "early-stopping-costs",
        "Patience 1 stops too early at the largest size (costs over 1 %)",
        patience_cost(1),
        "patience 1 replayed on the curve of the run of fixed length; best epoch on valid in both",
        expect="above",
        threshold=1.0,
        unit="% change of perplexity",
        source="seed 003, section 5",
    ),
    _claim(
        "patience-3-helps",
        "Patience 3 still costs over 1 % at the largest size",
        patience_cost(3),
        "patience 3 against fixed length, replayed on the same curve",
        expect="above",
        threshold=1.0,
        unit="% change of perplexity",
        source="seed 003, section 5",
    ),
)
