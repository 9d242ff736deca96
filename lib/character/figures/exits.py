"""Figures about early exit: threshold sweeps, loss against compute, reliability, speed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import alternative, methods, style
from lib.figures.panels import EVERYTHING, band, corpora, counted, grid_of_panels, heading
from lib.results import tables
from lib.results.schema import REAL
from lib.results.statistics import interval, percent_change, percent_interval
from lib.results.store import Results

COLUMNS = {
    "ppl": "perplexity, change in %",
    "acc_pct": "accuracy, change in points",
    "exit_pct": "symbols that exit (%)",
    "agree_pct": "same prediction as last layer (%)",
    "agree_correct_pct": "both right or both wrong (%)",
}
COMPARED = ("ppl", "acc_pct")  # with the same network without exits, seed by seed
READ = 0.8  # the reports' threshold, at which the words for a figure read its lines


def reported_split(results: Results, table: str) -> pd.DataFrame:
    """A table of the probe on the reported split, variants by their names for readers."""
    frame = results.named(table)
    return frame[frame["split"] == "report"]


def compared(results: Results) -> pd.DataFrame:
    """Exits on the reported split, perplexities and accuracies as changes against no exit.

    Each seed against its own network: ``ppl`` and ``random_ppl`` in %, ``acc_pct`` in points.
    """
    keys = ["variant", "corpus", "seed", "state"]
    ends = ["always_last_ppl", "always_last_acc_pct", "exit_layer"]
    exits, summary = (reported_split(results, table) for table in ("exits", "summary"))
    exits = exits.merge(summary[[*keys, *ends]], on=keys, validate="many_to_one")
    changes = {c: percent_change(exits[c], exits[ends[0]]) for c in ("ppl", "random_ppl")}
    return exits.assign(**changes, acc_pct=exits["acc_pct"] - exits[ends[1]])


def thresholds(variants: Sequence[str], columns: Sequence[str]):
    """Draw a row a text and a panel a column against the threshold; dashed the last epoch.

    Bands of percentages are cut at 0 and 100. A share of the symbols that exit is drawn where some
    exit in every seed.
    """

    def draw(results: Results) -> Figure:
        table, names = compared(results), results.names(variants)
        table = table[table["variant"].isin(names)]
        layer = "/".join(f"{number:g}" for number in table["exit_layer"].unique())
        pairs = [(corpus, column) for corpus in corpora(table) for column in columns]
        headings = [f"{corpus}:\n{COLUMNS[column]}" for corpus, column in pairs]
        figure, axes = grid_of_panels(headings, "", 2.5, len(columns), sharex=True)
        for panel, (corpus, column) in zip(axes, pairs, strict=True):
            own = table[table["corpus"] == corpus]
            for name, colour in methods.colours(names).items():
                for state, line in (("best", "-"), ("last", "--")):
                    rows = own[(own["variant"] == name) & (own["state"] == state)]
                    counted = rows.groupby("threshold")[column].transform("count")
                    rows = rows[counted == rows["seed"].nunique()]
                    possible = EVERYTHING if column in COMPARED else (0.0, 100.0)
                    label = name if state == "best" else None
                    look = {"color": colour, "linestyle": line, "label": label}
                    over = percent_interval if column == "ppl" else interval
                    band(panel, rows, "threshold", column, possible, over, **look)
            if column in COMPARED:
                panel.axhline(0, color=style.QUIET, linewidth=0.8)
        for panel in axes[-len(columns) :]:
            panel.set_xlabel("confidence threshold")
        read = table[(table["threshold"] == READ) & (table["state"] == "best")]
        share = read.groupby(["corpus", "variant"], sort=False)["exit_pct"].mean()
        most = {c: f"{share[c].max():.2g} %" for c in share.index.unique("corpus")}
        against = f"exit after layer {layer} against none, seed by seed, {tables.seeds(table)}"
        heading(
            figure, f"At confidence {READ}, best epoch, so many symbols exit at most", most, against
        )
        note = "solid: best epoch; dashed: last epoch; band: 95 % interval over seeds"
        style.legend(figure, axes[0], note, len(names))
        alternative.say(figure, alternative.at(figure, READ, f"confidence {READ}, best epoch"))
        return figure

    return draw


def pareto(variants: Sequence[str]):
    """Draw the change of perplexity against no exit over compute: a line a network.

    A point is a threshold: mean over seeds, each against its own network without exits, and its
    95 % interval. Dotted: the same share of exits at random.
    """

    def draw(results: Results) -> Figure:
        table = compared(results)
        table = table[table["state"] == "best"]
        figure, axes = grid_of_panels(counted(table), "", 4.3)
        found, saved = [], {}
        for panel, corpus in zip(axes, corpora(table), strict=True):
            panel.axhline(0, color=style.QUIET, linewidth=0.8)
            for name, look in methods.looks(results.names(variants)).items():
                rows = table[(table["corpus"] == corpus) & (table["variant"] == name)]
                if rows.empty:
                    continue
                by_threshold = rows.groupby("threshold")
                compute = by_threshold["compute_pct"].mean()
                change, chance = (
                    [percent_interval(values) for _, values in by_threshold[column]]
                    for column in ("ppl", "random_ppl")
                )
                middle = np.array([one.mean for one in change])
                below = middle - [one.low for one in change]
                above = [one.high for one in change] - middle
                how = {**look, "ms": 6, "lw": 1.6, "elinewidth": 1, "label": name}
                panel.errorbar(compute, middle, [below, above], marker=".", **how)
                random = [one.mean for one in chance]
                panel.plot(compute, random, ":", color=look["color"], lw=1.2)
                most = 100 - compute.iloc[0]
                saved[corpus] = max(saved.get(corpus, (0.0, "")), (most, name))
                found.append(
                    f"{name} on {corpus}: {change[0]} % at {compute.iloc[0]:.0f} % of the compute,"
                    f" {chance[0]} % by random exits"
                )
            panel.set_xlabel("blocks' compute (% of four layers)")
        axes[0].set_ylabel("change of perplexity against no exit (%)")
        most = {corpus: f"{share:.2g} % ({name})" for corpus, (share, name) in saved.items()}
        heading(figure, "Compute that exits save at most, best epoch", most)
        note = "bar: 95 % interval over seeds; dotted: as many exits at random"
        style.legend(figure, axes[0], note, 3)
        alternative.say(figure, f"At the lowest threshold: {'; '.join(found)}.")
        return figure

    return draw


def reliability(variants: Sequence[str]):
    """Draw accuracy against confidence at the exit layer, all seeds' symbols pooled.

    A row a text, a panel a network: as trained, and with the fitted temperature.
    """

    def draw(results: Results) -> Figure:
        bins, names = reported_split(results, "reliability"), results.names(variants)
        own = bins[(bins["layer"] == "exit") & (bins["state"] == "last")]
        names = [name for name in names if (own["variant"] == name).any()]
        pairs = [(corpus, name) for corpus in corpora(own) for name in names]
        headings = [f"{corpus}:\n{name}" for corpus, name in pairs]
        figure, axes = grid_of_panels(headings, "", 2.4, len(names), sharex=True, sharey=True)
        gaps, largest = [], {}
        for panel, (corpus, name) in zip(axes, pairs, strict=True):
            panel.plot([0, 1], [0, 1], color=style.QUIET, lw=1, ls=":", label="calibrated")
            for kind, colour, label in (
                ("raw", style.COLOURS[1], "as trained"),
                ("tempered", style.COLOURS[0], "with fitted temperature"),
            ):
                rows = own[
                    (own["corpus"] == corpus) & (own["variant"] == name) & (own["kind"] == kind)
                ]
                pooled = rows.groupby("bin").apply(_pool, include_groups=False)
                gap = np.average(pooled["confidence"] - pooled["accuracy"], weights=pooled["count"])
                gaps.append(f"{name} on {corpus} {label} {gap:+.3f}")
                if kind == "raw":
                    largest[corpus] = max(largest.get(corpus, -1.0), gap)
                area = 8 + 90 * pooled["count"] / pooled["count"].max()
                look = {"color": colour, "lw": 1.2, "label": label}
                panel.plot(pooled["confidence"], pooled["accuracy"], **look)
                panel.scatter(pooled["confidence"], pooled["accuracy"], s=area, color=colour)
        for panel in axes[-len(names) :]:
            panel.set_xlabel("confidence")
        for panel in axes[:: len(names)]:
            panel.set_ylabel("accuracy (share right)")
        above = {corpus: f"{gap:+.2f}" for corpus, gap in largest.items()}
        seeds = f"exit layer at the last epoch, {tables.seeds(own)}"
        heading(figure, "As trained, confidence lies above accuracy by up to", above, seeds)
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


def speed():
    """Draw measured against ideal speed-up on one core: windows, generation, wider models."""

    def draw(results: Results) -> Figure:
        batched, generated, wider = (results(name) for name in ("batched", "generated", "wider"))
        names = ["whole windows", "generation with cache", "wider models, exits at random"]
        figure, axes = grid_of_panels(names, "", 3.9)
        means, text = [], REAL if REAL in results.corpora else results.corpora[0]
        frames = (batched, generated[generated["threshold"].notna()], wider)
        short = ("whole windows", "generation", "wider models")
        for panel, what, frame, key in zip(
            axes, short, frames, ("keep", "method", "width"), strict=True
        ):
            own = frame.loc[frame["corpus"] == text, "speedup"]
            means.append(f"{what} {own.mean():.2f}")
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
        seeds = f"one core, {tables.seeds(generated)}"
        heading(figure, f"Mean measured speed-up on {text}: {', '.join(means)}", {}, seeds)
        axes[0].set_ylabel("measured speed-up (×, wall clock)")
        figure.supxlabel(
            "a mark: one seed at one threshold; dotted: measured = ideal; solid: no gain",
            fontsize=9,
            color=style.QUIET,
        )
        return figure

    return draw
