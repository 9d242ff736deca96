"""Experiment 16: is the token at every layer what makes the context vector useful?"""

import pandas as pd
from matplotlib.figure import Figure

from lib.context.experiments import token_input_variants
from lib.context.experiments.context_vector import remembered
from lib.context.experiments.token_input_variants import (
    EVERY,
    EXPERIMENT,
    FIRST,
    FLAT,
    MATCHED,
    NO_PHASE_ONE,
    SLUG,
    TRAINED,
    UNIGRAM,
    memory_name,
    window_name,
)
from lib.context import figures as contexts
from lib.figures import training
from lib.results import store, tables
from lib.results.claims import by_seed, change, claim_maker, difference, level

Exp16 = PARAMETERS = token_input_variants.Exp16
run = token_input_variants.run


def properties(frame: pd.DataFrame) -> pd.DataFrame:
    """What the contexts are like: rank by two definitions, contraction, memory, Phase 1."""
    columns = {
        "er_pct": "effective rank %",
        "covariance_er_pct": "centred covariance rank %",
        "noise_gain": "noise gain",
        "iterations": "Phase 1 iterations",
        "phase_one_seconds": "Phase 1 seconds",
        "context_params": "context parameters",
        "test_acc_pct": "test accuracy %",
    }
    known = {column: label for column, label in columns.items() if column in frame}
    by_variant = frame.groupby("variant", sort=False)
    found = by_variant[list(known)].mean().rename(columns=known)
    memory = pd.Series({variant: remembered(rows) for variant, rows in by_variant})
    reported = store.reported(EXPERIMENT).pivot(index="row", columns="metric", values="value")
    for row, values in reported.iterrows():
        found.loc[f"seed: {row}", "effective rank %"] = values["er_pct"]
        found.loc[f"seed: {row}", "test accuracy %"] = values["acc_pct"]
    found = found.round(2)
    found.insert(3, "tokens to cosine 0.99", memory.reindex(found.index))
    return tables.captioned(found.fillna(""), frame)


def main_variants(frame: pd.DataFrame) -> list[str]:
    """The two layouts and their controls, without windows, cut memories and the wide rows."""
    wanted = [EVERY, EVERY + NO_PHASE_ONE, EVERY + TRAINED, FIRST, FIRST + NO_PHASE_ONE]
    wanted += [FIRST + TRAINED, MATCHED, FLAT]
    return [name for name in wanted if name in set(frame["variant"])]


def draw_perplexity(size: str) -> Figure:
    """Test perplexity of the layouts and their controls."""
    frame = store.read(SLUG, size=size)
    title = f"Where the token enters ({tables.corpora(frame)})"
    return training.intervals(frame, main_variants(frame), title, floors=_floor(frame))


def draw_memory(size: str) -> Figure:
    """Test perplexity against tokens seen: MLPs, the cell cut to k tokens, the cell uncut."""
    frame = store.read(SLUG, size=size)
    series = {
        "MLP over the last k tokens": _series(frame, window_name),
        "the same cell, cut to its last k tokens": _series(frame, memory_name),
    }
    levels = {EVERY: EVERY, FIRST: FIRST, f"{EVERY}{TRAINED}": EVERY + TRAINED}
    title = f"How many tokens the context is worth ({tables.corpora(frame)})"
    return contexts.against_tokens(frame, series, levels, title)


def draw_curves(size: str) -> Figure:
    """Validation perplexity over the epochs of Phase 2."""
    curve = store.read(SLUG, "curve", size)
    frame = store.read(SLUG, size=size)
    names = [EVERY, FIRST, MATCHED, EVERY + NO_PHASE_ONE, FIRST + NO_PHASE_ONE]
    title = f"Validation in Phase 2 ({tables.corpora(frame)})"
    return training.curves(curve, names, title, floors=_floor(frame, "val_ppl"))


def draw_rank(size: str) -> Figure:
    """Test perplexity against effective rank, a point a variant."""
    frame = store.read(SLUG, size=size)
    names = [name for name in main_variants(frame) if frame_has(frame, name, "er_pct")]
    title = f"Effective rank and perplexity ({tables.corpora(frame)})"
    return contexts.rank_against_perplexity(frame, names, title)


def frame_has(frame: pd.DataFrame, variant: str, column: str) -> bool:
    """Whether a variant has any value in a column."""
    return bool(frame.loc[frame["variant"] == variant, column].notna().any())


def _floor(frame: pd.DataFrame, metric: str = "test_ppl") -> dict[str, float]:
    return {k: v for k, v in tables.floors(frame, metric).items() if k == UNIGRAM}


def _series(frame: pd.DataFrame, name) -> dict[int, str]:
    known = set(frame["variant"])
    return {count: name(count) for count in range(1, 17) if name(count) in known}


FIGURES = {
    "perplexity": draw_perplexity,
    "memory": draw_memory,
    "curves": draw_curves,
    "rank": draw_rank,
}


def best_window(metric_tables):
    """Percent change from the best k-token MLP (chosen on valid, per seed) to the context row."""
    frame = metric_tables()
    own = by_seed(frame, EVERY, "test_ppl")
    windows = frame[frame["variant"].str.endswith("-token MLP")]
    if windows.empty:
        raise store.Absent("no k-token MLP among the results")
    chosen = windows.loc[windows.groupby("seed")["val_ppl"].idxmin()].set_index("seed")
    return (100 * (own / chosen["test_ppl"].reindex(own.index) - 1)).to_numpy()


_claim = claim_maker(EXPERIMENT, SLUG, "seed 003, section 1", min_seeds=3)


CLAIMS = (
    _claim(
        "better",
        "The token at every layer gives a lower perplexity than at the first layer only",
        change(EVERY, FIRST),
        "equal data, validation text, head, batch and updates (the seed's two rows had none equal)",
        reported=-37.7,
    ),
    _claim(
        "better-matched",
        "The gain remains when both context blocks have equally many parameters",
        change(EVERY, MATCHED),
        "first-layer block narrowed to the every-layer block's parameter count",
    ),
    _claim(
        "not-widths",
        "A gain remains without the decreasing widths and learned residuals",
        change(EVERY, FLAT),
        "first-layer block with equal widths and identity residuals: only the token input differs",
    ),
    _claim(
        "better-untrained",
        "The gain is there without Phase 1 (random blocks)",
        change(EVERY + NO_PHASE_ONE, FIRST + NO_PHASE_ONE),
        "no Phase 1 for either layout",
    ),
    _claim(
        "phase-one-helps",
        "Phase 1 improves the contexts of the every-layer block",
        change(EVERY, EVERY + NO_PHASE_ONE),
        "the same block left random",
    ),
    _claim(
        "phase-one-helps-first",
        "Phase 1 improves the contexts of the first-layer block",
        change(FIRST, FIRST + NO_PHASE_ONE),
        "the same block left random",
    ),
    _claim(
        "rank-higher",
        "The token at every layer keeps the effective rank high",
        difference(level(EVERY, "er_pct"), level(FIRST, "er_pct")),
        "both on the same clean test contexts (the seed compared a train with a validation rank)",
        expect="above",
        reported=67.7,
        unit="points of effective rank",
    ),
    _claim(
        "rank-by-product",
        "The low rank of the first-layer block comes from its layout, before any training",
        difference(level(EVERY + NO_PHASE_ONE, "er_pct"), level(FIRST + NO_PHASE_ONE, "er_pct")),
        "ranks of both blocks without Phase 1: if equal, Phase 1 makes the low rank",
        expect="above",
        threshold=5.0,
        unit="points of effective rank",
    ),
    _claim(
        "beats-window",
        "The context vector beats a fixed window of the last 1 to 6 tokens",
        best_window,
        "best k-token MLP, k chosen on valid; same head, batch and updates",
    ),
    _claim(
        "long-memory",
        "The context vector carries more than the last 4 tokens",
        change(EVERY, memory_name(4)),
        "the same cell cut to its last 4 tokens in training and in measuring",
        threshold=-1.0,
    ),
    _claim(
        "near-upper-bound",
        "Unsupervised Phase 1 comes within 5 % of training the cell for the task",
        change(EVERY, EVERY + TRAINED),
        "the same cell trained end to end (truncated, 16 tokens) with as many updates",
        expect="within",
        threshold=5.0,
    ),
)
