"""Compare a run with the committed tables: every number but times, line by line.

``results/verified.csv`` keeps what such comparisons found; the front page names them.
"""

import platform
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib.results.schema import KEYS
from lib.results.store import Results
from lib.runs import files
from lib.runs.places import ROOT

PATH = ROOT / "results" / "verified.csv"

EQUAL = 1e-5  # tables keep six digits: the same numbers
CLOSE = 1e-3  # another processor sums in another order
TIMES = ("second", "speed", "time", "_ms", "prefill", "generate_")  # no two runs agree on these
ABOUT = ("device", "torch", "code_hash", "commit", "run_id", "label", "experiment")
ROW = [key for key in KEYS if key != "run_id"]
EQUAL_TO, CLOSE_TO, APART = "=", "≈", "≠"  # marks on the front page
DEFAULT = "wikipedia"  # the text that everyone has
MARKS = {"equal": EQUAL_TO, "close": CLOSE_TO}
ONE = ["experiment", "corpus", "size", "processor"]  # what one row of verified.csv is about


def compare(yours: Results, ours: Results) -> pd.DataFrame:
    """One row a table, variant, text, size and seed: how many numbers agree, the largest gap.

    ``verdict``: equal, close (to 1e-3), or differs; ``missing`` where the committed tables have no
    such rows, or another number of them; ``not run`` where they have rows, or a column (``where``),
    that a run on the same text at the same size did not make. A column that yours alone has filled
    is of a later version and is not compared.
    """
    rows = []
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
                rows.append({**place, **_gap(own, other)})
    return pd.DataFrame(rows)


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
            if np.isnan(b).all():
                continue
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
    return column not in (*KEYS, *ABOUT) and not any(word in column for word in TIMES)


def summary(slug: str, found: pd.DataFrame, yours: Results) -> pd.DataFrame:
    """One row a text of what was run: runs and numbers compared, the largest gap, the verdict of
    the ``main`` table and of all tables, core-minutes, and on what it was run.

    Further tables count tokens in bins and beyond thresholds, which rounding can move.
    """
    rows = []
    for (corpus, size), part in found.groupby(["corpus", "size"], sort=False):
        main = yours()[(yours()["corpus"] == corpus) & (yours()["size"] == size)]
        if main.empty:
            continue
        rows.append(
            {
                "experiment": slug,
                "corpus": corpus,
                "size": size,
                "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
                "runs": len(main),
                "numbers": int(part["numbers"].sum()),
                "gap": part["gap"].max(),
                "main": _joint(part[part["table"] == "main"]["verdict"]),
                "verdict": _joint(part["verdict"]),
                "minutes": round(main["seconds"].sum() / 60, 1),
                "torch": torch.__version__.split("+")[0],
                "commit": main["commit"].iloc[-1],
            }
        )
    return pd.DataFrame(rows)


def _joint(verdicts: pd.Series) -> str:
    """The worst of several verdicts."""
    found = set(verdicts)
    return "equal" if found <= {"equal"} else "close" if found <= MARKS.keys() else "differs"


def keep(rows: pd.DataFrame, path: Path = PATH) -> None:
    """Put rows into the table of what was verified, in the place of older ones of the same text,
    size and kind of processor."""
    if path.is_file():
        rows = pd.concat([pd.read_csv(path), rows])
    rows = rows.drop_duplicates(ONE, keep="last").sort_values(ONE, ignore_index=True)
    files.write_text(path, rows.to_csv(index=False))


def told(path: Path = PATH) -> str:
    """What was verified, for the front page: number, mark of the main table and core-minutes
    of each notebook; texts whose mark is another one than that of the default text are named."""
    frame = pd.read_csv(path)
    frame["mark"] = frame["main"].map(MARKS).fillna(APART)
    return ", ".join(_told(part) for _, part in frame.groupby("experiment"))


def _told(part: pd.DataFrame) -> str:
    real = part["corpus"] == DEFAULT
    mark = part["mark"][real].iloc[0] if real.any() else part["mark"].iloc[0]
    others = part[part["mark"] != mark]
    apart = "".join(f" ({row.corpus} {row.mark})" for row in others.itertuples())
    return f"{part['experiment'].iloc[0][:2]} {mark} {part['minutes'].sum():.0f}{apart}"
