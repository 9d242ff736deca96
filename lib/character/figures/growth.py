"""Figures about growing: what happens at each added layer, and loss against compute."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import methods
from lib.figures import style
from lib.figures.panels import corpora, counted, grid_of_panels

COMPUTE = "training compute so far (10¹² operations)"
CUT = 1.5  # times the lowest perplexity


def stages(curve: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """Validation perplexity of every seed against compute; a dot after a stage's first epoch.

    The axis of a panel ends above the highest value of any stage but the first: what is shown is
    what adding layers does, not the first epochs.
    """
    figure, axes = grid_of_panels(counted(curve), title, 3.7)
    for panel, corpus in zip(axes, corpora(curve), strict=True):
        later = []
        for variant, colour in methods.colours(variants).items():
            own = curve[(curve["corpus"] == corpus) & (curve["variant"] == variant)]
            for seed, rows in own.groupby("seed"):
                x, y = rows["operations"] / 1e12, rows["val_ppl"]
                label = variant if seed == own["seed"].min() else None
                panel.plot(x, y, color=colour, linewidth=1, alpha=0.75, label=label)
                first = rows["epoch"] == 1
                panel.plot(x[first], y[first], ".", color=colour, markersize=6)
                later += list(y[first.cumsum() > 1])
        style.plain_log(panel, "y")
        if later:
            panel.set_ylim(top=1.15 * max(later))
        panel.set_xlabel(COMPUTE)
    axes[0].set_ylabel("validation perplexity (logarithmic)")
    note = "a line a seed; a dot: after a stage's first epoch; what variants share is drawn over"
    style.legend(figure, axes[-1], note)
    return figure


def against_compute(curve: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """Best validation perplexity so far (any depth) against compute, mean over seeds.

    The band runs from the lowest to the highest seed. A line begins when every seed has finished
    an epoch and ends when the first has stopped. Axes are cut at one and a half times the lowest.
    """
    figure, axes = grid_of_panels(counted(curve), title, 3.7)
    for panel, corpus in zip(axes, corpora(curve), strict=True):
        found = {}
        for variant in variants:
            own = curve[(curve["corpus"] == corpus) & (curve["variant"] == variant)]
            found[variant] = best_so_far(own)
        top = CUT * min(values.min() for _, values in found.values())
        shown = np.concatenate([grid[values.min(0) <= top] for grid, values in found.values()])
        for number, (variant, colour) in enumerate(methods.colours(variants).items()):
            grid, values = found[variant]
            panel.plot(
                grid / 1e12,
                values.mean(0),
                linestyle=style.LINES[number % len(style.LINES)],  # coinciding lines stay visible
                color=colour,
                label=variant,
            )
            panel.fill_between(
                grid / 1e12, values.min(0), values.max(0), color=colour, alpha=0.12, linewidth=0
            )
        style.plain_log(panel, "x")
        panel.set_xlim(0.8 * shown.min() / 1e12, 1.15 * shown.max() / 1e12)
        panel.set_ylim(0.98 * top / CUT, top)
        panel.set_xlabel(f"{COMPUTE}, logarithmic")
    axes[0].set_ylabel(f"best validation perplexity so far\n(cut at {CUT:g} times the lowest)")
    style.legend(figure, axes[-1], "line: mean over seeds; band: lowest to highest seed")
    return figure


def best_so_far(curve: pd.DataFrame, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Compute (points,) and, for each seed, the lowest perplexity reached by then (seeds, points).

    ``curve`` holds the epochs of one variant on one corpus.
    """
    seeds = [rows.sort_values("operations") for _, rows in curve.groupby("seed")]
    low = max(rows["operations"].min() for rows in seeds)
    high = min(rows["operations"].max() for rows in seeds)
    grid = np.geomspace(low, max(high, low), points)
    values = []
    for rows in seeds:
        lowest = rows["val_ppl"].cummin().to_numpy()
        reached = np.searchsorted(rows["operations"].to_numpy(), grid * (1 + 1e-9), side="right")
        values.append(lowest[np.maximum(reached, 1) - 1])
    return grid, np.stack(values)
