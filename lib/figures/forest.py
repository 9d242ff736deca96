"""Every claim of the reports once, in one unit: which share of the reported effect is found.

1 = as large as reported, 0 = on the decision line of the claim, below 0 = the other way round.
"""

import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lib.figures import alternative, style
from lib.parameters import FULL
from lib.results.claims import (
    NOT_MEASURABLE,
    OWN_TEXT,
    REPLICATED,
    REPORTED,
    REVERSED,
    TRANSFER,
    UNDECIDED,
)
from lib.results.schema import REAL

LOOKS = {  # verdict: colour, marker, filled; legible without colour too
    REPLICATED: (style.COLOURS[0], "o", True),
    REVERSED: (style.COLOURS[1], "X", True),
    UNDECIDED: (style.QUIET, "o", False),
}
LIMIT = 2.5  # shares beyond are drawn at the edge, as arrows
HEIGHT = 0.14  # inches a row
LINE = 84  # characters of a statement, shortened at a word


def rows(claims: pd.DataFrame, stated: dict[str, float], text: str = REAL) -> pd.DataFrame:
    """One row a reported claim: the shares of its effect on its own text and on ``text``.

    ``claims``: the table ``claims.csv``; ``stated``: the reports' values by claim. Claims whose
    reported value lies on the wrong side of their own line have no share and are left out.
    """
    found = []
    for name, own in claims.groupby("id", sort=False):
        first = own.iloc[0]
        if first["kind"] not in (REPORTED, TRANSFER) or name not in stated:
            continue
        here = own[own["kind"] == REPORTED]
        there = own[(own["kind"] == TRANSFER) & (own["corpus"] == text) & (own["size"] == FULL)]
        entry = {"id": name, "statement": first["statement"], "source": first["source"]}
        for place, part in (("own", here), ("real", there)):
            if len(part):
                entry |= {f"{place}_{k}": v for k, v in _shares(part.iloc[0], stated[name]).items()}
        if entry.get("own_share") is not None or entry.get("real_share") is not None:
            found.append(entry)
    return pd.DataFrame(found)


def _shares(row: pd.Series, reported: float) -> dict:
    """Mean and ends of the interval as shares of the reported distance from the line."""

    def margin(value: float) -> float:
        if row["expect"] == "within":
            return row["threshold"] - abs(value)
        return (value - row["threshold"]) * (1 if row["expect"] == "above" else -1)

    whole = margin(reported)
    if row["verdict"] == NOT_MEASURABLE or pd.isna(row["ours"]) or whole <= 0:
        return {"share": None, "verdict": row["verdict"]}
    ends = [margin(row[c]) / whole for c in ("ci_low", "ci_high") if not pd.isna(row[c])]
    mean = margin(row["ours"]) / whole
    if row["expect"] == "within" and row["ci_low"] < 0 < row["ci_high"]:
        ends.append(margin(0) / whole)  # the interval holds the middle of the span
    return {
        "share": mean,
        "low": min(ends, default=mean),
        "high": max(ends, default=mean),
        "verdict": row["verdict"],
    }


def forest(claims: pd.DataFrame, stated: dict[str, float], text: str = REAL) -> Figure:
    """The reported claims as rows: on the report's text or its stand-in (left), on real text."""
    table = rows(claims, stated, text)
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(10, HEIGHT * len(table) + 1.4))
    for panel, place, title in (
        (axes[0], "own", f"on {OWN_TEXT}"),
        (axes[1], "real", f"on real text ({text})"),
    ):
        _panel(panel, table, place)
        panel.set_title(title)
        panel.set_xlabel("share of the reported effect")
    names = [
        f"{textwrap.shorten(statement, LINE, placeholder=' …')} {_short(source)}"
        for statement, source in zip(table["statement"], table["source"], strict=True)
    ]
    axes[0].set_yticks(range(len(table)), names, fontsize=6.2)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(_finding(table, text))
    style.legend(figure, _key(), columns=5)
    alternative.say(figure, spoken(table, text))
    return figure


def counted(table: pd.DataFrame, place: str) -> dict[str, int]:
    """How many of the ``rows`` drawn in a panel (``own`` or ``real``) have each verdict."""
    if f"{place}_share" not in table:
        return dict.fromkeys(LOOKS, 0)
    verdicts = table.loc[table[f"{place}_share"].notna(), f"{place}_verdict"]
    return {verdict: int((verdicts == verdict).sum()) for verdict in LOOKS}


def spoken(table: pd.DataFrame, text: str = REAL) -> str:
    """The counts of verdicts in both panels, in words."""
    parts = []
    for place, where in (("own", OWN_TEXT), ("real", text)):
        found = counted(table, place)
        said = ", ".join(f"{verdict} {count}" for verdict, count in found.items())
        parts.append(f"Claims drawn on {where}: {sum(found.values())}, {said}.")
    return " ".join(parts)


def _finding(table: pd.DataFrame, text: str) -> str:
    """What the picture shows, in a heading."""
    parts = []
    for place, where in (("own", f"on {OWN_TEXT}"), ("real", f"on {text}")):
        found = counted(table, place)
        parts.append(f"{found[REPLICATED]} of {sum(found.values())} {where}")
    return f"Of the claims drawn, these are replicated: {', '.join(parts)}"


def _panel(panel: Axes, table: pd.DataFrame, place: str) -> None:
    panel.axvline(0, color=style.QUIET, linewidth=1)
    panel.axvline(1, color=style.QUIET, linewidth=1, linestyle=":")
    for y, row in enumerate(table.itertuples()):
        share = getattr(row, f"{place}_share", None)
        if share is None or pd.isna(share):
            continue
        colour, marker, filled = LOOKS[getattr(row, f"{place}_verdict")]
        low, high = (np.clip(getattr(row, f"{place}_{e}"), -LIMIT, LIMIT) for e in ("low", "high"))
        panel.plot([low, high], [y, y], color=colour, linewidth=1.4, alpha=0.7)
        shown = float(np.clip(share, -LIMIT, LIMIT))
        if shown != share:
            marker = ">" if share > 0 else "<"
        face = colour if filled else "white"
        panel.plot(shown, y, marker, color=colour, markerfacecolor=face, markersize=4.2)
    panel.set_xlim(-LIMIT - 0.15, LIMIT + 0.15)
    panel.grid(axis="y", alpha=0.15)


def _short(source: str) -> str:
    """ "R4, Experiment 3" as "(R4.3)"."""
    return "(" + re.sub(r", (?:Experiments?|section) (\d+).*", r".\1", source) + ")"


def _key() -> list[Line2D]:
    found = [
        Line2D([], [], linestyle="none", marker=m, color=c, mfc=c if filled else "white",
               markersize=5, label=verdict)
        for verdict, (c, m, filled) in LOOKS.items()
    ]  # fmt: skip
    beyond = {"linestyle": "none", "marker": ">", "color": style.QUIET, "markersize": 5}
    return [
        *found,
        Line2D([], [], color="black", linewidth=1.4, label="95 % interval over seeds"),
        Line2D([], [], label="arrow: lies beyond the axis", **beyond),
    ]
