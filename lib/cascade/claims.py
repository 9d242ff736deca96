"""Measures that claims of the CASCADE experiments share. The reports measured on Alpaca."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lib.parameters import Parameters
from lib.results.claims import Claim, Measure, by_seed, claim_maker, difference, level, ratio
from lib.results.statistics import percent_change
from lib.results.store import Absent, Results

ALPACA = ("alpaca",)


def on_alpaca(experiment: str, source: str) -> Callable[..., Claim]:
    """Claims of R0, R1 and R2, which measured on Alpaca records."""
    return claim_maker(experiment, source, texts=ALPACA)


def against_base(variant: str, metric: str = "test_ppl", base: str = "base_ppl") -> Measure:
    """Percent by which a column lies above another one of the same row, seed by seed."""
    return ratio(level(variant, metric), level(variant, base))


def on_wikitext(measure: Measure) -> Measure:
    """The measure where WikiText-2 was scored; elsewhere Absent: small runs leave it out."""

    def guarded(results: Results) -> np.ndarray:
        if not any(column.startswith("wikitext_") for column in results().columns):
            raise Absent("WikiText-2 was not scored")
        return measure(results)

    return guarded


def stage_change(variant: str, first: int, second: int, metric: str) -> Measure:
    """Percent change of a column of the ``stages`` table between two stages, seed by seed."""
    return ratio(of_stage(variant, second, metric), of_stage(variant, first, metric))


def stage_difference(variant: str, stage: int, minus: int, metric: str) -> Measure:
    """A column of the ``stages`` table at a stage less its value at stage ``minus``."""
    return difference(of_stage(variant, stage, metric), of_stage(variant, minus, metric))


def of_stage(variant: str, stage: int, metric: str) -> Measure:
    """A column of the ``stages`` table at a stage, seed by seed."""
    return lambda results: at_stage(results, variant, stage, metric)


def best_of_stage(variant: str, stage: int, metric: str) -> Measure:
    """A column of the curve (``epoch``, ``val_ppl`` ...) at the best epoch of a stage by valid."""

    def measure(results: Results) -> np.ndarray:
        curve = results("curve")
        own = curve[(curve["variant"] == variant) & (curve["stage"] == stage)]
        if own.empty:
            raise Absent(f"variant {variant!r} has no stage {stage}")
        best = own.loc[own.groupby("seed")["val_ppl"].idxmin()]
        results.used.update(best["run_id"])
        return best[metric].to_numpy(dtype=float)

    return measure


def epoch_change(variant: str, stage: int, first: int, second: int) -> Measure:
    """Percent change of a stage's perplexity on its own valid tokens between two epochs, by seed.

    Raises Absent where no seed has both.
    """

    def measure(results: Results) -> np.ndarray:
        curve = results("curve")
        own = curve[(curve["variant"] == variant) & (curve["stage"] == stage)]
        wide = own.pivot(index="seed", columns="epoch", values="val_ppl")
        both = wide.reindex(columns=[first, second]).dropna()
        if both.empty:
            raise Absent(f"stage {stage} of {variant!r} has no epoch {second}")
        results.used.update(own[own["seed"].isin(both.index)]["run_id"])
        return percent_change(both[second], both[first])

    return measure


def chosen(schema: type[Parameters], value: Callable[[Any], float]) -> Measure:
    """What the parameters of the results' size say: amounts of text, which no table repeats.

    Raises Absent for results of a custom size.
    """

    def measure(results: Results) -> np.ndarray:
        size = results.sizes[0]
        if size not in schema.sizes():
            raise Absent(f"no table holds the amounts of text of the size {size}")
        return np.array([value(schema.at(size))], dtype=float)

    return measure


def at_stage(results: Results, variant: str, stage: int, metric: str) -> pd.Series:
    """A column of the ``stages`` table by seed. Raises Absent for a stage that is not there."""
    frame = results("stages")
    held = Results(results.slug, {"": frame[frame["stage"] == stage]}, used=results.used)
    return by_seed(held, variant, metric)
