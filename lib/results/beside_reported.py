"""Every number of the reports beside ours: ``results/beside_reported.csv``.

A row of a report whose name is a variant's label is met by that variant's own column; others by a
measure that the experiment names. What no run of ours measures stays empty, with the reason.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from lib.experiment import Experiment
from lib.results import store
from lib.results.claims import Measure, level
from lib.results.store import Absent, Results
from lib.runs import files
from lib.runs.places import ROOT

PATH = ROOT / "results" / "beside_reported.csv"
COLUMNS = (
    "source", "experiment", "row", "metric", "value", "ours", "n", "ratio", "corpus", "size", "note"
)  # fmt: skip
OURS = {"best_val_ppl": "val_ppl", "params": "params", "best_epoch": "best_epoch"}
OTHER_TEXT = "another text than the report's"
PREFERRED = ("repeated", "wikitext-2", "alpaca", "ultrachat")  # texts of the reports


def write(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """Put every reported number beside ours and save the table."""
    by_report = {e.report: e for e in experiments if e.report}
    rows = [_row(r, by_report.get(r.experiment)) for r in store.reported().itertuples(index=False)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_text(PATH, text)
    return frame


def _row(reported, experiment: Experiment | None) -> dict:
    row = {name: getattr(reported, name) for name in ("source", "experiment", "row", "metric")}
    row |= {"value": reported.value, "ours": None, "n": 0, "ratio": None, "corpus": "", "size": ""}
    if experiment is None or not store.has_committed(experiment.slug):
        return row | {"note": "no experiment of ours, or its results are not committed"}
    measure = _measure(experiment, reported.row, reported.metric)
    if measure is None:
        return row | {"note": "no run of ours measures it"}
    results = store.committed(experiment.slug)
    cut, note = _like_the_report(results, experiment)
    row |= {"corpus": cut.corpus, "size": cut.sizes[0], "note": note}
    try:
        values = np.asarray(measure(cut), dtype=float)
    except (Absent, FileNotFoundError) as missing:
        return row | {"note": f"not measured: {missing.args[0]}"}
    ours = float(values.mean())
    ratio = ours / reported.value if reported.value else None
    return row | {"ours": ours, "n": len(values), "ratio": ratio}


def _measure(experiment: Experiment, name: str, metric: str) -> Measure | None:
    if (name, metric) in experiment.beside:
        return experiment.beside[name, metric]
    labels = {label: variant for variant, label in experiment.labels().items()}
    if name in labels and metric in OURS:
        return level(labels[name], OURS[metric])
    return None


def _like_the_report(results: Results, experiment: Experiment) -> tuple[Results, str]:
    """The rows whose text and size are nearest to the report's, and what differs."""
    texts = {t for claim in experiment.claims for t in claim.texts} or set(PREFERRED)
    own = [c for c in results.corpora if c.startswith(tuple(texts))]
    cut = results.on(own[0] if own else results.corpora[0])
    cut = cut.on(size=cut.sizes[0])
    notes = [] if own else [OTHER_TEXT]
    if cut.sizes[0] != "full":
        notes.append("smaller than the report")
    if cut.corpus.endswith("standin"):
        notes.append("the test file stands in for train")
    return cut, "; ".join(notes)
