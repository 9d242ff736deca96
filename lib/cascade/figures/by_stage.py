"""Figures over the number of stages of a cascade."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.cascade.tables import one
from lib.figures import methods, style
from lib.results import tables
from lib.results.store import Results


def by_stage(
    metrics: dict[str, str],
    title: str,
    table: str = "stages",
    label: str = "perplexity",
    logarithmic: bool = True,
) -> Callable[[Results], Figure]:
    """Draw the mean over seeds against the stage, with the band from lowest to highest seed.

    One colour a variant, one line style a metric (``metrics``: column -> words). Raises ValueError
    for more metrics than there are line styles.
    """
    if len(metrics) > len(style.LINES):
        raise ValueError(f"{len(metrics)} metrics for {len(style.LINES)} line styles")

    def draw(results: Results) -> Figure:
        return _draw(one(results).named(table), metrics, title, label, logarithmic)

    return draw


def overfitting(title: str) -> Callable[[Results], Figure]:
    """Draw validation perplexity over epochs, a panel a stage: where further epochs do harm."""

    def draw(results: Results) -> Figure:
        curve = one(results).named("curve")
        stages = sorted(curve["stage"].unique())
        figure, panels = plt.subplots(
            1, len(stages), figsize=(style.WIDE, 3.6), squeeze=False, sharey=True
        )
        names = list(dict.fromkeys(curve["variant"]))
        for panel, stage in zip(panels[0], stages, strict=True):
            for name, colour in methods.colours(names).items():
                own = curve[(curve["variant"] == name) & (curve["stage"] == stage)]
                for number, (_, rows) in enumerate(own.groupby("seed")):
                    shown = name if number == 0 else None
                    panel.plot(
                        rows["epoch"], rows["val_ppl"], marker="o", ms=3, color=colour, label=shown
                    )
            style.whole_numbers(panel.xaxis)
            panel.set_title(f"stage {stage}")
            panel.set_xlabel("epoch")
        style.plain_log(panels[0][0], "y")
        panels[0][0].set_ylabel("validation perplexity of its own tokens")
        figure.suptitle(f"{title} ({tables.corpora(curve)})")
        style.legend(figure, panels[0][0], "line: one random seed", 2)
        return figure

    return draw


def _draw(frame, metrics: dict[str, str], title: str, label: str, logarithmic: bool) -> Figure:
    variants = list(dict.fromkeys(frame["variant"]))
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    for variant, colour in methods.colours(variants).items():
        for metric, line in zip(metrics, style.LINES, strict=False):
            wide = frame[frame["variant"] == variant].pivot_table(
                index="stage", columns="seed", values=metric
            )
            name = variant if line == "-" else None
            look = {"linestyle": line, "marker": "o", "ms": 4, "color": colour, "label": name}
            axes.plot(wide.index, wide.mean(axis=1), **look)
            axes.fill_between(
                wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.13, lw=0
            )
    if logarithmic:
        style.plain_log(axes, "y")
        label += " (logarithmic)"
    axes.set_xticks(sorted(frame["stage"].unique()))
    axes.set_xlabel("stage (0 = base)")
    axes.set_ylabel(label)
    axes.set_title(f"{title}\n({tables.corpora(frame)})")
    words = dict(zip(style.LINE_NAMES, metrics.values(), strict=False))
    note = "; ".join(f"{line}: {what}" for line, what in words.items())
    style.legend(figure, axes, f"{note}\nmean over seeds; band: lowest to highest seed", 2)
    return figure
