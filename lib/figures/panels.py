"""Figures with a panel a corpus, so that real and repeated text stand side by side."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.analysis.statistics import bootstrap
from lib.figures import style
from lib.results import store


def corpora(frame: pd.DataFrame) -> list[str]:
    """Corpora in the order of the table."""
    return list(frame["corpus"].unique())


def row_of_panels(
    names: list[str], title: str, height: float = 3.6, width: float = 4.6, **settings
) -> tuple[Figure, list[Axes]]:
    """A figure of one row with a panel a name."""
    figure, axes = plt.subplots(
        1, len(names), figsize=(width * len(names), height), squeeze=False, **settings
    )
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(name)
    figure.suptitle(title, fontsize=11)
    figure.set_layout_engine("constrained")
    return figure, list(axes[0])


def legend_below(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """The legend of one panel for the whole figure, under it."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def band(axes: Axes, frame: pd.DataFrame, x: str, y: str, **look) -> None:
    """Mean of y over seeds against x with its 95 % interval."""
    frame = frame[frame[y].notna()]
    found = {at: bootstrap(rows[y]) for at, rows in frame.groupby(x)}
    places, values = list(found), list(found.values())
    (line,) = axes.plot(places, [v.mean for v in values], **look)
    axes.fill_between(
        places,
        [v.low for v in values],
        [v.high for v in values],
        color=line.get_color(),
        alpha=0.18,
        linewidth=0,
    )


def perplexities(
    frame: pd.DataFrame,
    variants: list[str],
    title: str,
    metrics: dict[str, str],
    experiment: str = "",
) -> Figure:
    """One row a variant and a panel a corpus: seeds, mean, 95 % interval, the seed's figure.

    ``metrics`` names the column to read for each corpus. The seed's figure (a diamond) is drawn on
    ``repeated`` only, where it was measured. An axis that spans more than a factor of 3 is
    logarithmic.
    """
    names = corpora(frame)
    figure, axes = row_of_panels(names, title, 0.3 * len(variants) + 1.3, sharey=True)
    known = _reported(experiment) if experiment else {}
    for panel, corpus in zip(axes, names, strict=True):
        own = frame[frame["corpus"] == corpus]
        shown, every = False, own.loc[own["variant"].isin(variants), metrics[corpus]].dropna()
        for y, variant in enumerate(variants):
            colour = style.COLOURS[y % len(style.COLOURS)]
            values = own.loc[own["variant"] == variant, metrics[corpus]].dropna().to_numpy(float)
            found = bootstrap(values)
            panel.scatter(values, np.full(len(values), y), s=9, color=colour, alpha=0.35, lw=0)
            panel.plot([found.low, found.high], [y, y], color=colour, linewidth=3)
            panel.plot(found.mean, y, "o", color=colour, markersize=5)
            if variant in known and corpus == "repeated":
                panel.plot(known[variant], y, "D", mfc="white", mec="black", ms=5, zorder=3)
                shown = True
        panel.set_yticks(range(len(variants)), variants)
        panel.set_ylim(len(variants) - 0.5, -0.5)
        panel.grid(axis="y", visible=False)
        if every.max() > 3 * every.min():
            panel.set_xscale("log")
        kind = "validation" if metrics[corpus] == "val_ppl" else "test"
        panel.set_xlabel(f"{kind} perplexity" + ("; ◇ reported by the seed" if shown else ""))
    return figure


def _reported(experiment: str) -> dict[str, float]:
    rows = store.reported(experiment)
    rows = rows[rows["metric"] == "best_val_ppl"]
    return dict(zip(rows["row"], rows["value"], strict=True))
