"""The tables of an experiment: the only place that writes ``results/*.csv``, and reads them.

``NN_slug.csv`` has one row a run and seed; ``NN_slug_curve.csv`` and other tables hold what a run
recorded along the way, each row naming its variant, corpus, seed and run. Full-size results lie in
``results/``; other sizes in a folder of their own (``results/quick/`` ...), which git ignores, so
that a small run never touches a committed number.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.provenance import ROOT
from lib.results.schema import KEYS, check
from lib.training.outcome import Outcome

FULL = "full"


class Absent(KeyError):
    """Something that a table of results may hold and does not: a variant, a rate, its values.

    Not for a column that no table of its kind has: a misspelt name stays a plain KeyError.
    """


def folder(kind: str, size: str) -> Path:
    """Where tables (``results``) or plots (``figures``) of a size belong; made if absent."""
    place = ROOT / kind if size == FULL else ROOT / kind / size
    place.mkdir(parents=True, exist_ok=True)
    return place


def write(slug: str, outcomes: Sequence[Outcome], size: str) -> pd.DataFrame:
    """Write all tables of an experiment and return the main one.

    Raises SchemaError for rows that are not valid results, and ValueError if full-size results on
    another text would be lost.
    """
    frame = check(pd.DataFrame([{**outcome.row, "size": size} for outcome in outcomes]))
    place = folder("results", size)
    if size == FULL:
        _keep_other_texts(slug, frame)
    _save(frame, place / f"{slug}.csv")
    tables: dict[str, list[dict]] = {}
    for outcome in outcomes:
        keys = {key: outcome.row[key] for key in KEYS}
        for name, rows in outcome.tables.items():
            tables.setdefault(name, []).extend({**keys, **row} for row in rows)
    for name, rows in tables.items():
        _save(pd.DataFrame(rows), place / f"{slug}_{name}.csv")
    return frame


def _keep_other_texts(slug: str, frame: pd.DataFrame) -> None:
    """ValueError if the committed table holds a text that the new one does not."""
    try:
        before = read(slug)
    except FileNotFoundError:
        return
    if set(before["corpus_sha256"]) <= set(frame["corpus_sha256"]):
        return
    old, new = (
        " and ".join(f"{r.corpus} ({r.corpus_sha256[:12]})" for r in texts.itertuples())
        for texts in (t.drop_duplicates("corpus_sha256") for t in (before, frame))
    )
    raise ValueError(
        f"results/{slug}.csv holds results on {old} and this run is on {new}; move that file away "
        "first to keep the new ones"
    )


def read(slug: str, table: str = "", size: str = FULL) -> pd.DataFrame:
    """A table that was written. Raises FileNotFoundError with the command that makes it."""
    name = f"{slug}_{table}.csv" if table else f"{slug}.csv"
    path = folder("results", size) / name
    if not path.is_file():
        number = slug.split("_")[0]
        raise FileNotFoundError(f"{name} is not there; `make reproduce NB={number}` makes it")
    text = ("corpus_sha256", "torch", "code_hash", "run_id")
    return pd.read_csv(path, dtype=dict.fromkeys(text, str))


def reported(experiment: str) -> pd.DataFrame:
    """What the seed reported for an experiment: columns row, metric, value."""
    frame = pd.read_csv(ROOT / "results" / "reported.csv")
    return frame[frame["experiment"] == experiment].drop(columns=["source", "experiment"])


def reported_value(experiment: str, row: str, metric: str) -> float:
    """One reported number. Raises Absent if the seed reports none by that name."""
    frame = reported(experiment)
    found = frame[(frame["row"] == row) & (frame["metric"] == metric)]["value"]
    if len(found) != 1:
        raise Absent(f"no single reported value for {experiment}, {row}, {metric}")
    return float(found.iloc[0])


def _save(frame: pd.DataFrame, path: Path) -> None:
    partial = path.with_suffix(".partial")
    frame.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    os.replace(partial, path)
