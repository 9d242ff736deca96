"""What was trained again and compared with the committed tables: ``results/verified.csv``.

The front page names its rows of the full size.
"""

import platform
from pathlib import Path

import pandas as pd
import torch

from lib.parameters import FULL
from lib.results.schema import REAL
from lib.results.store import Results
from lib.runs import files
from lib.runs.places import ROOT

PATH = ROOT / "results" / "verified.csv"
MARKS = {"equal": "=", "close": "≈", "differs": "≠"}  # on the front page
ROW = ["experiment", "corpus", "size", "processor"]  # what one row is about
OWN = ["run_id", "seconds", "commit"]  # no two trainings of all runs agree on these


def copied(yours: Results, ours: Results) -> bool:
    """Whether any trained row was taken from the committed ones. Counts, which have no ``params``,
    take no time and are alike wherever they are made."""
    own, held = (
        set(frame.loc[frame["params"].notna(), OWN].fillna("").itertuples(index=False, name=None))
        for frame in (yours(), ours())
    )
    return bool(own & held)


def summary(slug: str, found: pd.DataFrame, yours: Results) -> pd.DataFrame:
    """One row a text of what was run: runs and numbers compared, the largest gap, the verdict of
    the ``main`` table and of all tables, core-minutes, and on what it was run.

    ``found`` is that of ``verify.compare``. Further tables count tokens in bins and beyond
    thresholds, which rounding can move.
    """
    rows = []
    for (corpus, size), main in yours().groupby(["corpus", "size"], sort=False):
        part = found[(found["corpus"] == corpus) & (found["size"] == size)]
        rows.append(
            {
                "experiment": slug,
                "corpus": corpus,
                "size": size,
                "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
                "runs": len(main),
                "numbers": part["numbers"].sum(),
                "gap": part["gap"].max(),
                "main": _worst(part[part["table"] == "main"]["verdict"]),
                "verdict": _worst(part["verdict"]),
                "minutes": round(main["seconds"].sum() / 60, 1),
                "torch": main["torch"].iloc[-1],
                "commit": main["commit"].iloc[-1],
            }
        )
    return pd.DataFrame(rows)


def _worst(verdicts: pd.Series) -> str:
    found = set(verdicts)
    return "equal" if found <= {"equal"} else "close" if found <= {"equal", "close"} else "differs"


def keep(rows: pd.DataFrame, path: Path = PATH) -> None:
    """Put rows into the table, in the place of older ones of the same text, size and kind of
    processor."""
    with files.locked(path.with_name(f".{path.name}.lock")):
        if path.is_file():
            rows = pd.concat([pd.read_csv(path), rows])
        rows = rows.drop_duplicates(ROW, keep="last").sort_values(ROW, ignore_index=True)
        files.write_text(path, rows.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def told(path: Path = PATH) -> str:
    """The front page's list, by the mark of the main table: number and core-minutes of notebooks;
    a text other than ``REAL`` that has a mark of its own is named, and a kind of processor where
    there are several."""
    frame = pd.read_csv(path)
    frame = frame[frame["size"] == FULL].assign(mark=frame["main"].map(MARKS))
    found: dict[str, list[str]] = {mark: [] for mark in MARKS.values()}
    kinds = frame.groupby("experiment")["processor"].nunique()
    for (slug, processor), part in frame.groupby(["experiment", "processor"]):
        name = f"{slug[:2]} on {processor}" if kinds[slug] > 1 else slug[:2]
        real = part[part["corpus"] == REAL]
        mark = (real if len(real) else part)["mark"].iloc[0]
        found[mark].append(f"{name} ({part['minutes'].sum():.0f})")
        for corpus, other in part[["corpus", "mark"]].itertuples(index=False):
            if other != mark:
                found[other].append(f"{name} `{corpus}`")
    return "; ".join(f"{mark} {', '.join(books)}" for mark, books in found.items() if books)
