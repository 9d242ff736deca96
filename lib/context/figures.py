"""Figures about context vectors: memory, forgetting, effective rank, scaling."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.figures import alternative, methods, style
from lib.figures.rows import own_values
from lib.results.statistics import interval


def against_tokens(
    frame: pd.DataFrame,
    series: Mapping[str, Mapping[int, str]],
    levels: Mapping[str, str],
    title: str,
    metric: str = "test_ppl",
) -> Figure:
    """Lines over the number of tokens seen, with bands, and horizontal levels of other variants.

    `series` maps a label to {tokens: variant}, `levels` a label to a variant.
    """
    figure, axes = plt.subplots()
    colours = methods.colours([*series, *levels])
    for marker, (label, points) in zip(cycle(style.MARKERS), series.items(), strict=False):
        if not points:
            continue
        found = [interval(own_values(frame, variant, metric)) for variant in points.values()]
        colour, places = colours[label], list(points)
        axes.plot(places, [f.mean for f in found], marker=marker, color=colour, label=label)
        axes.fill_between(
            places, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.13, lw=0
        )
    for label, variant in levels.items():
        found = interval(own_values(frame, variant, metric))
        axes.axhline(found.mean, color=colours[label], linestyle="--", label=label)
        axes.axhspan(found.low, found.high, color=colours[label], alpha=0.1, linewidth=0)
    axes.set_xlabel("tokens the prediction sees")
    axes.set_ylabel("test perplexity")
    style.whole_numbers(axes.xaxis)
    axes.set_title(title)
    style.legend(
        figure, axes, "mean over random seeds; band: 95 % interval; dashed: all tokens seen"
    )
    return figure


def rank_against_perplexity(frame: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """One point a variant and seed: effective rank (by both definitions) and perplexity."""
    labels = {
        "er_pct": "effective rank, the report's definition (%)",
        "covariance_er_pct": "effective rank, centred covariance (%)",
    }
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDE, 4.3), sharey=True)
    colours = methods.colours(variants)
    for axes, (metric, label) in zip(panels, labels.items(), strict=True):
        for variant, marker in zip(variants, cycle(style.MARKERS), strict=False):
            own = frame[frame["variant"] == variant]
            look = {"color": colours[variant], "marker": marker, "s": 26, "label": variant}
            axes.scatter(own[metric], own["test_ppl"], **look)
        axes.set_xlabel(label)
    panels[0].set_ylabel("test perplexity")
    figure.suptitle(title)
    style.legend(figure, panels[0], "mark: one random seed")
    return figure


def forgetting(rows: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """Cosine of two states that saw the same tokens: mean over seeds, band lowest to highest."""
    figure, axes = plt.subplots()
    for (variant, look), marker in zip(
        methods.looks(variants).items(), cycle(style.MARKERS), strict=False
    ):
        wide = rows[rows["variant"] == variant].pivot_table(
            index="tokens_seen", columns="seed", values="cos"
        )
        low, high = wide.min(axis=1), wide.max(axis=1)
        axes.plot(wide.index, wide.mean(axis=1), marker=marker, mfc="none", label=variant, **look)
        axes.fill_between(wide.index, low, high, color=look["color"], alpha=0.13, lw=0)
    style.level(axes, "0.99", 0.99)
    axes.set_xlabel("tokens both states have seen")
    axes.set_ylabel("cosine of two states that began apart")
    axes.set_title(title)
    style.legend(figure, axes, "line: mean over random seeds; band: lowest to highest seed")
    return figure


def agreement_bars(
    frame: pd.DataFrame,
    groups: Mapping[str, Mapping[int, str]],
    title: str,
    metric: str,
    label: str,
    reported: float | None = None,
) -> Figure:
    """A metric over the number of layers, one line a group {layers: variant}, all seeds shown.

    Groups stand a little beside each other, so that equal values stay visible.
    """
    figure, axes = plt.subplots()
    looks = methods.looks(list(groups))
    for number, ((name, points), marker) in enumerate(
        zip(groups.items(), cycle(style.MARKERS), strict=False)
    ):
        shift = 0.05 * (number - (len(groups) - 1) / 2)
        found = {
            place + shift: own_values(frame, variant, metric) for place, variant in points.items()
        }
        means = [values.mean() for values in found.values()]
        axes.plot(list(found), means, marker=marker, label=name, **looks[name])
        for place, values in found.items():
            look = {"s": 11, "color": looks[name]["color"], "alpha": 0.4, "linewidths": 0}
            axes.scatter(np.full(len(values), place), values, **look)
    if reported is not None:
        name = f"the report: {reported:g}"
        axes.axhline(reported, color="black", linewidth=1, linestyle=":", label=name)
    axes.set_xticks(sorted({place for points in groups.values() for place in points}))
    axes.set_xlabel("layers")
    axes.set_ylabel(label)
    axes.set_title(title)
    style.legend(figure, axes, "line: mean over random seeds; pale dot: one seed")
    return figure


def power_laws(series: Mapping[str, pd.DataFrame], laws: Mapping[str, list], title: str) -> Figure:
    """Perplexity over training tokens on log axes: all seeds, and fitted laws as lines.

    `series` maps a label to rows with tokens and ppl; `laws` a label to (name, PowerLaw) pairs.
    Series stand a little beside each other, so that equal values stay visible.
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    colours, drawn = methods.colours(list(series)), {}
    for number, ((label, rows), marker) in enumerate(
        zip(series.items(), cycle(style.MARKERS), strict=False)
    ):
        look = {"color": colours[label], "marker": marker}
        shift = 1.025 ** (number - (len(series) - 1) / 2)
        axes.scatter(shift * rows["tokens"], rows["ppl"], s=18, **look)
        grid = np.geomspace(rows["tokens"].min(), rows["tokens"].max(), 50)
        fits = laws.get(label, [])
        for (name, law), line in zip(fits, style.LINES[: len(fits)], strict=True):
            axes.plot(grid, law.predict(grid), ls=line, color=colours[label], lw=1.2)
            drawn[name] = line
        found = ", ".join(f"{law.alpha:.2f} ({name})" for name, law in fits).replace("-", "−")
        axes.plot([], [], linestyle="-", ms=5, label=f"{label}: exponent {found}", **look)
    style.plain_log(axes, "x")
    style.plain_log(axes, "y")
    places = sorted({tokens for rows in series.values() for tokens in rows["tokens"]})
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.set_xlabel("training tokens (logarithmic)")
    axes.set_ylabel("test perplexity (logarithmic)")
    axes.set_title(title)
    words = dict(zip(style.LINES, style.LINE_NAMES, strict=True))
    lines = "; ".join(f"{words[line]}: law, {name}" for name, line in drawn.items())
    style.legend(figure, axes, f"mark: one random seed; {lines}", 1)
    alternative.say(figure, f"Fitted laws: {'; '.join(axes.get_legend_handles_labels()[1])}.")
    return figure
