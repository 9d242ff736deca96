"""Figures over the number of stages of a cascade."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.figures import methods
from lib.figures import style
from lib.results import store, tables


def by_stage(
    slug: str,
    size: str,
    metrics: dict[str, str],
    title: str,
    table: str = "stages",
    label: str = "perplexity",
    logarithmic: bool = True,
) -> Figure:
    """Mean over seeds against the stage, with the band from lowest to highest seed.

    One colour a variant, one line style a metric (``metrics``: column -> words). Raises ValueError
    for more metrics than there are line styles.
    """
    if len(metrics) > len(style.LINES):
        raise ValueError(f"{len(metrics)} metrics for {len(style.LINES)} line styles")
    frame = store.read(slug, table, size)
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
