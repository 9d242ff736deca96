"""Golden numbers: every variant of every experiment at a small size, kept to see what moves.

A run is found by what was declared (``lib.runs.key``), so code may be rewritten freely. These
numbers keep that honest: one that moves under an unchanged key is a mistake, or a new VERSION.
The size is chosen to overfit, so that early stopping acts and the best epoch is not the last.
"""

import contextlib
import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from lib import registry
from lib.experiment import Experiment
from lib.results.schema import KEYS
from lib.results.store import Results
from lib.results.verify import TIMES
from lib.runs import files
from lib.runs.key import defaults, release
from lib.runs.places import ROOT

FOLDER = ROOT / "tests" / "golden"
SMALL = {"corpus": "embedded", "epochs": 6, "patience": 2, "learning_rate": 5e-2}
# At the high rate stages of single tokens grow a change of 1e-7 in their weights into one of 1e-2,
# and processors round differently. So these are trained slowly, and long enough to overfit.
CALM = {number: {"learning_rate": 3e-3, "epochs": 16} for number in ("14", "15")}
DIGITS = 5
TOLERANCE = 2e-3  # relative, and absolute below a thousandth
SETTLED = 1e-3


def small(experiment: Experiment) -> Any:
    """The parameters at which an experiment's golden numbers are made."""
    schema = experiment.parameters
    wanted = SMALL | CALM.get(experiment.number, {})
    given = {name: value for name, value in wanted.items() if name in schema.names()}
    return schema.checked({**schema.TINY, **given, "workers": 1, "device": "cpu"})


def compute(experiment: Experiment) -> dict[str, Any]:
    """The numbers of an experiment at the small size: run by run, table by table, column lists.

    Clocks are left out, and columns of whole numbers that every run fills.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        results = experiment.run(small(experiment))
    return as_numbers(results)


def as_numbers(results: Results) -> dict[str, Any]:
    """Results as plain JSON: key -> what the run is, and its columns of numbers by table."""
    found: dict[str, Any] = {}
    for table, frame in results.frames.items():
        for (variant, corpus, seed, run), rows in frame.groupby(
            ["variant", "corpus", "seed", "run_id"], sort=False
        ):
            name = f"{run} {variant} {corpus} {seed}"
            held = found.setdefault(name, {})
            held[table] = {
                column: [_short(value) for value in rows[column]]
                for column in rows
                if _counts(rows[column], column)
            }
    return found


def _counts(values: pd.Series, column: str) -> bool:
    if column in KEYS or any(word in column for word in TIMES):
        return False
    return pd.api.types.is_float_dtype(values) and bool(values.notna().any())


def _short(value: float) -> float | None:
    return None if pd.isna(value) else float(f"{value:.{DIGITS}g}")


def keep(slug: str, numbers: dict[str, Any]) -> Path:
    """Write the golden numbers of an experiment."""
    path = FOLDER / f"{slug}.json"
    content = {"torch": release("torch"), "runs": numbers}
    lines = json.dumps(content, separators=(",", ":"), sort_keys=True)
    files.write_text(path, lines.replace('},"', '},\n"') + "\n")
    return path


def kept(slug: str) -> dict[str, Any]:
    """The golden numbers of an experiment. Raises FileNotFoundError if it has none."""
    return json.loads((FOLDER / f"{slug}.json").read_text(encoding="utf-8"))


def moved(slug: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A sentence for each run with a number that moved under an unchanged key."""
    found = []
    for name in old.keys() & new.keys():
        for table, columns in old[name].items():
            for column, values in columns.items():
                others = new[name].get(table, {}).get(column)
                if others is None or len(others) != len(values):
                    found.append(_sentence(slug, name, f"{table or 'row'}.{column}", "gone", ""))
                    continue
                gap = next(
                    ((a, b) for a, b in zip(values, others, strict=True) if _apart(a, b)), None
                )
                if gap:
                    found.append(_sentence(slug, name, f"{table or 'row'}.{column}", *gap))
    return sorted(found)


def _apart(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is not other
    return not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE * SETTLED)


def _sentence(slug: str, name: str, number: str, old: Any, new: Any) -> str:
    _, variant, corpus, seed = name.split(" ")
    return (
        f"{slug}, variant {variant} on {corpus}, seed {seed}: {number} moved from {old} to {new} "
        "under an unchanged key; mend the code, or raise the VERSION of what changed"
    )


def declared() -> dict[str, Any]:
    """Version and defaults of every class that is in a configuration, by its name.

    Defaults are left out of keys, so they may not change under one version.
    """
    classes: dict[str, Any] = {}
    for entry in registry.experiments().values():
        parameters = small(entry)
        with contextlib.redirect_stdout(io.StringIO()):
            tasks = entry.tasks(parameters, entry.texts(parameters))
        for task in tasks:
            _collect(task.config, classes)
    return dict(sorted(classes.items()))


def _collect(value: Any, classes: dict[str, Any]) -> None:
    if hasattr(value, "sha256") and hasattr(value, "name"):
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        own = {"version": getattr(kind, "VERSION", 1), "defaults": defaults(kind)}
        classes.setdefault(kind.__qualname__, own)
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            _collect(part, classes)


def changed_defaults(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A sentence for each class whose defaults changed under an unchanged version."""
    found = []
    for name in old.keys() & new.keys():
        if old[name]["version"] != new[name]["version"]:
            continue
        for field, value in old[name]["defaults"].items():
            now = new[name]["defaults"].get(field, "(gone)")
            if now != value:
                found.append(
                    f"{name}.{field} has the default {now}, it was {value}: raise the VERSION of "
                    f"{name}, or give the value where it is used"
                )
    return sorted(found)
