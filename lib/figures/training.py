"""Figures about training: curves over epochs, and perplexities with intervals."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures import alternative, methods, rows, style

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


def lines(
    axes: Axes,
    curve: pd.DataFrame,
    variants: list[str],
    highest: float | None = None,
    floors: dict[str, float] | None = None,
) -> bool:
    """Draw validation perplexity over epochs into axes; returns whether something was cut off.

    ``highest`` cuts the axis: the legend names variants that lie wholly above. An axis cut at more
    than 3 times its lowest value is logarithmic. ``floors`` are named horizontal lines.
    """
    drawn = curve[curve["variant"].isin(variants)]
    values = drawn["val_ppl"]
    levels = {k: v for k, v in (floors or {}).items() if highest is None or v <= highest}
    least = min([values.min(), *levels.values()], default=math.nan)
    cut = highest is not None and least < highest < values.max()
    lowest = list(levels.values())
    for variant, look in methods.looks(variants).items():
        own = drawn[drawn["variant"] == variant]
        if own.empty:
            continue
        above = cut and own["val_ppl"].min() > highest
        name = f"{variant} (above the cut)" if above else variant
        lowest.append(over_epochs(axes, own, "val_ppl", name, **look))
    for name, value in levels.items():
        style.level(axes, name, value)
    if cut:
        if highest > 3 * min(lowest):
            style.plain_log(axes, "y")
        axes.set_ylim(0.96 * min(lowest), highest)
    style.whole_numbers(axes.xaxis)
    axes.set_xlabel("epoch")
    return cut


def axis_name(cut: bool, highest: float | None) -> str:
    """What a validation axis is called, in two lines where it is cut."""
    return "validation perplexity" + (f"\n(cut at {alternative.short(highest)})" if cut else "")


def curves(
    curve: pd.DataFrame,
    variants: list[str],
    title: str,
    floors: dict[str, float] | None = None,
    highest: float | None = None,
) -> Figure:
    """Mean over seeds against epochs, the band from lowest to highest seed, as ``lines`` draws it.

    A line ends where the first seed stopped early.
    """
    figure, axes = plt.subplots()
    cut = lines(axes, curve, variants, highest, floors)
    axes.set_ylabel(axis_name(cut, highest))
    axes.set_title(title)
    style.legend(figure, axes, OVER_SEEDS, 2)
    return figure


def intervals(
    frame: pd.DataFrame,
    variants: list[str],
    title: str,
    metric: str = "test_ppl",
    label: str = "test perplexity",
    floors: dict[str, float] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """One row a variant: every seed and the mean with its 95 % interval."""
    figure, axes = plt.subplots(figsize=(7.2, rows.HEIGHT * len(variants) + 1.5))
    for y, (variant, colour) in enumerate(methods.row_colours(variants).items()):
        rows.draw(axes, y, rows.own_values(frame, variant, metric), colour)
    for name, value in (floors or {}).items():
        style.level(axes, name, value, horizontal=False)
    rows.name_rows(axes, variants)
    if logarithmic:
        style.plain_log(axes, "x")
    axes.set_xlabel(f"{label} (lower is better{', logarithmic' if logarithmic else ''})")
    figure.suptitle(title)
    style.legend(figure, rows.key(False), columns=3)
    return figure
