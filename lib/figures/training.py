"""Figures about training: curves over epochs, and perplexities with intervals."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.analysis.statistics import bootstrap
from lib.figures import style
from lib.results import store


def curves(
    curve: pd.DataFrame,
    variants: list[str],
    title: str,
    metric: str = "val_ppl",
    label: str = "validation perplexity",
    floors: dict[str, float] | None = None,
    highest: float | None = None,
) -> Figure:
    """Mean over seeds against epochs, the band from lowest to highest seed.

    A line ends where the first seed stopped early; ``floors`` draws named horizontal lines;
    ``highest`` cuts the axis (values above it are said to be cut in the label).
    """
    figure, axes = plt.subplots()
    for variant, colour in style.colours(variants).items():
        wide = curve[curve["variant"] == variant].pivot_table(
            index="epoch", columns="seed", values=metric
        )
        wide = wide.dropna()  # only epochs that every seed reached
        axes.plot(wide.index, wide.mean(axis=1), color=colour, label=variant)
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.15)
    for name, value in (floors or {}).items():
        if highest is not None and value > highest:
            continue  # its line would lie outside the axes
        axes.axhline(value, color="#555555", linewidth=0.9, linestyle=":")
        axes.annotate(
            name,
            (1, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="#555555",
        )
    if highest is not None:
        axes.set_ylim(top=highest)
        label += f" (cut at {highest:g})"
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.legend()
    return figure


def intervals(
    frame: pd.DataFrame,
    variants: list[str],
    title: str,
    metric: str = "test_ppl",
    label: str = "test perplexity (lower is better)",
    experiment: str = "",
    floors: dict[str, float] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """One row a variant: every seed, the mean with its 95 % interval, and the seed's own figure.

    With ``experiment`` given, two diamonds compare *validation* perplexities, which is what the
    seeds reported (from one run): hollow the seed's, filled our mean.
    """
    figure, axes = plt.subplots(figsize=(6.4, 0.45 * len(variants) + 1.5))
    reported = _reported(experiment)
    for y, variant in enumerate(variants):
        colour = style.COLOURS[y % len(style.COLOURS)]
        values = frame.loc[frame["variant"] == variant, metric].dropna().to_numpy(dtype=float)
        found = bootstrap(values)
        axes.scatter(values, np.full(len(values), y), s=9, color=colour, alpha=0.35, linewidths=0)
        axes.plot([found.low, found.high], [y, y], color=colour, linewidth=3)
        axes.plot(found.mean, y, "o", color=colour, markersize=6)
        if reported:
            valid = frame.loc[frame["variant"] == variant, "val_ppl"].mean()
            axes.plot(valid, y, "D", color=colour, markersize=4.5, zorder=4)
        if variant in reported:
            axes.plot(
                reported[variant],
                y,
                "D",
                markerfacecolor="white",
                markeredgecolor="black",
                zorder=3,
            )
    for name, value in (floors or {}).items():
        axes.axvline(value, color="#555555", linewidth=0.9, linestyle=":")
        axes.annotate(
            name,
            (value, 1),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
            fontsize=8,
            color="#555555",
        )
    axes.set_yticks(range(len(variants)), variants)
    axes.invert_yaxis()
    if logarithmic:
        axes.set_xscale("log")
    if reported:
        label = "● test perplexity, mean and 95 % interval   ◆ our validation   ◇ the seed's"
    axes.set_xlabel(label)
    axes.set_title(title)
    _no_horizontal_grid(axes)
    return figure


def _reported(experiment: str) -> dict[str, float]:
    if not experiment:
        return {}
    rows = store.reported(experiment)
    rows = rows[rows["metric"] == "best_val_ppl"]
    return dict(zip(rows["row"], rows["value"], strict=True))


def _no_horizontal_grid(axes: Axes) -> None:
    axes.grid(axis="y", visible=False)
