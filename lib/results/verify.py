"""Compare a run with the committed tables: every number but times, line by line."""

import numpy as np
import pandas as pd

from lib.results.schema import KEYS
from lib.results.store import Results

EQUAL = 1e-5  # tables keep six digits: the same numbers
CLOSE = 1e-3  # another processor sums in another order
TIMES = ("second", "speed", "time", "_ms", "prefill", "generate_")  # no two runs agree on these
ABOUT = ("device", "torch", "code_hash", "commit", "run_id", "label", "experiment")


def compare(yours: Results, ours: Results) -> pd.DataFrame:
    """One row a table, variant, text, size and seed: how many numbers agree, the largest gap.

    ``verdict``: equal, close (to 1e-3), or differs; ``missing`` where the committed tables have no
    such rows, or another number of them.
    """
    rows = []
    keys = [key for key in KEYS if key != "run_id"]
    for table, frame in yours.frames.items():
        other = ours.frames.get(table, frame.iloc[:0])
        groups = {name: own for name, own in other.groupby(keys, sort=False)}
        for name, own in frame.groupby(keys, sort=False):
            place = dict(zip(keys, name, strict=True)) | {"table": table or "main"}
            if name not in groups or len(groups[name]) != len(own):
                rows.append({**place, "numbers": 0, "gap": np.nan, "verdict": "missing"})
                continue
            rows.append({**place, **_gap(own, groups[name])})
    return pd.DataFrame(rows)


def _gap(own: pd.DataFrame, other: pd.DataFrame) -> dict:
    """Numbers compared, the largest relative gap, where it is, and the verdict."""
    worst, where, count = 0.0, "", 0
    for column in own.columns.intersection(other.columns):
        if column in (*KEYS, *ABOUT) or any(word in column for word in TIMES):
            continue
        one, two = own[column].reset_index(drop=True), other[column].reset_index(drop=True)
        if not (pd.api.types.is_numeric_dtype(one) and pd.api.types.is_numeric_dtype(two)):
            gap = 0.0 if one.astype(str).equals(two.astype(str)) else np.inf
        else:
            a, b = one.to_numpy(float, na_value=np.nan), two.to_numpy(float, na_value=np.nan)
            both = ~(np.isnan(a) & np.isnan(b))
            scale = np.maximum(np.abs(b), 1e-6)
            gap = float(np.nan_to_num(np.abs(a - b) / scale, nan=np.inf)[both].max(initial=0))
            count += int(both.sum())
        if gap > worst:
            worst, where = gap, column
    verdict = "equal" if worst <= EQUAL else "close" if worst <= CLOSE else "differs"
    return {"numbers": count, "gap": worst, "where": where, "verdict": verdict}
