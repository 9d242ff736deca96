"""Every number of the reports beside ours: ``results/beside_reported.csv``.

A row of a report whose name is a variant's label is met by that variant's own columns; others by a
measure that an experiment names. Where nothing of ours measures it, the note says why.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from lib.experiment import Experiment
from lib.parameters import FULL, SIZES
from lib.results import store
from lib.results.claims import Measure, level
from lib.results.store import Absent, Results
from lib.runs import files
from lib.runs.places import ROOT

PATH = ROOT / "results" / "beside_reported.csv"
COLUMNS = (
    "source", "experiment", "row", "metric", "value", "ours", "n", "ratio", "corpus", "size", "note"
)  # fmt: skip
SAME = ("val_ppl", "best_epoch", "epochs", "params", "trainable", "train_tokens", "seconds")
# columns of ours for metrics of a row that is named as a variant
OURS = {"best_val_ppl": "val_ppl", **{name: name for name in SAME}}
OTHER_TEXT = "another text than the report's"
UNMEASURED = "no run of ours measures it"


def write(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """Put every reported number beside ours and save the table."""
    frame = compare(experiments)
    frame["value"] = frame["value"].map("{:.12g}".format)  # theirs as it stands in the report
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    files.write_text(PATH, text)
    return frame


def compare(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """One row a reported number, in the order of ``reported.csv`` and the columns of the file.

    Experiments answer for the rows of their own report and of those that their claims name.
    """
    answering: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        for name in {experiment.report, *(claim.experiment for claim in experiment.claims)}:
            answering.setdefault(name, []).append(experiment)
    asked = {e.slug: e for own in answering.values() for e in own}
    held = {slug: places(e) for slug, e in asked.items() if store.has_committed(slug)}
    rows = [
        {**reported._asdict(), **_beside(reported, answering.get(reported.experiment, ()), held)}
        for reported in store.reported().itertuples(index=False)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def places(experiment: Experiment) -> list[tuple[Results, str]]:
    """The committed results of one text and size each, and what differs from the report there.

    Those on the report's text, which is the first that a claim names and we have; else all. The
    largest size comes first.
    """
    results = store.committed(experiment.slug)
    texts = dict.fromkeys(text for claim in experiment.claims for text in claim.texts)
    there = ([c for c in results.corpora if c.startswith(text)] for text in texts)
    own = next(filter(None, there), [])
    found = [(c, size) for c in own or results.corpora for size in results.on(c).sizes]
    found.sort(key=lambda place: SIZES.index(place[1]))
    cuts = []
    for corpus, size in found:
        differs = {
            OTHER_TEXT: not own,
            "smaller than the report": size != FULL,
            "the test file stands in for train": corpus.endswith("standin"),
        }
        cuts.append((results.on(corpus, size), "; ".join(k for k, yes in differs.items() if yes)))
    return cuts


def _beside(
    reported: Any, experiments: Sequence[Experiment], held: dict[str, list[tuple[Results, str]]]
) -> dict[str, Any]:
    """Ours beside a reported number: where the first measure finds a value."""
    name = f"{reported.row}: {reported.metric}"
    said = (w for e in experiments for p, w in e.remarks.items() if fnmatchcase(name, p))
    remark, missing = next(said, ""), ""
    for experiment in experiments:
        measure = _measure(experiment, reported.row, reported.metric)
        for cut, differs in held.get(experiment.slug, ()) if measure else ():
            try:
                values = np.asarray(measure(cut), dtype=float)
            except (Absent, FileNotFoundError) as absent:
                missing = missing or f"not measured (size {cut.sizes[0]}): {absent.args[0]}"
                continue
            except (KeyError, ValueError) as error:
                error.add_note(f"beside {reported.experiment}, {name}")
                raise
            ours = float(values.mean())
            return {
                "ours": ours,
                "n": len(values),
                "ratio": ours / reported.value if reported.value else None,
                "corpus": cut.corpus,
                "size": cut.sizes[0],
                "note": "; ".join(filter(None, (differs, remark))),
            }
    note = "; ".join(filter(None, (missing, remark))) or UNMEASURED
    return {"ours": None, "n": 0, "ratio": None, "corpus": "", "size": "", "note": note}


def _measure(experiment: Experiment, name: str, metric: str) -> Measure | None:
    if (name, metric) in experiment.beside:
        return experiment.beside[name, metric]
    labels = {label: variant for variant, label in experiment.labels().items()}
    if name in labels and metric in OURS:
        return level(labels[name], OURS[metric])
    return None
