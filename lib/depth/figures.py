"""Figures of the study, from the table of points."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.depth import fronts
from lib.depth.evaluation import AIMS
from lib.depth.rules import HEAD_RULES, RULES, STATE_RULES
from lib.figures import style
from lib.results import tables
from lib.results.statistics import (
    FACTOR,
    SHARE,
    Interval,
    bounded_interval,
    interval,
    percent_interval,
)
from lib.results.store import Absent, Results

X = "multiplications a token, relative to the untouched base"
CURVES = (
    ("fixed depth, best on valid", fronts.fixed, 0, "-"),
    ("adaptive, best on valid", fronts.adaptive, 1, "-"),
    ("exits, rules that read the head", fronts.grouped("exits", "head"), 2, "--"),
    ("exits, rules that do not", fronts.grouped("exits", "state"), 4, "--"),
    ("exits at random, token by token", fronts.grouped("exits", "random"), 6, ":"),
    ("exits, one depth a text", fronts.whole_texts("exits"), 5, ":"),
    ("gated middle", fronts.single("gated"), 3, "-."),
    ("oracle over the exits, keys free", fronts.oracle, 7, ":"),
)
SINGLES = (("base", "base, untouched", "D"), ("adapted", "base, adapted", "o"))


def front(results: Results) -> Figure:
    """Test loss against cost of every way to choose, a panel a text, 95 % bands over seeds."""
    singles = [(name, fronts.single(v), 7, "", marker) for v, name, marker in SINGLES]
    return _by_text(results, [*CURVES, *singles], _finding(results), 4.2, 3)


def rules_against_random(results: Results) -> Figure:
    """What every rule gains over random exits at its own rates, exact states, and the best exit."""
    frame = results("points")
    own = frame[(frame["variant"] == "exits") & (frame["keys"] == "free")]
    own = own[own["split"] == "test"]
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    for i, rule in enumerate((*RULES, "oracle")):
        rows = own[own["rule"] == rule]
        gains = rows.assign(gain=100 * np.expm1(rows["loss"] - rows["random_loss"]))
        by_seed = gains.groupby(["target", "seed"])[["gain", "flops"]].mean()
        points = [(at["flops"].mean(), interval(at["gain"])) for _, at in by_seed.groupby(level=0)]
        if points:
            name = rule.replace("_", " ")
            _line(axes, points, style.COLOURS[i % 8], "-", label=name, marker=".")
    axes.axhline(0, color=style.QUIET, linewidth=1)
    axes.set(xlabel=X, ylabel="% change of perplexity against random exits")
    axes.set_title(f"Rules against random exits at the same rates, {tables.seeds(results())}")
    style.legend(figure, axes, "exact states; mean of both texts; band: 95 % interval", 4)
    return figure


def second_pass(results: Results) -> Figure:
    """Test loss against cost where layers are run twice, a panel a text."""
    curves = (
        ("all tokens", fronts.single("adapted", "again_all", "again_all_long"), 0, "-"),
        ("all tokens, middle layers", fronts.single("again_all_middle"), 5, "", "s"),
        ("hard tokens", fronts.single("again_hard"), 1, "-"),
        ("random tokens", fronts.single("again_random"), 6, ":"),
    )
    title = f"A second pass through layers, {tables.seeds(results())}"
    return _by_text(results, curves, title, 4.2, 4)


def losses_by_depth(results: Results) -> Figure:
    """Test loss of every exit used for all tokens, beside networks cut to that depth. A network of
    fewer seeds than the title says so in its name."""
    frame, curves = results(), []
    most = tables.seeds(frame)
    for variant, colour in (("exits", 3), ("layerskip", 2)):
        if variant in results.labels:
            own = tables.seeds(frame[frame["variant"] == variant])
            name = f"{results.labels[variant]}, one exit for all"
            name += "" if own == most else f" ({own})"
            curves.append((name, fronts.single(variant, rule="static"), colour, "-"))
    curves.append(("cut and healed", fronts.fixed, 0, "--"))
    title = f"One network for all depths, or one each, {most}"
    return _by_text(results, curves, title, 4.0, 3)


def time_against_cost(results: Results) -> Figure:
    """Measured time a token against what was counted, both relative to the base."""
    frame = results("speed")
    kinds = (("prefill", "a window scored at once"), ("generate", "one token after the other"))
    figure, axes = plt.subplots(1, 2, figsize=(style.WIDE, 4.0), sharex=True, sharey=True)
    groups = (
        ("cut", frame["rule"] == "fixed", 0, "o"),
        ("exits, rules that read the head", frame["rule"].isin(HEAD_RULES), 2, "s"),
        ("exits, rules that do not", frame["rule"].isin(STATE_RULES), 4, "^"),
        ("gated middle", frame["rule"] == "gated", 3, "D"),
    )
    for panel, (kind, title) in zip(axes, kinds, strict=True):
        for name, rows, colour, marker in groups:
            own = frame[rows].groupby(["variant", "rule", "target"], dropna=False)
            means = own[["flops", f"{kind}_relative"]].mean()
            look = {"color": style.COLOURS[colour], "marker": marker, "linestyle": "none"}
            panel.plot(means["flops"], means[f"{kind}_relative"], label=name, **look)
        ends = [0.3, 1.2]
        panel.plot(ends, ends, color=style.QUIET, linewidth=1, linestyle=":", label="as counted")
        panel.set(title=title, xlabel=X, ylabel="time a token, relative to the base")
    figure.suptitle(f"Counted and measured cost, one core, {tables.seeds(frame)}")
    style.legend(figure, axes[0], "mean over seeds; base and network take turns", 5)
    return figure


def _finding(results: Results) -> str:
    """The heading of the front: what adaptive depth costs against fixed depth, where both are."""
    parts = []
    for aim in AIMS:
        try:
            values = fronts.better_by(fronts.adaptive, fronts.fixed, aim)(results)
        except Absent:
            continue
        parts.append(f"{percent_interval(values)} % at {aim:g}")
    if not parts:
        return f"Adaptive and fixed depth, {tables.seeds(results())}"
    return (
        "Perplexity of adaptive against fixed depth at equal cost:\n"
        f"{', '.join(parts)} ({tables.seeds(results())})"
    )


def _by_text(
    results: Results, curves: Sequence[tuple], title: str, height: float, columns: int
) -> Figure:
    """A panel a text with curves (name, points, colour, line, marker) of those that are there;
    ``columns`` of the legend."""
    frame = results("points")
    texts = frame.loc[frame["split"] == "test", "text"].unique()
    figure, axes = plt.subplots(1, len(texts), figsize=(style.WIDE, height), squeeze=False)
    for panel, text in zip(axes[0], texts, strict=True):
        for name, curve, *look in curves:
            with contextlib.suppress(Absent):
                _draw(panel, curve(results), text, name, *look)
        panel.set(title=text, xlabel=X, ylabel="test loss (nats a token)")
    figure.suptitle(title)
    style.legend(figure, axes[0][0], "line: mean over seeds; band: 95 % interval", columns)
    return figure


def _draw(
    axes: Axes,
    frame: pd.DataFrame,
    text: str,
    name: str,
    colour: int,
    line: str,
    marker: str = "",
) -> None:
    """One curve: a mark a point, its interval over seeds as a band; no ``line``: marks alone."""
    own = frame[(frame["split"] == "test") & (frame["text"] == text)].copy()
    # a point is one target, or one depth where all tokens have the same; rules may differ by seed
    own["layers"] = own["depth"].where(own["rule"].isin(("static", "fixed")))
    own = own.reindex(columns=own.columns.union(["target", "mix"]))  # no such point yet: empty
    groups = own.groupby(["variant", "target", "layers", "mix"], dropna=False)
    if len(own) == own["seed"].nunique():
        marker = marker or "s"
    points = [
        (rows["flops"].mean(), interval(rows.groupby("seed")["loss"].mean())) for _, rows in groups
    ]
    _line(axes, points, style.COLOURS[colour], line or "none", label=name, marker=marker or ".")


def _line(
    axes: Axes, points: Sequence[tuple[float, Interval]], colour: str, line: str, **look: str
) -> None:
    """Means at their costs, from the cheapest on, and their intervals as a band."""
    points = sorted(points, key=lambda point: point[0])
    places, found = [place for place, _ in points], [value for _, value in points]
    axes.plot(places, [v.mean for v in found], line, color=colour, **look)
    low, high = [v.low for v in found], [v.high for v in found]
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def speed(results: Results) -> Figure:
    """Tokens a second relative to plain generation, a panel a batch, marks a prompt length."""
    frame = results.named("decoding")
    batches = sorted(frame["batch"].unique())
    figure, axes = plt.subplots(
        1, len(batches), figsize=(style.WIDE, 4.0), sharey=True, squeeze=False
    )
    names = list(frame["variant"].unique())
    for panel, batch in zip(axes[0], batches, strict=True):
        for i, prompt in enumerate(sorted(frame["prompt"].unique())):
            own = frame[(frame["batch"] == batch) & (frame["prompt"] == prompt)]
            _rows(panel, own, names, "speedup", FACTOR, i, f"prompt of {prompt} tokens")
        panel.axvline(1, color=style.QUIET, linewidth=1)
        panel.set(title=f"batch {batch}", xlabel="times as fast as plain generation")
    figure.suptitle(f"Drafting from an exit or the text, {tables.seeds(frame)}")
    style.legend(figure, axes[0][0], "mean over seeds and texts; bar: 95 % interval", 2)
    return figure


def acceptance(results: Results) -> Figure:
    """Share of drafted tokens that the whole network agrees with, by text."""
    frame = results.named("decoding")
    frame = frame[frame["acceptance"].notna()]
    names = list(frame["variant"].unique())
    figure, axes = plt.subplots(figsize=(7.2, 4.0))
    for i, text in enumerate(frame["text"].unique()):
        own = frame[frame["text"] == text]
        _rows(axes, own, names, "acceptance", SHARE, i, text)
    axes.set(xlim=(0, 1), xlabel="share of drafted tokens accepted")
    axes.set_title(f"Agreement with the whole network, {tables.seeds(frame)}")
    style.legend(figure, axes, "mean over seeds; bar: 95 % interval", 2)
    return figure


def _rows(
    axes: Axes,
    frame: pd.DataFrame,
    names: Sequence[str],
    column: str,
    bounds: tuple[float, float],
    colour: int,
    label: str,
) -> None:
    """Means of a column over seeds, a row a variant, with their intervals within bounds; each
    colour at a height of its own."""
    shift = 0.15 * (2 * colour - 1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    look = {"color": style.COLOURS[colour], "marker": style.MARKERS[colour], "linestyle": "none"}
    found: dict[float, Interval] = {}
    for place, name in enumerate(names):
        values = frame[frame["variant"] == name].groupby("seed")[column].mean().dropna()
        if len(values):
            found[place + shift] = bounded_interval(values, bounds)
    axes.plot([own.mean for own in found.values()], list(found), label=label, **look)
    for place, own in found.items():
        axes.plot([own.low, own.high], [place] * 2, color=look["color"], linewidth=1.5)
