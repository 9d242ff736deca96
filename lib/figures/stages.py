"""Figures over the number of stages of a cascade."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.figures import style
from lib.results import store


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

    One colour a variant, one line style a metric (``metrics``: column -> words).
    """
    frame = store.read(slug, table, size)
    variants = list(dict.fromkeys(frame["variant"]))
    figure, axes = plt.subplots()
    for variant, colour in style.colours(variants).items():
        for (metric, words), line in zip(metrics.items(), ("-", "--", ":"), strict=False):
            wide = frame[frame["variant"] == variant].pivot_table(
                index="stage", columns="seed", values=metric
            )
            name = f"{variant}: {words}" if len(metrics) > 1 else variant
            axes.plot(
                wide.index,
                wide.mean(axis=1),
                line,
                marker="o",
                markersize=4,
                color=colour,
                label=name,
            )
            axes.fill_between(
                wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.15
            )
    if logarithmic:
        axes.set_yscale("log")
    axes.set_xticks(sorted(frame["stage"].unique()))
    axes.set_xlabel("stage (0 = base)")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
