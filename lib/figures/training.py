"""Figures about training: curves over epochs, and perplexities with intervals."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures import methods, rows, style

OVER_SEEDS = "line: mean over seeds, up to the first that stops; band: lowest to highest seed"


def over_epochs(axes: Axes, curve: pd.DataFrame, metric: str, label: str, **look) -> float:
    """Mean over seeds and a band from lowest to highest; returns the lowest value drawn."""
    wide = curve.pivot_table(index="epoch", columns="seed", values=metric)
    wide = wide.dropna()  # only epochs that every seed reached
    alone = {"marker": "o"} if len(wide) == 1 else {}  # a line of one point would not be seen
    axes.plot(wide.index, wide.mean(axis=1), label=label, **alone, **look)
    axes.fill_between(
        wide.index, wide.min(axis=1), wide.max(axis=1), color=look["color"], alpha=0.13, linewidth=0
    )
    return float(wide.min().min())


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
    ``highest`` cuts the axis (the label says so, and names the variants that lie wholly above). An
    axis cut at more than 3 times its lowest value is logarithmic.
    """
    figure, axes = plt.subplots()
    lowest = []
    for variant, look in methods.looks(variants).items():
        own = curve[curve["variant"] == variant]
        above = highest is not None and own[metric].min() > highest
        name = f"{variant} (above the cut)" if above else variant
        lowest.append(over_epochs(axes, own, metric, name, **look))
    for name, value in (floors or {}).items():
        if highest is None or value <= highest:
            style.level(axes, name, value)
            lowest.append(value)
    if highest is not None:
        if highest > 3 * min(lowest):
            style.plain_log(axes, "y")
        axes.set_ylim(0.96 * min(lowest), highest)
        label += f" (cut at {highest:g})"
    style.whole_numbers(axes.xaxis)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_title(title)
    style.legend(figure, axes, OVER_SEEDS, 3 if len(variants) > 4 else 2)
    return figure


def intervals(
    frame: pd.DataFrame,
    variants: list[str],
    title: str,
    metric: str = "test_ppl",
    label: str = "test perplexity",
    experiment: str = "",
    floors: dict[str, float] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """One row a variant: every seed, the mean with its 95 % interval, and the report's own figure.

    With ``experiment`` given, two diamonds compare *validation* perplexities, which is what the
    report gives (from one run): hollow the report's, filled our mean.
    """
    figure, axes = plt.subplots(figsize=(7.2, rows.HEIGHT * len(variants) + 1.5))
    known = rows.reported(experiment)
    for y, (variant, colour) in enumerate(methods.row_colours(variants).items()):
        rows.draw(axes, y, rows.own_values(frame, variant, metric), colour)
        if known:
            valid = frame.loc[frame["variant"] == variant, "val_ppl"].mean()
            axes.plot(valid, y, "D", color=colour, markersize=4.5, zorder=4)
        if variant in known:
            rows.draw_reported(axes, y, known[variant])
    for name, value in (floors or {}).items():
        style.level(axes, name, value, horizontal=False)
    rows.name_rows(axes, variants)
    if logarithmic:
        style.plain_log(axes, "x")
    label = "perplexity" if known else label  # both splits are drawn
    axes.set_xlabel(f"{label} (lower is better{', logarithmic' if logarithmic else ''})")
    axes.set_title(title, pad=18 if floors else None)
    style.legend(figure, rows.key(bool(known), bool(known)), columns=3)
    return figure
