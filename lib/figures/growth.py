"""Figures about growing: what happens at each added layer, and loss against compute."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.panels import corpora, legend_below, row_of_panels

COMPUTE = "training compute so far (10¹² operations)"


def stages(curve: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """Validation perplexity of every seed against compute; a dot where a stage begins."""
    names = corpora(curve)
    figure, axes = row_of_panels(names, title)
    for panel, corpus in zip(axes, names, strict=True):
        for variant, colour in style.colours(variants).items():
            own = curve[(curve["corpus"] == corpus) & (curve["variant"] == variant)]
            for seed, rows in own.groupby("seed"):
                x, y = rows["operations"] / 1e12, rows["val_ppl"]
                label = variant if seed == own["seed"].min() else None
                panel.plot(x, y, color=colour, linewidth=0.9, alpha=0.75, label=label)
                first = rows["epoch"] == 1
                panel.plot(x[first], y[first], ".", color=colour, markersize=5)
        panel.set_yscale("log")
        panel.set_xlabel(COMPUTE)
    axes[0].set_ylabel("validation perplexity")
    legend_below(figure, axes[-1], 2)
    return figure


def against_compute(curve: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """Best validation perplexity so far (any depth) against compute, mean over seeds.

    The band runs from the lowest to the highest seed. A line begins when every seed has finished
    an epoch and ends when the first has stopped. Axes are cut at one and a half times the lowest.
    """
    names = corpora(curve)
    figure, axes = row_of_panels(names, title)
    for panel, corpus in zip(axes, names, strict=True):
        lowest = np.inf
        for variant, colour in style.colours(variants).items():
            own = curve[(curve["corpus"] == corpus) & (curve["variant"] == variant)]
            grid, values = best_so_far(own)
            panel.plot(grid / 1e12, values.mean(0), color=colour, label=variant)
            panel.fill_between(
                grid / 1e12, values.min(0), values.max(0), color=colour, alpha=0.13, linewidth=0
            )
            lowest = min(lowest, values.min())
        panel.set_xscale("log")
        panel.set_ylim(0.98 * lowest, 1.5 * lowest)
        panel.set_xlabel(COMPUTE)
    axes[0].set_ylabel("best validation perplexity so far")
    legend_below(figure, axes[-1], 2)
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
