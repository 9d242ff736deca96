"""Compare a run with the committed tables: every number but times, line by line."""

import numpy as np
import pandas as pd

from lib.results.schema import KEYS
from lib.results.store import Results

EQUAL = 1e-5  # tables keep six digits: the same numbers
CLOSE = 1e-3  # another processor sums in another order
TIMES = ("second", "speed", "time", "_ms", "prefill", "generate_")  # no two runs agree on these
COUNTED = ("ideal_speedup", "times")  # but these are numbers that every run agrees on
ABOUT = ("device", "torch", "code_hash", "commit", "run_id", "label", "experiment")
ROW = [key for key in KEYS if key != "run_id"]


def compare(yours: Results, ours: Results) -> pd.DataFrame:
    """One row a table, variant, text, size and seed: how many numbers agree, the largest gap.

    ``verdict``: equal, close (to 1e-3), or differs; ``missing`` where the committed tables have no
    such rows, or another number of them; ``not run`` where they have rows, or a column (``where``),
    that a run on the same text at the same size did not make. Columns that the committed rows
    ``lack`` are not compared.
    """
    rows, lacking = [], lack(yours, ours)
    places = set(yours()[["corpus", "size"]].itertuples(index=False, name=None))
    for table in dict.fromkeys((*yours.frames, *ours.frames)):
        mine, theirs = (_groups(results.frames.get(table)) for results in (yours, ours))
        for name in dict.fromkeys((*mine, *theirs)):
            own, other = mine.get(name), theirs.get(name)
            place = dict(zip(ROW, name, strict=True)) | {"table": table or "main"}
            if own is None:
                if (place["corpus"], place["size"]) in places:
                    rows.append({**place, "numbers": 0, "gap": np.nan, "verdict": "not run"})
            elif other is None or len(other) != len(own):
                rows.append({**place, "numbers": 0, "gap": np.nan, "verdict": "missing"})
            else:
                left = lacking.get((place["table"], place["corpus"], place["size"]), [])
                rows.append({**place, **_gap(own.drop(columns=left), other)})
    return pd.DataFrame(rows)


def lack(yours: Results, ours: Results) -> dict[tuple[str, str, str], list[str]]:
    """Columns that a run fills and no committed row of the same text and size does: they are of a
    later version. By table, text and size."""
    found = {}
    for name in yours.frames.keys() & ours.frames.keys():
        others = dict(iter(ours.frames[name].groupby(["corpus", "size"])))
        for (corpus, size), own in yours.frames[name].groupby(["corpus", "size"]):
            filled = others.get((corpus, size), own).notna().any()
            later = [c for c in own if own[c].notna().any() and not filled.get(c, False)]
            if later := list(filter(_compared, later)):
                found[name or "main", corpus, size] = later
    return found


def _groups(frame: pd.DataFrame | None) -> dict[tuple, pd.DataFrame]:
    return {} if frame is None else dict(iter(frame.groupby(ROW, sort=False)))


def _gap(own: pd.DataFrame, other: pd.DataFrame) -> dict:
    """Numbers compared, the largest relative gap, where it is, and the verdict."""
    worst, where, count = 0.0, "", 0
    for column in own.columns.intersection(other.columns):
        if not _compared(column):
            continue
        one, two = own[column].reset_index(drop=True), other[column].reset_index(drop=True)
        if not (pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(two)):
            gap = 0.0 if one.astype(str).equals(two.astype(str)) else np.inf
        else:
            a, b = one.to_numpy(float, na_value=np.nan), two.to_numpy(float, na_value=np.nan)
            both = ~(np.isnan(a) & np.isnan(b))
            a, b = a[both], b[both]
            with np.errstate(invalid="ignore"):  # runs that diverged alike: infinity less infinity
                apart = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(np.abs(b), 1e-6))
            gap = float(np.nan_to_num(apart, nan=np.inf).max(initial=0))
            count += len(a)
        if gap > worst:
            worst, where = gap, column
    verdict = "equal" if worst <= EQUAL else "close" if worst <= CLOSE else "differs"
    lacking = other.columns.difference(own.columns)
    lost = [column for column in lacking if _compared(column) and other[column].notna().any()]
    if lost and verdict != "differs":
        where, verdict = ", ".join(lost), "not run"
    return {"numbers": count, "gap": worst, "where": where, "verdict": verdict}


def _compared(column: str) -> bool:
    timed = column not in COUNTED and any(word in column for word in TIMES)
    return column not in (*KEYS, *ABOUT) and not timed
