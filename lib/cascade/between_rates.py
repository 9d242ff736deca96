"""What a rule reaches at a share of tokens or a cost between those at which it was measured.

Thresholds are set on training text, so that two rules which route a quarter there route unequal
shares of test. The loss is taken as straight between two measured points, for both rules alike.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.results.claims import by_seed
from lib.results.statistics import percent_change
from lib.results.store import Absent, Results


def routed(results: Results, variant: str, rule: str) -> pd.DataFrame:
    """The routes of a variant by a rule. Raises Absent if there are none."""
    frame = results("routes")
    own = frame[(frame["variant"] == variant) & (frame["rule"] == rule)]
    if own.empty:
        raise Absent(f"no routes of {variant!r} by {rule!r}")
    results.used.update(own["run_id"])
    return own


def at_rate(results: Results, variant: str, rule: str, rate: float, column: str) -> pd.Series:
    """A column of the routes at a wanted rate, by seed. Raises Absent if there is none."""
    own = routed(results, variant, rule)
    own = own[own["wanted_rate"] == rate].set_index("seed").sort_index()
    if own.empty:
        raise Absent(f"no routes of {variant!r} by {rule!r} at {rate}")
    return own[column].astype(float)


def at_share(results: Results, variant: str, rule: str, share: float) -> pd.Series:
    """Test perplexity where a rule routes exactly this share of test, by seed; nothing routed is
    what the stage stands behind. Raises Absent for a larger share than was measured."""
    own, found = routed(results, variant, rule), {}
    behind = _behind(results, variant)
    for seed, rows in own.groupby("seed"):
        if rows["test_rate"].max() < share:
            raise Absent(f"{variant!r} by {rule!r} was not measured at a share of {share:g}")
        points = [0.0, *rows["test_rate"]], [behind[seed], *rows["test_ppl"]]
        found[seed] = _between(*points, share)
    return pd.Series(found, dtype=float)


def at_flops(results: Results, variant: str, rule: str, flops: pd.Series) -> pd.Series:
    """Test perplexity where a rule costs so many FLOPs per token (base = 1), by seed.

    Raises Absent where that lies outside what was measured.
    """
    found = {}
    for seed, rows in routed(results, variant, rule).groupby("seed"):
        if seed not in flops.index:
            continue
        if not rows["flops"].min() <= flops[seed] <= rows["flops"].max():
            raise Absent(f"{variant!r} by {rule!r} was not measured at {flops[seed]:.4f} FLOPs")
        found[seed] = _between(rows["flops"], rows["test_ppl"], flops[seed])
    return pd.Series(found, dtype=float)


def paired_change(new: pd.Series, old: pd.Series) -> np.ndarray:
    """Percent change from ``old`` to ``new`` over the seeds that both have. Raises Absent if that
    is none: an unfinished sweep may hold more of the one."""
    shared = new.index.intersection(old.index)
    if shared.empty:
        raise Absent("no seed that both have")
    return percent_change(new[shared].to_numpy(), old[shared].to_numpy())


def _behind(results: Results, variant: str) -> pd.Series:
    """Test perplexity of what a stage stands behind: the adapted base where there is one."""
    frame = results()
    own = frame[frame["variant"] == variant]
    adapted = "adapted_test_ppl" in own and own["adapted_test_ppl"].notna().all()
    return by_seed(results, variant, "adapted_test_ppl" if adapted else "base_test_ppl")


def _between(places, values, wanted: float) -> float:
    points = sorted(zip(places, np.log(values), strict=True))
    return float(np.exp(np.interp(wanted, *zip(*points, strict=True))))
