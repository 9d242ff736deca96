"""Notebook 90: which of the committed claims are shown."""

from types import SimpleNamespace

import pandas as pd

from lib.parameters import Parameters, choice
from lib.results import scoreboard
from lib.results.claims import KINDS, VERDICTS

ALL = "all"


class Board(Parameters):
    """``kind`` of claims, and the ``verdict`` that they have."""

    kind: str = choice("reported", (ALL, *KINDS))
    verdict: str = choice(ALL, (ALL, *VERDICTS))


BOARD = SimpleNamespace(parameters=Board)


def claims() -> pd.DataFrame:
    """All rows of claims.csv."""
    return pd.read_csv(scoreboard.PATH)


def counts(frame: pd.DataFrame) -> pd.DataFrame:
    """Verdicts counted by kind of claim."""
    return pd.crosstab(frame["kind"], frame["verdict"], margins=True, margins_name="all")


def chosen(frame: pd.DataFrame, board: Board) -> pd.DataFrame:
    """The rows that the parameters ask for, as a reader sees them."""
    for column in ("kind", "verdict"):
        wanted = getattr(board, column)
        if wanted != ALL:
            frame = frame[frame[column] == wanted]
    return scoreboard.shown(frame)
