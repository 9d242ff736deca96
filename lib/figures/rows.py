"""Rows: one named row a variant with every seed, the mean, its interval and what was reported."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lib.results import store
from lib.results.statistics import interval

HEIGHT = 0.27  # inches a row


def reported(experiment: str) -> dict[str, float]:
    """The best validation perplexity that a report gives for each of its rows."""
    if not experiment:
        return {}
    rows = store.reported(experiment)
    rows = rows[rows["metric"] == "best_val_ppl"]
    return dict(zip(rows["row"], rows["value"], strict=True))


def own_values(frame: pd.DataFrame, variant: str, metric: str) -> np.ndarray:
    """One value a seed (n,); raises Absent for a variant without any."""
    found = frame.loc[frame["variant"] == variant, metric].dropna().to_numpy(dtype=float)
    if not len(found):
        raise store.Absent(f"variant {variant!r} has no {metric}")
    return found


def draw(axes: Axes, y: float, values: np.ndarray, colour: str) -> None:
    """Seeds (dots), the 95 % interval (bar) and the mean (tick) of one row."""
    found = interval(values)
    bar = {"linewidth": 5, "alpha": 0.4, "solid_capstyle": "butt"}
    axes.plot([found.low, found.high], [y, y], color=colour, **bar)
    axes.scatter(values, np.full(len(values), y), s=12, color=colour, alpha=0.7, linewidths=0)
    axes.plot(found.mean, y, "|", color=colour, markersize=12, markeredgewidth=2)


def draw_reported(axes: Axes, y: float, value: float) -> None:
    """What the report gives for this row."""
    axes.plot(value, y, "D", mfc="white", mec="black", markersize=5.5, zorder=3)


def name_rows(axes: Axes, names: list[str]) -> None:
    """The names at the left, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def key(with_reported: bool) -> list[Artist]:
    """Legend entries that explain a row."""

    def mark(marker: str, label: str, **look) -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, color="black", label=label, **look)

    found = [
        mark("|", "mean over seeds", markersize=9, mew=2),
        Line2D([], [], lw=5, alpha=0.4, color="black", label="95 % interval of the mean"),
        mark("o", "one seed", markersize=4, alpha=0.7),
    ]
    if with_reported:
        found.append(mark("D", "reported", mfc="white", ms=5.5))
    return found
