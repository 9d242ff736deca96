"""Figures about context vectors: memory, forgetting, effective rank, scaling."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.analysis.statistics import bootstrap
from lib.figures import style


def _values(frame: pd.DataFrame, variant: str, metric: str) -> np.ndarray:
    found = frame.loc[frame["variant"] == variant, metric].dropna().to_numpy(dtype=float)
    if not len(found):
        raise KeyError(f"variant {variant!r} has no {metric}")
    return found


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
    for number, (label, points) in enumerate(series.items()):
        if not points:
            continue
        found = [bootstrap(_values(frame, variant, metric)) for variant in points.values()]
        colour, places = style.COLOURS[number], list(points)
        marker = style.MARKERS[number]
        axes.plot(places, [f.mean for f in found], marker=marker, color=colour, label=label)
        axes.fill_between(
            places, [f.low for f in found], [f.high for f in found], color=colour, alpha=0.15
        )
    for number, (label, variant) in enumerate(levels.items(), start=len(series)):
        found = bootstrap(_values(frame, variant, metric))
        axes.axhline(found.mean, color=style.COLOURS[number], linestyle="--", label=label)
        axes.axhspan(found.low, found.high, color=style.COLOURS[number], alpha=0.1)
    axes.set_xlabel("tokens the prediction sees")
    axes.set_ylabel("test perplexity")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title)
    axes.legend()
    return figure


def rank_against_perplexity(frame: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """One point a variant and seed: effective rank (seed's definition and covariance) and PPL."""
    figure, panels = plt.subplots(1, 2, figsize=(9.2, 3.8), sharey=True)
    names = {
        "er_pct": "effective rank, seed's definition (%)",
        "covariance_er_pct": "effective rank, centred covariance (%)",
    }
    for axes, (metric, label) in zip(panels, names.items(), strict=True):
        for number, variant in enumerate(variants):
            own = frame[frame["variant"] == variant]
            axes.scatter(
                own[metric],
                own["test_ppl"],
                color=style.COLOURS[number],
                marker=style.MARKERS[number],
                label=variant,
            )
        axes.set_xlabel(label)
    panels[0].set_ylabel("test perplexity")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=10.5)
    return figure


def forgetting(rows: pd.DataFrame, variants: list[str], title: str) -> Figure:
    """Cosine of two states that saw the same tokens, mean over seeds, band lowest to highest."""
    figure, axes = plt.subplots()
    for number, variant in enumerate(variants):
        wide = rows[rows["variant"] == variant].pivot_table(
            index="tokens_seen", columns="seed", values="cos"
        )
        colour = style.COLOURS[number]
        axes.plot(
            wide.index, wide.mean(axis=1), marker=style.MARKERS[number], color=colour, label=variant
        )
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.15)
    axes.axhline(0.99, color="#555555", linewidth=0.9, linestyle=":")
    axes.set_xlabel("tokens both states have seen")
    axes.set_ylabel("cosine of two states that began apart")
    axes.set_title(title)
    axes.legend()
    return figure


def agreement_bars(
    frame: pd.DataFrame,
    groups: Mapping[str, Mapping[int, str]],
    title: str,
    metric: str,
    label: str,
    reported: float | None = None,
) -> Figure:
    """A metric over the number of layers, one line a group {layers: variant}, all seeds shown."""
    figure, axes = plt.subplots()
    for number, (name, points) in enumerate(groups.items()):
        colour, places = style.COLOURS[number], list(points)
        found = [_values(frame, variant, metric) for variant in points.values()]
        axes.plot(
            places,
            [v.mean() for v in found],
            marker=style.MARKERS[number],
            color=colour,
            label=name,
        )
        for place, values in zip(places, found, strict=True):
            axes.scatter([place] * len(values), values, s=9, color=colour, alpha=0.35)
    if reported is not None:
        axes.axhline(reported, color="black", linewidth=0.9, linestyle=":", label="seed's figure")
    axes.set_xticks(sorted({place for points in groups.values() for place in points}))
    axes.set_xlabel("layers")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.legend()
    return figure


def power_laws(series: Mapping[str, pd.DataFrame], laws: Mapping[str, list], title: str) -> Figure:
    """Perplexity over training tokens on log axes: all seeds, and fitted laws as lines.

    `series` maps a label to rows with tokens and ppl; `laws` a label to (name, PowerLaw) pairs.
    """
    figure, axes = plt.subplots()
    lines = ("-", "--", ":")
    for number, (label, rows) in enumerate(series.items()):
        colour = style.COLOURS[number]
        axes.scatter(
            rows["tokens"],
            rows["ppl"],
            s=14,
            color=colour,
            marker=style.MARKERS[number],
            label=label,
        )
        grid = np.geomspace(rows["tokens"].min(), rows["tokens"].max(), 50)
        for line, (name, law) in zip(lines, laws.get(label, []), strict=False):
            axes.plot(
                grid,
                law.predict(grid),
                line,
                color=colour,
                linewidth=1,
                label=f"  {name}: exponent {law.alpha:.2f}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training tokens")
    axes.set_ylabel("test perplexity")
    axes.set_title(title)
    axes.legend()
    return figure
