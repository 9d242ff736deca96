"""Tables of the CASCADE experiments: means over seeds, and the reports' figures beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lib.results import tables
from lib.results.store import Results

HARD = {
    "test_ppl": "hard tokens",
    "base_ppl": "base",
    "inner_ppl": "hard, no ends",
    "base_inner_ppl": "base, no ends",
    "cascade_all_ppl": "all tokens",
    "base_all_ppl": "base, all",
    "cascade_all_inner_ppl": "all, no ends",
    "base_all_inner_ppl": "base, all, no ends",
    "train_tokens": "train tokens",
    "updates": "updates",
    "best_epoch": "best epoch",
    "seconds": "seconds",
}
LAST = {
    "val_ppl": "valid, hard tokens",
    "last_val_ppl": "valid, last update",
    "last_test_ppl": "test, last update",
    "last_test_inner_ppl": "test, last, no ends",
}


def one(results: Results) -> Results:
    """One text and size of the results: the first, which is the largest."""
    return results.on(results.corpora[0], results.sizes[0])


def summary(
    results: Results, columns: Mapping[str, str], variants: Sequence[str] | None = None
) -> pd.DataFrame:
    """Mean [95 % interval] over seeds of each named column, one row a variant."""
    frame = one(results)()
    labels, rows = results.labels, {}
    shown = [v for v in variants or list(labels) if v in labels]
    for variant in shown:
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


def beside_reported(
    rows: Sequence[tuple[str, float | None, float]], frame: pd.DataFrame
) -> pd.DataFrame:
    """A table of quantity, the report's figure (None = it has none) and ours."""
    found = [
        {
            "quantity": name,
            "report": "" if reported is None else f"{reported:,.5g}",
            "ours": "" if pd.isna(ours) else f"{ours:,.5g}",
        }
        for name, reported, ours in rows
    ]
    return tables.captioned(pd.DataFrame(found).set_index("quantity"), frame)
