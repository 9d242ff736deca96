"""The numbers of training that were chosen for each method on validation text.

``choices.csv``, beside this file, holds them by text, size of the training text and method. It is
written by ``python -m lib.character.experiments.tuning`` from the records of its runs, whose
validation losses stand in ``results/22_tuning.csv``; a test sees that it follows from them.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lib.character.run import CharacterRun
from lib.character.two_phase_run import TwoPhaseRun
from lib.runs import files
from lib.runs.places import ROOT

PATH = Path(__file__).with_name("choices.csv")
TABLE = ROOT / "results" / "22_tuning.csv"
AVERAGE = 0.98  # decay of the average of the weights, an average over about 50 updates
GRID = {  # one after the other, each with the values chosen before
    "learning_rate": (3e-4, 1e-3, 3e-3, 1e-2),
    "weight_decay": (0.01, 0.1, 0.5, 1.0, 3.0),
    "dropout": (0.0, 0.1, 0.2),
}
AVERAGES = (0.0, AVERAGE)  # with every value of the grid
SEEDS = (1_000, 1_001)  # of the tuning runs and of nothing else


@dataclass(frozen=True)
class Choice:
    """Numbers of a run; the defaults are the reports', which nobody tuned."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.0
    average: float = 0.0

    def apply(self, config: CharacterRun | TwoPhaseRun) -> CharacterRun | TwoPhaseRun:
        """The same run with these numbers; of two phases both have them, but for the average: the
        blocks that are read are those that shaping left."""
        numbers = asdict(self)
        if isinstance(config, TwoPhaseRun):
            head, shaping = self.apply(config.head), config.shaping
            own = {name: numbers[name] for name in ("learning_rate", "weight_decay")}
            return replace(config, head=head, shaping=shaping and replace(shaping, **own))
        model = replace(config.model, dropout=numbers.pop("dropout"))
        return replace(config, model=model, training=replace(config.training, **numbers))


NUMBERS = tuple(field.name for field in fields(Choice))
KEYS = ("corpus", "train_chars", "method")  # of a row of choices.csv


@functools.cache
def known() -> pd.DataFrame:
    """All that was chosen: a row a text, size and method; empty before anything was tuned."""
    if not PATH.is_file():
        return pd.DataFrame(columns=[*KEYS, *NUMBERS, "valid_loss"])
    return pd.read_csv(PATH)


def tuned_on(method: str, corpus: str, chars: int) -> dict[str, Any] | None:
    """The row of ``known`` that a method uses on a text; None if it was tuned on none.

    That of the same text if there is one, else of any; of the size nearest by its logarithm.
    """
    rows = known()
    rows = rows[rows["method"] == method]
    own = rows[rows["corpus"] == corpus]
    rows = own if len(own) else rows
    if rows.empty:
        return None
    return min(rows.to_dict("records"), key=lambda row: abs(math.log(row["train_chars"] / chars)))


def chosen(method: str, corpus: str, chars: int) -> Choice | None:
    """What a method is trained with on a text; None if it was tuned on none."""
    row = tuned_on(method, corpus, chars)
    return Choice(**{name: float(row[name]) for name in NUMBERS}) if row else None


def candidates(stage: str, fixed: Choice) -> list[Choice]:
    """What a stage of the grid compares, in its order."""
    return [
        replace(fixed, **{stage: value}, average=average)
        for value in GRID[stage]
        for average in AVERAGES
    ]


def best(losses: pd.DataFrame, among: Sequence[Choice]) -> Choice | None:
    """The candidate of the lowest mean validation loss over the tuning seeds; the first of equals.

    ``losses``: rows of one method, text and size, as in ``results/22_tuning.csv``. A run that has
    no loss, because it diverged, loses. None where a run is not made yet.
    """
    scores = []
    for candidate in among:
        own = losses
        for name in NUMBERS:
            own = own[own[name] == getattr(candidate, name)]
        if set(own["seed"]) != set(SEEDS):
            return None
        scores.append(own["valid_loss"].fillna(math.inf).mean())
    return among[min(range(len(among)), key=scores.__getitem__)]


def follow(losses: pd.DataFrame) -> tuple[list[Choice], bool]:
    """The way through the grid as far as its runs are made, and whether it has come to its end.

    Each element is what a stage has chosen; the last is the choice of the method.
    """
    path = [Choice()]
    for stage in GRID:
        found = best(losses, candidates(stage, path[-1]))
        if found is None:
            return path, False
        path.append(found)
    return path, True


def from_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``choices.csv`` that follow from a table of tuning, of methods wholly tuned."""
    rows = []
    for key, losses in table.groupby(list(KEYS), sort=False):
        path, ended = follow(losses)
        if not ended:
            continue
        own = losses
        for name in NUMBERS:
            own = own[own[name] == getattr(path[-1], name)]
        row = dict(zip(KEYS, key, strict=True)) | asdict(path[-1])
        rows.append(row | {"valid_loss": round(float(own["valid_loss"].mean()), 5)})
    return pd.DataFrame(rows, columns=[*KEYS, *NUMBERS, "valid_loss"])


def write(table: pd.DataFrame) -> pd.DataFrame:
    """Keep a table of tuning and the choices that follow; returns these."""
    rows = from_table(table)
    for path, frame in ((TABLE, table), (PATH, rows)):
        text = frame.to_csv(index=False, float_format="%.8g", lineterminator="\n")
        files.write_text(path, text)
    known.cache_clear()
    return rows


def kept() -> pd.DataFrame:
    """The committed table of tuning; empty before anything was tuned."""
    columns = [*KEYS, "corpus_sha256", "stage", *NUMBERS, "seed", "valid_loss", "best_epoch"]
    columns += ["seconds", "run_id"]
    return pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame(columns=columns)
