"""What claims of the character experiments have in common: texts, and measures of the probe."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lib.character.figures.common import metric
from lib.results.claims import Claim, Measure, change, claim_maker, filled
from lib.results.store import Absent, Results

WIKITEXT = ("wikitext-2",)  # Experiments 1-4
REPEATED = ("repeated",)  # every figure that R4 reports for Experiments 5-11
LEAST_EXITS = 5.0  # percent of the symbols; with fewer, exits cannot change what is measured


def on_wikitext(experiment: str, source: str) -> Callable[..., Claim]:
    """Claims of Experiments 1-4, which R4 measured on WikiText-2."""
    return claim_maker(experiment, source, texts=WIKITEXT)


def on_repeated(experiment: str, source: str) -> Callable[..., Claim]:
    """Claims of Experiments 5-11, which R4 measured on one repeated sentence."""
    return claim_maker(experiment, source, texts=REPEATED)


def perplexity_change(treatment: str, baseline: str) -> Measure:
    """Percent change of the deciding perplexity between two variants, seed by seed."""

    def measure(results: Results) -> np.ndarray:
        return change(treatment, baseline, metric(results.corpus))(results)

    return measure


def probed(
    variant: str, column: str, state: str, split: str = "", table: str = "summary", **where
) -> Measure:
    """A column of the probe's tables by seed, for one state and split; ``where`` selects rows.

    Without a ``split`` it is that of the claim: ``report``, but on ``repeated`` all of valid, on
    which R4 reported, unless the column is of what was ``chosen`` on the first half.
    """

    def measure(results: Results) -> pd.Series:
        frame = results(table)
        whole = results.corpus == "repeated" and not column.startswith("chosen_")
        own = split or ("valid" if whole else "report")
        wanted = {"variant": variant, "state": state, "split": own}
        for name, value in {**wanted, **where}.items():
            frame = frame[frame[name] == value]
        values = filled(
            frame.set_index("seed").sort_index()[column], f"{variant!r} has no {column} in {table}"
        )
        if frame["seed"].duplicated().any():
            raise ValueError(f"several rows a seed for {column} of {variant!r}")
        results.used.update(frame["run_id"])
        return values.astype(float)

    return measure


def at_threshold(variant: str, column: str, state: str, threshold: float = 0.8) -> Measure:
    """A column of the table of exits by seed, at one threshold of confidence."""
    return probed(variant, column, state, table="exits", threshold=threshold)


def among_exits(variant: str, column: str, state: str, threshold: float) -> Measure:
    """A column about the symbols that exit, of the seeds in which any does. Absent if in none."""

    def measure(results: Results) -> np.ndarray:
        table = results("exits")
        frames = {**results.frames, "exits": table[table["exit_pct"] > 0]}
        return at_threshold(variant, column, state, threshold)(replace(results, frames=frames))

    return measure


def of_blocks(layers: int, total: int) -> Measure:
    """Percent of the blocks' compute at a fixed depth, by the report's formula: no run is asked."""
    return lambda results: np.array([100 * layers / total])


ROUTED = {  # the report's words for columns of the table of exits
    "val_ppl": "ppl",
    "acc_pct": "acc_pct",
    "shallow_pct": "exit_pct",
    "compute_pct": "compute_pct",
}


def beside_routed(
    variants: Mapping[str, str],
    best: Sequence[str],
    last: Sequence[str],
    thresholds: Sequence[float],
) -> dict[tuple[str, str], Measure]:
    """Measures beside the report's routed networks, ``variants`` by its name for them.

    ``best``: metrics of its table of models, at the best epoch and threshold 0.8; ``last``: of its
    tables of ``thresholds``, which are of the last epoch.
    """
    models = {
        (name, metric): at_threshold(variant, ROUTED[metric], "best")
        for name, variant in variants.items()
        for metric in best
    }
    return models | {
        (f"{name} final threshold {threshold}", metric): at_threshold(
            variant, ROUTED[metric], "last", threshold
        )
        for name, variant in variants.items()
        for threshold in thresholds
        for metric in last
    }


def if_enough_exit(measure: Measure, exits: Measure) -> Measure:
    """The measure where on average over seeds at least ``LEAST_EXITS`` percent of the symbols exit.

    Raises Absent where fewer do: a network that hardly ever exits loses nothing by exiting.
    """

    def guarded(results: Results) -> np.ndarray:
        share = float(np.mean(exits(results)))
        if share < LEAST_EXITS:
            few = f"only {share:.2g} % of the symbols exit (mean over seeds)"
            raise Absent(f"{few}, and under {LEAST_EXITS:g} % a verdict could not fail")
        return measure(results)

    return guarded
