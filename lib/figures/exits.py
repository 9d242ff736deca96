"""Figures about early exit: threshold sweeps, loss against compute, reliability, speed."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.panels import band, corpora, legend_below, row_of_panels

COLUMNS = {
    "ppl": "perplexity",
    "acc_pct": "accuracy (%)",
    "exit_pct": "symbols that exit (%)",
    "agree_pct": "same prediction as last layer (%)",
    "agree_correct_pct": "both right or both wrong (%)",
}


def sweep(
    exits: pd.DataFrame, corpus: str, variants: list[str], columns: list[str], title: str
) -> Figure:
    """A panel a column against the threshold; solid the best epoch, dashed the last one."""
    figure, axes = row_of_panels([COLUMNS[column] for column in columns], title, 3.2, 3.6)
    own = exits[exits["corpus"] == corpus]
    for panel, column in zip(axes, columns, strict=True):
        for variant, colour in style.colours(variants).items():
            for state, line in (("best", "-"), ("last", "--")):
                rows = own[(own["variant"] == variant) & (own["state"] == state)]
                label = f"{variant}, {state} epoch"
                band(panel, rows, "threshold", column, color=colour, linestyle=line, label=label)
        panel.set_xlabel("confidence threshold")
        if column == "ppl":
            panel.set_yscale("log")
    legend_below(figure, axes[0])
    return figure


def pareto(
    exits: pd.DataFrame, summary: pd.DataFrame, variants: list[str], title: str, state: str = "best"
) -> Figure:
    """Perplexity against compute: a line a network over its thresholds, ends marked.

    Filled: always exit and always last. Dotted: the same share of exits drawn by lot.
    """
    names = corpora(exits)
    figure, axes = row_of_panels(names, title, 3.8)
    for panel, corpus in zip(axes, names, strict=True):
        for variant, colour in style.colours(variants).items():
            rows, ends = (
                frame[
                    (frame["corpus"] == corpus)
                    & (frame["variant"] == variant)
                    & (frame["state"] == state)
                ]
                for frame in (exits, summary)
            )
            if rows.empty:
                continue
            mean = rows.groupby("threshold")[["compute_pct", "ppl", "random_ppl"]].mean()
            panel.plot(mean["compute_pct"], mean["ppl"], ".-", color=colour, label=variant)
            panel.plot(mean["compute_pct"], mean["random_ppl"], ":", color=colour, lw=1)
            panel.plot(100, ends["always_last_ppl"].mean(), "s", color=colour, ms=6)
        panel.set_xlabel("blocks' compute (% of four layers)")
        panel.set_ylabel("perplexity")
    legend_below(figure, axes[0], 2)
    return figure


def reliability(
    bins: pd.DataFrame, corpus: str, variants: list[str], layer: str, state: str, title: str
) -> Figure:
    """Accuracy against confidence, all seeds' symbols pooled: as trained, and with temperature."""
    figure, axes = row_of_panels(variants, title, 3.4, 3.3, sharey=True)
    for panel, variant in zip(axes, variants, strict=True):
        panel.plot([0, 1], [0, 1], color="#555555", linewidth=0.8, linestyle=":")
        for kind, colour, label in (
            ("raw", style.COLOURS[1], "as trained"),
            ("tempered", style.COLOURS[0], "with fitted temperature"),
        ):
            rows = bins[
                (bins["corpus"] == corpus)
                & (bins["variant"] == variant)
                & (bins["layer"] == layer)
                & (bins["state"] == state)
                & (bins["kind"] == kind)
            ]
            pooled = rows.groupby("bin").apply(_pool, include_groups=False)
            size = 12 * np.sqrt(pooled["count"] / pooled["count"].max()) + 1.5
            panel.plot(pooled["confidence"], pooled["accuracy"], color=colour, lw=1, label=label)
            panel.scatter(pooled["confidence"], pooled["accuracy"], s=size**1.7, color=colour)
        panel.set_xlabel("confidence")
    axes[0].set_ylabel("accuracy")
    axes[0].legend()
    return figure


def _pool(rows: pd.DataFrame) -> pd.Series:
    weight = rows["count"]
    return pd.Series(
        {
            "count": weight.sum(),
            "confidence": np.average(rows["confidence"], weights=weight),
            "accuracy": np.average(rows["accuracy"], weights=weight),
        }
    )


def speed(
    batched: pd.DataFrame, generated: pd.DataFrame, wider: pd.DataFrame, title: str
) -> Figure:
    """Measured against ideal speed-up: windows, generation, and untrained wider models."""
    names = ["whole windows", "generation with cache", "wider models, exits by lot"]
    figure, axes = row_of_panels(names, title, 3.6, 3.6)
    for panel, frame, key in (
        (axes[0], batched, "keep"),
        (axes[1], generated[generated["threshold"].notna()], "method"),
        (axes[2], wider, "width"),
    ):
        top = 1.05 * max(frame["ideal_speedup"].max(), frame["speedup"].max())
        panel.plot([1, top], [1, top], color="#555555", linewidth=0.8, linestyle=":")
        panel.axhline(1, color="#555555", linewidth=0.8)
        for colour, (name, rows) in zip(style.COLOURS, frame.groupby(key), strict=False):
            label = f"d = {name}" if key == "width" else name
            panel.plot(rows["ideal_speedup"], rows["speedup"], "o", color=colour, ms=4, label=label)
        panel.set_xlabel("ideal speed-up (compute formula)")
        panel.legend()
    axes[0].set_ylabel("measured speed-up (wall clock)")
    return figure
