"""Figures of comparisons on several slices of the training text."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lib.character.slices import Headline, mean, over_seeds
from lib.figures import alternative, methods, style
from lib.figures.panels import grid_of_panels, heading
from lib.results.statistics import Interval, percent_interval
from lib.results.store import Results

PALE = {"linewidth": 5, "alpha": 0.4, "solid_capstyle": "butt"}


def by_slice(headlines: tuple[Headline, ...], treatments: dict[str, str]):
    """Draw the change on each slice, a panel a text and headline; ``treatments``: the label of its
    arm.

    Above, a row a slice: its seeds and their mean. Below, the interval over all slices and that
    which seeds alone leave.
    """

    def draw(results: Results) -> Figure:
        found = {
            (text, headline): values
            for text in results.corpora
            for headline in headlines
            if (values := headline.shown(results.on(text)))
        }
        several = len(results.corpora) > 1
        names = [f"{h.words}\n{text}" if several else h.words for text, h in found]
        figure, axes = grid_of_panels(names, "", 2.25)
        heading(figure, "Comparisons in which all slices agree in sign", agreeing(found))
        for panel, ((_, headline), values) in zip(axes, found.items(), strict=True):
            colour = methods.method_of(treatments[headline.name]) or methods.BLUE
            _panel(panel, values, colour)
        style.legend(figure, _key(), columns=4)
        told = (
            f"{headline.words} on {text} {percent_interval([mean(v) for v in values.values()])} %"
            f" over slices, {over_seeds(values)} % over seeds"
            for (text, headline), values in found.items()
        )
        alternative.say(figure, f"Change and interval: {'; '.join(told)}.")
        return figure

    return draw


def agreeing(found: dict[tuple[str, Headline], dict[int, np.ndarray]]) -> dict[str, str]:
    """By text, in how many comparisons all slices agree in sign."""
    said = {}
    for text in dict.fromkeys(text for text, _ in found):
        own = [values for (name, _), values in found.items() if name == text]
        agree = sum(len({mean(changes) > 0 for changes in values.values()}) == 1 for values in own)
        said[text] = f"{agree} of {len(own)}"
    return said


def _panel(axes: Axes, values: dict[int, np.ndarray], colour: str) -> None:
    for y, changes in enumerate(values.values()):
        axes.plot(changes, [y] * len(changes), "o", color=colour, markersize=3, alpha=0.5)
        axes.plot(mean(changes), y, "o", color=colour)
    end = len(values)
    slices = percent_interval([mean(changes) for changes in values.values()])
    _bar(axes, end + 0.3, slices, colour)
    _bar(axes, end + 1.3, over_seeds(values), methods.GREY)
    axes.axvline(0, color=style.QUIET, linewidth=1, linestyle=":")
    labels = [f"slice {number}" for number in values]
    axes.set_yticks([*range(end), end + 0.3, end + 1.3], [*labels, "over slices", "over seeds"])
    axes.set_ylim(end + 1.8, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("% change of test perplexity")


def _bar(axes: Axes, y: float, found: Interval, colour: str) -> None:
    axes.plot([found.low, found.high], [y, y], color=colour, **PALE)
    axes.plot(found.mean, y, "|", color=colour, markersize=12, markeredgewidth=2)


def _key() -> list[Line2D]:
    dot = {"marker": "o", "linestyle": "none", "color": "black"}
    return [
        Line2D([], [], label="mean of a slice", **dot),
        Line2D([], [], label="one seed", markersize=3, alpha=0.5, **dot),
        Line2D([], [], color="black", label="95 % interval over slices", **PALE),
        Line2D([], [], color=methods.GREY, label="95 % interval over seeds alone", **PALE),
    ]
