"""Figures of the study, from the table of points."""

from __future__ import annotations

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
from lib.results.statistics import interval, percent_interval
from lib.results.store import Absent, Results

X = "multiplications a token, relative to the untouched base"
CURVES = (
    ("fixed depth, best on valid", fronts.fixed, 0, "-"),
    ("adaptive, best on valid", fronts.adaptive, 1, "-"),
    ("exits, rules that read the head", fronts.grouped("exits", "head"), 2, "--"),
    ("exits, rules that do not", fronts.grouped("exits", "state"), 4, "--"),
    ("exits at random", fronts.grouped("exits", "random"), 6, ":"),
    ("gated middle", fronts.single("gated"), 3, "-."),
)
SINGLES = (("base", "base, untouched", "D"), ("adapted", "base, adapted", "o"))


def front(results: Results) -> Figure:
    """Test loss against cost of every way to choose, a panel a text, 95 % bands over seeds."""
    texts = _texts(results)
    figure, axes = plt.subplots(1, len(texts), figsize=(style.WIDE, 4.2), squeeze=False)
    for panel, text in zip(axes[0], texts, strict=True):
        for name, curve, colour, line in CURVES:
            _draw(panel, _of(curve, results), text, name, style.COLOURS[colour], line)
        for variant, name, marker in SINGLES:
            own = _of(fronts.single(variant), results)
            _draw(panel, own, text, name, style.COLOURS[7], "", marker)
        panel.set(title=text, xlabel=X, ylabel="test loss (nats a token)")
    figure.suptitle(_finding(results))
    style.legend(figure, axes[0][0], "line: mean over seeds; band: 95 % interval", 3)
    return figure


def rules_against_random(results: Results) -> Figure:
    """What every rule gains over random exits at its own rates, exact states, and the best exit."""
    frame = results("points")
    own = frame[(frame["variant"] == "exits") & (frame["keys"] == "free")]
    own = own[own["split"] == "test"]
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    for i, rule in enumerate((*RULES, "oracle")):
        rows = own[own["rule"] == rule]
        gains = rows.assign(gain=100 * np.expm1(rows["loss"] - rows["random_loss"]))
        by_seed = gains.groupby(["target", "seed"])[["gain", "flops"]].mean().reset_index()
        _band(axes, by_seed, "gain", rule.replace("_", " "), style.COLOURS[i % 8], "-")
    axes.axhline(0, color=style.QUIET, linewidth=1)
    axes.set(xlabel=X, ylabel="% change of perplexity against random exits")
    axes.set_title(f"Rules against random exits at the same rates, {tables.seeds(results())}")
    style.legend(figure, axes, "exact states; mean of both texts; band: 95 % interval", 4)
    return figure


def second_pass(results: Results) -> Figure:
    """Test loss against cost where layers are run twice, a panel a text."""
    texts = _texts(results)
    figure, axes = plt.subplots(1, len(texts), figsize=(style.WIDE, 4.2), squeeze=False)
    shown = (
        ("all tokens", ("adapted", "again_all", "again_all_long"), 0, "-"),
        ("all tokens, middle layers", ("again_all_middle",), 5, ""),
        ("hard tokens", ("again_hard",), 1, "-"),
        ("random tokens", ("again_random",), 6, ":"),
    )
    for panel, text in zip(axes[0], texts, strict=True):
        for name, variants, colour, line in shown:
            own = _of(fronts.single(*variants), results)
            _draw(panel, own, text, name, style.COLOURS[colour], line, "" if line else "s")
        panel.set(title=text, xlabel=X, ylabel="test loss (nats a token)")
    figure.suptitle(f"A second pass through layers, {tables.seeds(results())}")
    style.legend(figure, axes[0][0], "line: mean over seeds; band: 95 % interval", 4)
    return figure


def losses_by_depth(results: Results) -> Figure:
    """Test loss of every exit used for all tokens, beside networks cut to that depth."""
    texts = _texts(results)
    figure, axes = plt.subplots(1, len(texts), figsize=(style.WIDE, 4.0), squeeze=False)
    for panel, text in zip(axes[0], texts, strict=True):
        for variant, colour in (("exits", 3), ("layerskip", 2)):
            own = _of(fronts.single(variant, rule="static"), results)
            name = f"{results.labels.get(variant, variant)}, one exit for all"
            _draw(panel, own, text, name, style.COLOURS[colour], "-")
        _draw(panel, _of(fronts.fixed, results), text, "cut and healed", style.COLOURS[0], "--")
        panel.set(title=text, xlabel=X, ylabel="test loss (nats a token)")
    figure.suptitle(f"One network for all depths, or one each, {tables.seeds(results())}")
    style.legend(figure, axes[0][0], "line: mean over seeds; band: 95 % interval", 3)
    return figure


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


def _texts(results: Results) -> list[str]:
    frame = results("points")
    return list(frame.loc[frame["split"] == "test", "text"].unique())


def _of(curve: fronts.Curve, results: Results) -> pd.DataFrame | None:
    """The points of a curve, None where the results hold none."""
    try:
        return curve(results)
    except Absent:
        return None


def _draw(
    axes: Axes,
    frame: pd.DataFrame | None,
    text: str,
    name: str,
    colour: str,
    line: str,
    marker: str = "",
) -> None:
    if frame is None:
        return
    own = frame[(frame["split"] == "test") & (frame["text"] == text)].copy()
    # a point is one target, or one depth where all tokens have the same; rules may differ by seed
    own["layers"] = own["depth"].where(own["rule"].isin(("static", "fixed")))
    own = own.reindex(columns=own.columns.union(["target", "mix"]))  # no such point yet: empty
    groups = own.groupby(["variant", "target", "layers", "mix"], dropna=False)
    if len(own) == own["seed"].nunique() or marker:
        marker = marker or "s"
    places, low, middle, high = [], [], [], []
    for _, rows in sorted(groups, key=lambda entry: entry[1]["flops"].mean()):
        found = interval(rows.groupby("seed")["loss"].mean())
        places.append(rows["flops"].mean())
        low.append(found.low), middle.append(found.mean), high.append(found.high)
    look = {"color": colour, "label": name}
    axes.plot(places, middle, line or "none", marker=marker or ".", **look)
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _band(axes: Axes, frame: pd.DataFrame, y: str, name: str, colour: str, line: str) -> None:
    targets = [(rows["flops"].mean(), interval(rows[y])) for _, rows in frame.groupby("target")]
    if not targets:
        return
    targets.sort(key=lambda entry: entry[0])
    places, found = [place for place, _ in targets], [value for _, value in targets]
    axes.plot(places, [v.mean for v in found], line, color=colour, label=name, marker=".")
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
            _rows(panel, own, names, "speedup", 0.15 * (2 * i - 1), i, f"prompt of {prompt} tokens")
        panel.axvline(1, color=style.QUIET, linewidth=1)
        panel.set(title=f"batch {batch}", xlabel="times as fast as plain generation")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"Drafting from an exit, {tables.seeds(frame)}")
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
        _rows(axes, own, names, "acceptance", 0.15 * (2 * i - 1), i, text)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(xlim=(0, 1), xlabel="share of drafted tokens accepted")
    axes.set_title(f"Agreement with the whole network, {tables.seeds(frame)}")
    style.legend(figure, axes, "mean over seeds; bar: 95 % interval", 2)
    return figure


def _rows(axes, frame, names, column, shift, colour, label) -> None:
    look = {"color": style.COLOURS[colour], "marker": style.MARKERS[colour], "linestyle": "none"}
    for place, name in enumerate(names):
        values = frame[frame["variant"] == name].groupby("seed")[column].mean().dropna()
        if len(values):
            found = interval(values)
            axes.plot(found.mean, place + shift, label=label, **look)
            axes.plot(
                [found.low, found.high], [place + shift] * 2, color=look["color"], linewidth=1.5
            )
            label = None
