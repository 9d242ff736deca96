"""Figures about growing: what happens at each added layer, and loss against compute."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import alternative, methods, style
from lib.figures.panels import corpora, counted, grid_of_panels, heading
from lib.results.store import Results

COMPUTE = "training compute so far\n(10¹² operations, logarithmic)"
CUT = 1.5  # times the lowest perplexity
SHARES = np.linspace(0.0, 1.0, 21)  # of the way from a stage's first to its last epoch


def stages(variants: Sequence[str]):
    """Draw validation perplexity over the stages, mean over seeds, the band from lowest to highest.

    Every stage is equally wide: what is compared are shares of a stage, since seeds stop at other
    epochs. The axis of a panel ends above the highest mean of any stage but the first, or at one
    and a half times the lowest: what is shown is what adding layers does, not the first epochs. The
    heading tells where the first variant ends, over the lowest of its first stage.
    """

    def draw(results: Results) -> Figure:
        curve, names = results.named("curve"), results.names(variants)
        figure, axes = grid_of_panels(counted(curve), "", 3.2)
        told, rise = [], {}
        for panel, corpus in zip(axes, corpora(curve), strict=True):
            here, means = curve[curve["corpus"] == corpus], []
            for name, look in methods.looks(names).items():
                own, path = here[here["variant"] == name], []
                for stage, rows in own.groupby("stage"):
                    values = over_stage(rows)
                    x, mean = stage - 0.97 + 0.94 * SHARES, values.mean(0)
                    label = name if stage == own["stage"].min() else None
                    panel.plot(x, mean, label=label, **look)
                    low, high, colour = values.min(0), values.max(0), look["color"]
                    panel.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
                    means.append((stage, mean))
                    path.append(alternative.short(mean[-1]))
                if path and name == names[0]:
                    rise[corpus] = f"{means[-1][1][-1] / means[0][1].min():.2g}"
                told.append(f"{name} on {corpus}: {', '.join(path)}")
            style.plain_log(panel, "y")
            if means:
                later = [mean.max() for stage, mean in means if stage > 1]
                lowest = min(mean.min() for _, mean in means)
                panel.set_ylim(0.93 * lowest, max(1.1 * max(later, default=0), CUT * lowest))
            count = max((int(stage) for stage, _ in means), default=1)
            for stage in range(1, count, 2):  # every other one
                panel.axvspan(stage, stage + 1, color="black", alpha=0.05, linewidth=0)
            panel.set_xlim(0, count)
            panel.set_xticks([stage + 0.5 for stage in range(count)], range(1, count + 1))
            panel.tick_params(axis="x", length=0)
            panel.grid(False, axis="x")
            panel.set_xlabel("stage")
        axes[0].set_ylabel("validation perplexity (logarithmic)")
        note = "line: mean over seeds, a stage from its first to its last epoch; band: all seeds"
        style.legend(figure, axes[-1], note)
        heading(figure, f"{names[0]} ends at a multiple of the lowest of its first stage", rise)
        alternative.say(figure, f"At the end of each stage: {'; '.join(told)}.")
        return figure

    return draw


def over_stage(rows: pd.DataFrame) -> np.ndarray:
    """Validation perplexity of each seed [seeds, shares] at equal shares of one stage."""
    found = []
    for _, own in rows.groupby("seed"):
        own = own.sort_values("epoch")
        way = (own["epoch"] - 1) / max(own["epoch"].max() - 1, 1)
        found.append(np.interp(SHARES, way, own["val_ppl"]))
    return np.array(found)


def against_compute(variants: Sequence[str]):
    """Draw the best validation perplexity so far (any depth) against compute, mean over seeds.

    The band runs from the lowest to the highest seed. A line begins when every seed has finished
    an epoch and ends when the first has stopped. Axes are cut at one and a half times the lowest.
    """

    def draw(results: Results) -> Figure:
        curve, names = results.named("curve"), results.names(variants)
        figure, axes = grid_of_panels(counted(curve), "", 3.7)
        best = {}
        for panel, corpus in zip(axes, corpora(curve), strict=True):
            here = curve[curve["corpus"] == corpus]
            rows = {name: here[here["variant"] == name] for name in names}
            found = {name: best_so_far(own) for name, own in rows.items() if len(own)}
            if not found:
                continue
            top = CUT * min(values.min() for _, values in found.values())
            ends = {name: values[:, -1].mean() for name, (_, values) in found.items()}
            lowest = min(ends, key=ends.get)
            best[corpus] = f"{lowest} ({ends[lowest]:.1f})"
            shown = np.concatenate([grid[values.min(0) <= top] for grid, values in found.values()])
            for number, (name, look) in enumerate(methods.looks(names).items()):
                if name not in found:  # not trained on this text yet
                    continue
                (grid, values), colour = found[name], look["color"]
                low, mean, high = values.min(0), values.mean(0), values.max(0)
                line = style.LINES[number % len(style.LINES)]  # coinciding lines stay visible
                panel.plot(grid / 1e12, mean, linestyle=line, color=colour, label=name)
                panel.fill_between(grid / 1e12, low, high, color=colour, alpha=0.12, linewidth=0)
            style.plain_log(panel, "x")
            panel.set_xlim(0.8 * shown.min() / 1e12, 1.15 * shown.max() / 1e12)
            panel.set_ylim(0.98 * top / CUT, top)
            panel.set_xlabel(COMPUTE)
        axes[0].set_ylabel(f"best validation perplexity so far\n(cut at {CUT:g} times the lowest)")
        heading(figure, "Best at the compute it was given, all stages counted", best)
        style.legend(figure, axes[-1], "line: mean over seeds; band: lowest to highest seed")
        return figure

    return draw


def best_so_far(curve: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Compute (200,) and, for each seed, the lowest perplexity reached by then (seeds, 200).

    ``curve`` holds the epochs of one variant on one corpus.
    """
    seeds = [rows.sort_values("operations") for _, rows in curve.groupby("seed")]
    low = max(rows["operations"].min() for rows in seeds)
    high = min(rows["operations"].max() for rows in seeds)
    grid = np.geomspace(low, max(high, low), 200)
    values = []
    for rows in seeds:
        lowest = rows["val_ppl"].cummin().to_numpy()
        reached = np.searchsorted(rows["operations"].to_numpy(), grid * (1 + 1e-9), side="right")
        values.append(lowest[np.maximum(reached, 1) - 1])
    return grid, np.stack(values)
