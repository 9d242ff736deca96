"""Figures about early exit: threshold sweeps, loss against compute, reliability, speed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import alternative, methods, style
from lib.figures.panels import EVERYTHING, band, corpora, counted, grid_of_panels
from lib.results import tables
from lib.results.statistics import interval
from lib.results.store import Results

COLUMNS = {
    "ppl": "perplexity",
    "acc_pct": "accuracy (%)",
    "exit_pct": "symbols that exit (%)",
    "agree_pct": "same prediction as last layer (%)",
    "agree_correct_pct": "both right or both wrong (%)",
}


READ = 0.8  # the reports' threshold, at which the words for a figure read its lines


def reported_split(results: Results, table: str) -> pd.DataFrame:
    """A table of the probe on the reported split, variants by their names for readers."""
    frame = results.named(table)
    return frame[frame["split"] == "report"]


def text(results: Results, repeated: bool) -> str:
    """The repeated text of the results, or the first other one; the only one where there is one."""
    names = results.corpora
    return next((name for name in names if (name == "repeated") == repeated), names[0])


def thresholds(variants: Sequence[str], columns: Sequence[str], repeated: bool):
    """Draw a panel a column against the threshold; solid the best epoch, dashed the last one.

    Bands of percentages are cut at 0 and 100.
    """

    def draw(results: Results) -> Figure:
        table, names = reported_split(results, "exits"), results.names(variants)
        corpus = text(results, repeated)
        layer = int(results("summary")["exit_layer"].iloc[0])
        own = table[table["corpus"] == corpus]
        panels = [COLUMNS[column] for column in columns]
        title = f"Exit after layer {layer}, {corpus}, {tables.seeds(own)}"
        figure, axes = grid_of_panels(panels, title, 3.0)
        for panel, column in zip(axes, columns, strict=True):
            for name, colour in methods.colours(names).items():
                for state, line in (("best", "-"), ("last", "--")):
                    rows = own[(own["variant"] == name) & (own["state"] == state)]
                    possible = (0.0, 100.0) if column.endswith("_pct") else EVERYTHING
                    label = name if state == "best" else None
                    look = {"color": colour, "linestyle": line, "label": label}
                    band(panel, rows, "threshold", column, possible, **look)
            panel.set_xlabel("confidence threshold")
            if column == "ppl":
                style.plain_log(panel, "y")
                panel.set_title(f"{COLUMNS[column]} (logarithmic)")
        note = "solid: best epoch; dashed: last epoch; band: 95 % interval over seeds"
        style.legend(figure, axes[0], note, len(names))
        alternative.say(figure, alternative.at(figure, READ, f"confidence {READ}, best epoch"))
        return figure

    return draw


def pareto(variants: Sequence[str], state: str = "best"):
    """Draw perplexity against compute: a line a network over its thresholds, means over seeds.

    Square: no exit, with its 95 % interval over seeds in the legend (as wide as the axes, and the
    same for all points of a line). Dotted: the same share of exits at random.
    """

    def draw(results: Results) -> Figure:
        exits, summary = (reported_split(results, table) for table in ("exits", "summary"))
        title = "Perplexity against compute, best epoch (dotted: as many exits at random)"
        figure, axes = grid_of_panels(counted(exits), title, 4.3)
        found = []
        for panel, corpus in zip(axes, corpora(exits), strict=True):
            for name, colour in methods.colours(results.names(variants)).items():
                rows, ends = (
                    frame[
                        (frame["corpus"] == corpus)
                        & (frame["variant"] == name)
                        & (frame["state"] == state)
                    ]
                    for frame in (exits, summary)
                )
                if rows.empty:
                    continue
                mean = rows.groupby("threshold")[["compute_pct", "ppl", "random_ppl"]].mean()
                whole = interval(ends["always_last_ppl"])
                best = mean.loc[mean["ppl"].idxmin()]
                found.append(
                    f"{name} on {corpus}: {alternative.short(best['ppl'])} at "
                    f"{best['compute_pct']:.0f} % of the compute, without exit "
                    f"{alternative.short(whole.mean)}"
                )
                label = f"{name}\n{whole}"
                panel.plot(mean["compute_pct"], mean["ppl"], ".-", color=colour, ms=7)
                panel.plot(mean["compute_pct"], mean["random_ppl"], ":", color=colour, lw=1.2)
                panel.plot(100, whole.mean, "s", color=colour, ms=6.5, label=label)
            panel.set_xlabel("blocks' compute (% of four layers)")
            heading = "without exit, mean over\nseeds [95 % interval]"
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), title=heading)
            panel.get_legend().get_title().set_color(style.QUIET)
        axes[0].set_ylabel("held-out perplexity")
        alternative.say(figure, f"Lowest mean perplexity with exits: {'; '.join(found)}.")
        return figure

    return draw


def reliability(variants: Sequence[str], repeated: bool, layer: str = "exit", state: str = "last"):
    """Draw accuracy against confidence, all seeds' symbols pooled: raw, and with temperature."""

    def draw(results: Results) -> Figure:
        bins, names = reported_split(results, "reliability"), results.names(variants)
        corpus = text(results, repeated)
        own = bins[(bins["corpus"] == corpus) & (bins["layer"] == layer) & (bins["state"] == state)]
        names = [name for name in names if (own["variant"] == name).any()]
        title = f"Exit layer at the {state} epoch, {corpus}, {tables.seeds(own)}"
        figure, axes = grid_of_panels(names, title, 3.9, sharey=True)
        gaps = []
        for panel, name in zip(axes, names, strict=True):
            panel.plot([0, 1], [0, 1], color=style.QUIET, lw=1, ls=":", label="calibrated")
            for kind, colour, label in (
                ("raw", style.COLOURS[1], "as trained"),
                ("tempered", style.COLOURS[0], "with fitted temperature"),
            ):
                rows = own[(own["variant"] == name) & (own["kind"] == kind)]
                pooled = rows.groupby("bin").apply(_pool, include_groups=False)
                gap = np.average(pooled["confidence"] - pooled["accuracy"], weights=pooled["count"])
                gaps.append(f"{name} {label} {gap:+.3f}")
                area = 8 + 90 * pooled["count"] / pooled["count"].max()
                look = {"color": colour, "lw": 1.2, "label": label}
                panel.plot(pooled["confidence"], pooled["accuracy"], **look)
                panel.scatter(pooled["confidence"], pooled["accuracy"], s=area, color=colour)
            panel.set_xlabel("confidence")
        axes[0].set_ylabel("accuracy (share right)")
        note = (
            "confidence: probability of the prediction, in ten bins; symbols of all seeds pooled; "
            "area of a dot: how many"
        )
        style.legend(figure, axes[0], note, 3)
        alternative.say(figure, f"Mean confidence minus accuracy: {'; '.join(gaps)}.")
        return figure

    return draw


def _pool(rows: pd.DataFrame) -> pd.Series:
    weight = rows["count"]
    return pd.Series(
        {
            "count": weight.sum(),
            "confidence": np.average(rows["confidence"], weights=weight),
            "accuracy": np.average(rows["accuracy"], weights=weight),
        }
    )


def speed(title: str):
    """Draw measured against ideal speed-up: windows, generation, and untrained wider models."""

    def draw(results: Results) -> Figure:
        batched, generated, wider = (results(name) for name in ("batched", "generated", "wider"))
        names = ["whole windows", "generation with cache", "wider models, exits at random"]
        figure, axes = grid_of_panels(names, f"{title}, {tables.seeds(generated)}", 3.9)
        for panel, frame, key in (
            (axes[0], batched, "keep"),
            (axes[1], generated[generated["threshold"].notna()], "method"),
            (axes[2], wider, "width"),
        ):
            top = 1.05 * max(frame["ideal_speedup"].max(), frame["speedup"].max())
            panel.plot([1, top], [1, top], color=style.QUIET, lw=1, ls=":")
            panel.axhline(1, color=style.QUIET, linewidth=0.8)
            for (name, rows), colour, marker in zip(
                frame.groupby(key), style.COLOURS, style.MARKERS, strict=False
            ):
                label = f"d = {name}" if key == "width" else f"{name} keys and values"
                look = {"color": colour, "ms": 4.5, "alpha": 0.75, "mec": "none"}
                panel.plot(rows["ideal_speedup"], rows["speedup"], marker, label=label, **look)
            panel.set_xlabel("ideal speed-up (×, by operations)")
            panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17))
        axes[0].set_ylabel("measured speed-up (×, wall clock)")
        figure.supxlabel(
            "a mark: one seed at one threshold; dotted: measured = ideal; solid: no gain",
            fontsize=9,
            color=style.QUIET,
        )
        return figure

    return draw
