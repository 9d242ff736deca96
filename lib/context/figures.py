"""Figures about context vectors: memory, forgetting, effective rank, scaling."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.figures import alternative, methods, rows, style
from lib.figures.rows import own_values
from lib.results.statistics import interval

SMALLEST = 1e-4  # of 1 - cosine that is drawn: what is less is as good as none


def against_tokens(
    frame: pd.DataFrame,
    series: Mapping[str, Mapping[int, str]],
    levels: Mapping[str, str],
    title: str,
) -> Figure:
    """Lines over the number of tokens seen, with bands, and horizontal levels of other variants.

    `series` maps a label to {tokens: variant}, `levels` a label to a variant.
    """
    figure, axes = plt.subplots()
    looks = methods.looks([*series, *levels])
    for marker, (label, points) in zip(cycle(style.MARKERS), series.items(), strict=False):
        if not points:
            continue
        found = [interval(own_values(frame, variant, "test_ppl")) for variant in points.values()]
        colour, places = looks[label]["color"], list(points)
        axes.plot(places, [f.mean for f in found], marker=marker, color=colour, label=label)
        axes.fill_between(
            places, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.13, lw=0
        )
    for label, variant in levels.items():
        found, colour = interval(own_values(frame, variant, "test_ppl")), looks[label]["color"]
        before = [line.get_color() for line in axes.lines].count(colour)
        axes.axhline(found.mean, color=colour, linestyle=style.LINES[1 + before], label=label)
        axes.axhspan(found.low, found.high, color=colour, alpha=0.1, linewidth=0)
    axes.set_xlabel("tokens the prediction sees")
    axes.set_ylabel("test perplexity")
    style.whole_numbers(axes.xaxis)
    axes.set_title(title)
    style.legend(
        figure, axes, "mean over random seeds; band: 95 % interval; level lines: all tokens seen"
    )
    return figure


def rank_against_perplexity(frame: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """One point a variant and seed: effective rank (by both definitions) and perplexity."""
    labels = {
        "er_pct": "effective rank, the report's definition (%)",
        "covariance_er_pct": "effective rank, centred covariance (%)",
    }
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDE, 4.3), sharey=True)
    colours = methods.row_colours(variants)  # the marks tell variants of a layout apart
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


APART = 0.01  # 1 - cosine below which two states count as the same


def forgetting(curve: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """1 - cosine of two states that saw the same tokens: mean over seeds, lowest to highest.

    The heading counts the variants whose states meet; ``title`` says of what they are.
    """
    figure, axes = plt.subplots()
    met = 0
    for (variant, look), marker in zip(
        methods.looks(variants).items(), cycle(style.MARKERS), strict=False
    ):
        wide = 1 - curve[curve["variant"] == variant].pivot_table(
            index="tokens_seen", columns="seed", values="cos"
        )
        wide = wide.clip(lower=SMALLEST)
        low, high, mean = wide.min(axis=1), wide.max(axis=1), wide.mean(axis=1)
        met += bool(mean.iloc[-1] < APART)
        fewer = wide.shape[1] < curve["seed"].nunique()  # than the title says
        name = f"{variant} (n = {wide.shape[1]})" if fewer else variant
        axes.plot(wide.index, mean, marker=marker, mfc="none", label=name, **look)
        axes.fill_between(wide.index, low, high, color=look["color"], alpha=0.13, lw=0)
    style.plain_log(axes, "y")
    style.level(axes, f"{APART:g}", APART)
    axes.set_xlabel("tokens both states have seen")
    axes.set_ylabel(
        f"1 - cosine of two states that began apart\n(logarithmic, from {SMALLEST:.4f})"
    )
    last = int(curve["tokens_seen"].max())
    axes.set_title(f"After {last} common tokens {met} of {len(variants)} {title}")
    style.legend(figure, axes, "line: mean over random seeds; band: lowest to highest seed")
    return figure


def agreement(
    frame: pd.DataFrame,
    groups: Mapping[str, Mapping[int, str]],
    title: str,
    reported: float | None = None,
) -> Figure:
    """1 - mean cosine over the number of layers, one line a group {layers: variant}, all seeds.

    Groups stand a little beside each other, so that equal values stay visible. The heading counts
    the variants that agree; ``title`` says with what. ``reported``: the report's cosine.
    """
    figure, axes = plt.subplots()
    looks, near, all_ = methods.looks(list(groups)), 0, 0
    most = frame["seed"].nunique()
    for number, ((name, points), marker) in enumerate(
        zip(groups.items(), cycle(style.MARKERS), strict=False)
    ):
        shift = 0.05 * (number - (len(groups) - 1) / 2)
        found = {
            place + shift: np.maximum(1 - own_values(frame, variant, "cos_mean"), SMALLEST)
            for place, variant in points.items()
        }
        means = [values.mean() for values in found.values()]
        near, all_ = near + sum(mean < APART for mean in means), all_ + len(means)
        axes.plot(list(found), means, marker=marker, label=name, **looks[name])
        for place, values in found.items():
            look = {"s": 11, "color": looks[name]["color"], "alpha": 0.4, "linewidths": 0}
            axes.scatter(np.full(len(values), place), values, **look)
            if len(values) < most:  # than the title says
                note = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
                axes.annotate(f"n = {len(values)}", (place, values.mean()), fontsize=8, **note)
    style.level(axes, f"{APART:g}", APART)
    if reported is not None:
        name = f"the report: {1 - reported:.2g}"
        axes.axhline(1 - reported, color="black", linewidth=1, linestyle=":", label=name)
    style.plain_log(axes, "y")
    axes.set_xticks(sorted({place for points in groups.values() for place in points}))
    axes.set_xlabel("layers")
    axes.set_ylabel("1 - mean cosine (logarithmic)")
    axes.set_title(f"{near} of {all_} {title}")
    style.legend(figure, axes, "line: mean over random seeds; pale dot: one seed")
    return figure


def exponents(
    found: Mapping[str, Sequence[float]], reported: tuple[float, float, float], title: str
) -> Figure:
    """Rows of exponents, a value a seed; ``reported``: the report's with the ends of its line's
    interval.
    """
    figure, axes = plt.subplots(figsize=(7.2, rows.HEIGHT * (len(found) + 1) + 1.7))
    for y, values in enumerate(found.values()):
        rows.draw(axes, y, np.asarray(values, dtype=float), style.COLOURS[0])
    mean, low, high = reported
    axes.plot([low, high], [len(found)] * 2, color="black", lw=1)
    rows.draw_reported(axes, len(found), mean)
    rows.name_rows(axes, [*found, "the report, one run (interval of its line)"])
    axes.set_xlabel("exponent of perplexity over training tokens (no floor)")
    figure.suptitle(title)
    style.legend(figure, rows.key(True), columns=4)
    return figure


def power_laws(series: Mapping[str, pd.DataFrame], laws: Mapping[str, list], title: str) -> Figure:
    """Perplexity over training tokens on log axes: all seeds, and fitted laws as lines.

    `series` maps a label to rows with tokens and ppl; `laws` a label to (name, PowerLaw, exponent):
    the law through all runs, which is drawn, and the exponent that is told, a mean over seeds. A
    label without laws has its marks only. Series stand a little beside each other, so that equal
    values stay visible.
    """
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    colours, drawn = methods.colours(list(series)), {}
    for number, ((label, own), marker) in enumerate(
        zip(series.items(), cycle(style.MARKERS), strict=False)
    ):
        look = {"color": colours[label], "marker": marker}
        shift = 1.025 ** (number - (len(series) - 1) / 2)
        axes.scatter(shift * own["tokens"], own["ppl"], s=18, **look)
        grid = np.geomspace(own["tokens"].min(), own["tokens"].max(), 50)
        fits = laws.get(label, [])
        for (name, law, _), line in zip(fits, style.LINES[: len(fits)], strict=True):
            axes.plot(grid, law.predict(grid), ls=line, color=colours[label], lw=1.2)
            drawn[name] = line
        found = ", ".join(f"{mean:.2f} ({name})" for name, _, mean in fits).replace("-", "−")
        told = f"{label}: exponent {found}" if fits else f"{label}: no law before every size is run"
        axes.plot([], [], linestyle="-" if fits else "", ms=5, label=told, **look)
    style.plain_log(axes, "x")
    style.plain_log(axes, "y")
    places = sorted({tokens for own in series.values() for tokens in own["tokens"]})
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.set_xlabel("training tokens (logarithmic)")
    axes.set_ylabel("test perplexity (logarithmic)")
    axes.set_title(title)
    words = dict(zip(style.LINES, style.LINE_NAMES, strict=True))
    lines = "; ".join(f"{words[line]}: law, {name}" for name, line in drawn.items())
    note = "mark: one random seed"
    if drawn:
        note += f"; {lines}\nlines go through all runs; exponents: means over seeds"
    style.legend(figure, axes, note, 1)
    names = "; ".join(axes.get_legend_handles_labels()[1])
    alternative.say(figure, f"Exponents, means over seeds: {names}." if drawn else f"{names}.")
    return figure
