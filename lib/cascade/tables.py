"""Tables of the CASCADE experiments: means over seeds, and the reports' figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lib.results import tables
from lib.results.statistics import percent_change, percent_interval, sensible
from lib.results.store import Results
from lib.results.tables import one

AGAINST = {  # change against the base: what is measured, and the base's on the same tokens
    "Δ, hard tokens": ("test_ppl", "base_ppl"),
    "Δ, without EOS": ("inner_ppl", "base_inner_ppl"),
    "Δ, all tokens": ("cascade_all_ppl", "base_all_ppl"),
}
LAST = {
    "val_ppl": "valid, hard tokens",
    "last_val_ppl": "valid, last update",
    "last_test_ppl": "test, last update",
    "last_test_inner_ppl": "test, last, no EOS",
}


def summary(results: Results, columns: Mapping[str, str]) -> pd.DataFrame:
    """Mean [95 % interval] over seeds of each named column, one row a variant."""
    frame = one(results)()
    labels, rows = results.labels, {}
    for variant in labels:
        own = frame[frame["variant"] == variant]
        if own.empty:
            continue
        rows[labels[variant]] = {"n": len(own)} | {
            title: str(tables.seeds_interval(frame, variant, column) or "")
            for column, title in columns.items()
            if column in frame
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    return tables.captioned(table, frame)


def against_base(results: Results, told: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Changes against the base, then n and perplexities of hard tokens; one row a variant.

    A change is the percent change of perplexity, mean [95 % interval] over seeds: on the hard
    tokens of the test text, on those of them that are no end-of-sequence token (EOS), and on all
    tokens where a stage answers the hard ones. ``told`` gives some variants a longer name, as in
    the figures.
    """
    frame, labels, rows = one(results)(), results.labels | (told or {}), {}
    for variant in frame["variant"].unique():
        own = frame[frame["variant"] == variant]
        changes = {name: _change(own, *pair) for name, pair in AGAINST.items()}
        first, *others = changes.items()
        rows[labels[variant]] = {
            first[0]: first[1],
            "n": len(own),
            "test PPL": str(tables.seeds_interval(frame, variant, "test_ppl") or ""),
            "valid PPL": str(tables.seeds_interval(frame, variant, "val_ppl") or ""),
            **dict(others),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("variant")
    return tables.captioned(table, frame)


def _change(own: pd.DataFrame, column: str, base: str) -> str:
    """Percent change of a column against another; empty where either was not measured."""
    if column not in own or base not in own:
        return ""
    both = own[[column, base]].dropna()
    if both.empty:
        return ""
    return f"{percent_interval(percent_change(both[column], both[base]))} %"


def _as_precise(ours: float, reported: float | None) -> str:
    """Ours in the decimal places of the report's figure, in about three digits without one."""
    own = sensible(ours)
    if reported is None:
        return own if abs(ours) >= 1 else f"{ours:.3g}"
    places = min(len(sensible(reported).partition(".")[2]), len(own.partition(".")[2]))
    return f"{ours:,.{places}f}"


def beside_reported(
    rows: Sequence[tuple[str, float | None, float]], frame: pd.DataFrame
) -> pd.DataFrame:
    """A table of quantity, the report's figure (None = it has none) and ours.

    Ours has as many decimal places as the report's, where it is not larger by far.
    """
    found = [
        {
            "quantity": name,
            "report": "" if reported is None else sensible(reported),
            "ours": "" if pd.isna(ours) else _as_precise(ours, reported),
        }
        for name, reported, ours in rows
    ]
    return tables.captioned(pd.DataFrame(found).set_index("quantity"), frame)
