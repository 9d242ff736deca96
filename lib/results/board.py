"""Notebook 90: which of the committed claims are shown."""

from types import SimpleNamespace

import pandas as pd

from lib.parameters import Parameters, choice
from lib.results import legible, scoreboard
from lib.results.claims import KINDS, VERDICTS

ALL = "all"


class Board(Parameters):
    """``kind`` of claims, and the ``verdict`` that they have."""

    kind: str = choice("reported", (ALL, *KINDS))
    verdict: str = choice(ALL, (ALL, *VERDICTS))


BOARD = SimpleNamespace(slug="90_scoreboard", parameters=Board)


def claims() -> pd.DataFrame:
    """All rows of claims.csv."""
    return scoreboard.saved()


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Verdicts counted by kind of claim."""
    found = pd.crosstab(frame["verdict"], frame["kind"], margins=True, margins_name=ALL)
    return found.rename(index={name: f"{mark} {name}" for name, mark in scoreboard.MARKS.items()})


def beside(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``beside_reported.csv``: what a report's table says, and ours on which text."""
    text = frame["corpus"].fillna("") + ", " + frame["size"].fillna("")
    return pd.DataFrame(
        {
            "row of the report": [f"R{int(r.source)}: {r.row}" for r in frame.itertuples()],
            "what": frame["metric"].map(legible.named),
            "report": frame["value"],
            "ours": frame["ours"],
            "n": frame["n"],
            "ours over report": frame["ratio"].map("{:.2f}".format, na_action="ignore"),
            "text, size": text.str.strip(", "),
        }
    ).set_index("row of the report")


def chosen(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """The rows that the parameters ask for, as a reader sees them."""
    for column in ("kind", "verdict"):
        wanted = getattr(board, column)
        if wanted != ALL:
            frame = frame[frame[column] == wanted]
    return scoreboard.shown(frame)
