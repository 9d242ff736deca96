"""Figures over the number of stages of a cascade."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures import alternative, methods, style
from lib.results import tables
from lib.results.store import Absent, Results
from lib.results.tables import one


def by_stage(
    metrics: dict[str, str],
    title: str,
    table: str = "stages",
    label: str = "perplexity",
    logarithmic: bool = True,
    over_base: bool = False,
    against: str = "",
    apart: bool = False,
) -> Callable[[Results], Figure]:
    """Draw the mean over seeds against the stage, with the band from lowest to highest seed.

    One colour a variant, one line style a metric (``metrics``: column -> words); a metric alone in
    its panel has a line style a variant, so that equal lines stay visible. ``apart``: a panel a
    metric, each of its own scale. ``over_base``: each seed over its value at stage 0. The legend
    says where the first metric ends, the heading between which ends: over its value at stage 0, or
    over the column ``against`` at the same stage, where each stage has tokens of its own. Raises
    ValueError for more metrics than there are line styles.
    """
    if len(metrics) > len(style.LINES):
        raise ValueError(f"{len(metrics)} metrics for {len(style.LINES)} line styles")

    def draw(results: Results) -> Figure:
        frame = one(results).named(table)
        if over_base:
            frame = _over_base(frame, list(metrics))
        return _draw(frame, metrics, title, label, logarithmic, against, apart)

    return draw


def overfitting(title: str) -> Callable[[Results], Figure]:
    """Draw validation perplexity over epochs, a panel a stage: where further epochs do harm.

    Raises Absent where every stage has one epoch, which shows nothing of further ones.
    """

    def draw(results: Results) -> Figure:
        curve = one(results).named("curve")
        if curve["epoch"].max() < 2:
            raise Absent("not drawn, every stage of this size is trained for one epoch")
        stages = sorted(curve["stage"].unique())
        figure, panels = plt.subplots(
            1, len(stages), figsize=(style.WIDE, 3.6), squeeze=False, sharey=True
        )
        names = list(dict.fromkeys(curve["variant"]))
        alternative.say(figure, _last_epochs(curve))
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


def _last_epochs(curve: pd.DataFrame) -> str:
    """How far the last epoch of each stage lies above its best: lowest and highest seed."""
    runs = curve.sort_values("epoch").groupby(["variant", "stage", "seed"], sort=False)["val_ppl"]
    above = 100 * (runs.last() / runs.min() - 1)
    told = (
        f"“{name}”, stage {stage}: {own.min():.1f} to {own.max():.1f} %"
        for (name, stage), own in above.groupby(level=["variant", "stage"], sort=False)
    )
    return f"The last epoch above the best one, by seed: {'; '.join(told)}."


def _ends(frame: pd.DataFrame, metric: str, against: str = "") -> dict[str, float]:
    """Where every variant is after the last stage of each seed, over what it is with none, or over
    the column ``against`` there."""
    found = {}
    for name, own in frame.sort_values("stage").groupby("variant", sort=False):
        seeds = own.groupby("seed")[[metric, against or metric]]
        last, base = seeds.tail(1).mean(), (seeds.tail(1) if against else seeds.head(1)).mean()
        found[name] = last.iloc[0] / base.iloc[1]
    return found


def _range(ends: dict[str, float]) -> str:
    """The lowest and the highest end."""
    told = [alternative.short(end) for end in (min(ends.values()), max(ends.values()))]
    return " to ".join(dict.fromkeys(told))


def _over_base(frame: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """The metrics of every variant and seed over those at stage 0."""
    keys = ["variant", "seed"]
    base = frame[frame["stage"] == 0].set_index(keys)[metrics]
    own = frame.set_index(keys)
    return own.assign(**{m: own[m] / base[m].reindex(own.index) for m in metrics}).reset_index()


def _draw(
    frame: pd.DataFrame,
    metrics: dict[str, str],
    title: str,
    label: str,
    logarithmic: bool,
    against: str,
    apart: bool,
) -> Figure:
    ends = _ends(frame, next(iter(metrics)), against)
    groups = [{metric: what} for metric, what in metrics.items()] if apart else [metrics]
    figure, panels = plt.subplots(
        1, len(groups), figsize=(style.WIDE if apart else 7.2, 4.6), squeeze=False
    )
    for axes, group in zip(panels[0], groups, strict=True):
        _lines(axes, frame, list(group), ends)
        if logarithmic:
            style.plain_log(axes, "y")
        axes.set_xticks(sorted(frame["stage"].unique()))
        axes.set_xlabel("stage (0 = base)")
        if apart:
            axes.set_title(*group.values())
    panels[0][0].set_ylabel(f"{label} (logarithmic)" if logarithmic else label)
    whose = " times the base's perplexity" * logarithmic + " on the same tokens" * bool(against)
    said = f"{_range(ends)}{whose} after the last stage"
    figure.suptitle(f"{title}:\n{said}\n({tables.corpora(frame)})")
    over = f", over the base{' on the same tokens' * bool(against)}" if logarithmic else ""
    note = f"mean over seeds; band: lowest to highest seed\nnumber: after the last stage{over}"
    if len(metrics) > 1 and not apart:
        words = zip(style.LINE_NAMES, metrics.values(), strict=False)
        note = "; ".join(f"{line}: {what}" for line, what in words) + f"\n{note}"
    elif apart:
        note += f" ({next(iter(metrics.values()))})"
    style.legend(figure, panels[0][0], note, 2)
    return figure


def _lines(
    axes: Axes, frame: pd.DataFrame, metrics: Sequence[str], ends: Mapping[str, float]
) -> None:
    """Every variant's metrics over the stages in one panel, named with where it ends."""
    variants = list(dict.fromkeys(frame["variant"]))
    for number, (variant, colour) in enumerate(methods.colours(variants).items()):
        lines = style.LINES if len(metrics) > 1 else style.LINES[number % len(style.LINES) :]
        own = frame[frame["variant"] == variant]
        fewer = own["seed"].nunique() < frame["seed"].nunique()  # than the title says
        shown = f"{variant} ({tables.seeds(own)})" if fewer else variant
        shown = f"{shown}: {alternative.short(ends[variant])}"
        for metric, line in zip(metrics, lines, strict=False):
            wide = own.pivot_table(index="stage", columns="seed", values=metric)
            name = shown if metric == metrics[0] else None
            look = {"linestyle": line, "marker": "o", "ms": 4, "color": colour, "label": name}
            axes.plot(wide.index, wide.mean(axis=1), **look)
            axes.fill_between(
                wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.13, lw=0
            )
