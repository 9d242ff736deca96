"""Figures with a panel a corpus, so that real and repeated text stand side by side."""

import math
import textwrap
from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures import methods, rows, style
from lib.results import tables
from lib.results.statistics import Interval, interval


def corpora(frame: pd.DataFrame) -> list[str]:
    """Corpora in the order of the table."""
    return list(frame["corpus"].unique())


def counted(frame: pd.DataFrame) -> list[str]:
    """Corpora in the order of the table, each with its number of seeds, as titles of panels."""
    return [f"{name}, {tables.seeds(rows)}" for name, rows in frame.groupby("corpus", sort=False)]


def grid_of_panels(
    names: list[str], title: str, height: float = 3.3, columns: int = 3, **settings
) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page with a panel a name, ``height`` inches a row of panels.

    ``columns`` panels in a row where the names fill the rows, else two.
    """
    columns = min(columns, len(names)) if len(names) % columns == 0 or len(names) < columns else 2
    lines = -(-len(names) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(style.WIDE, height * lines), squeeze=False, **settings
    )
    panels = list(grid.ravel())
    for empty in panels[len(names) :]:
        empty.remove()
    for panel, name in zip(panels, names, strict=False):
        panel.set_title(name)
    figure.suptitle(title)
    return figure, panels[: len(names)]


HARD = "\u00a0"  # a blank at which no line ends
LINE = 105  # characters of a heading over a figure as wide as a page


def heading(figure: Figure, finding: str, parts: Mapping[str, str], note: str = "") -> None:
    """Put what a figure shows over it: a finding, its values by text, and a note in brackets."""
    said = [f"{value} on {text}".replace(" ", HARD) for text, value in parts.items()]
    whole = f"{finding}: {', '.join(said)}" if said else finding
    lines = textwrap.wrap(whole, LINE, break_on_hyphens=False) + ([f"({note})"] if note else [])
    figure.suptitle("\n".join(lines))


EVERYTHING = (-math.inf, math.inf)


def band(
    axes: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    possible: tuple[float, float] = EVERYTHING,
    over: Callable[[pd.Series], Interval] = interval,
    **look,
) -> None:
    """Mean of y over seeds against x with its 95 % interval, cut at the ``possible`` values.

    ``over``: what makes mean and interval of the values at an x.
    """
    frame = frame[frame[y].notna()]
    found = {at: over(rows[y]) for at, rows in frame.groupby(x)}
    places, values = list(found), list(found.values())
    (line,) = axes.plot(places, [v.mean for v in values], **look)
    axes.fill_between(
        places,
        np.clip([v.low for v in values], *possible),
        np.clip([v.high for v in values], *possible),
        color=line.get_color(),
        alpha=0.15,
        linewidth=0,
    )


def perplexities(
    frame: pd.DataFrame,
    variants: list[str],
    title: str,
    metrics: dict[str, str],
    experiment: str = "",
    diamonds: bool = True,
) -> Figure:
    """One row a variant and a panel a corpus: seeds, mean, 95 % interval, the report's figure.

    ``metrics`` names the column to read for each corpus. The report's figure (a diamond) is drawn
    on ``repeated`` only, and only if it was measured there (``diamonds``). An axis that spans more
    than a factor of 3 is logarithmic.
    """
    names = corpora(frame)
    figure, axes = grid_of_panels(names, title, rows.HEIGHT * len(variants) + 1.6, sharey=True)
    known = rows.reported(experiment)
    parted = _parted(variants, set(known))
    for panel, corpus in zip(axes, names, strict=True):
        own, metric = frame[frame["corpus"] == corpus], metrics[corpus]
        every = own.loc[own["variant"].isin(variants), metric].dropna()
        for y, (variant, colour) in enumerate(methods.row_colours(variants).items()):
            rows.draw(panel, y, rows.own_values(own, variant, metric), colour)
            if variant in known and corpus == "repeated" and diamonds:
                rows.draw_reported(panel, y, known[variant])
        rows.name_rows(panel, variants)
        if parted:
            panel.axhline(parted - 0.5, color=style.QUIET, linewidth=0.8)
        logarithmic = every.max() > 3 * every.min()
        if logarithmic:
            style.plain_log(panel, "x")
        kind = "validation" if metric == "val_ppl" else "test"
        panel.set_xlabel(f"{kind} perplexity{' (logarithmic)' if logarithmic else ''}")
    shown = diamonds and "repeated" in names and any(variant in known for variant in variants)
    style.legend(figure, rows.key(shown), "above the line: the report's rows" * bool(parted), 4)
    return figure


def _parted(variants: list[str], known: set[str]) -> int:
    """How many rows stand above the controls: the report's, where they are the first ones."""
    first = [variant for variant in variants if variant in known]
    leading = variants[: len(first)] == first
    return len(first) if leading and len(first) < len(variants) else 0
