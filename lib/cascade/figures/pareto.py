"""Loss on all held-out tokens against cost, and what routing keeps of the whole gain."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.figures import alternative, rows, style
from lib.results import tables
from lib.results.statistics import interval
from lib.results.store import Results
from lib.results.tables import one

RULE_NAMES = {
    "gate": "learned gate",
    "entropy": "entropy",
    "confidence": "confidence",
    "margin": "margin",
    "last_two_layers": "cosine (R2)",
    "oracle": "oracle (sees the gain)",
}
READ = 0.2  # share of tokens at which the words for a figure read its lines
FURTHER = ("<", ">", "p", "p", "d", "d")  # shapes of marks whose time was not measured
ORACLE = "oracle"  # cannot be used: it knows the answer


def front(
    stages: tuple[str, ...],
    routed: tuple[str, ...],
    baselines: tuple[str, ...],
    base: str,
    lines: tuple[tuple[str, str], ...] = (),
    marks: tuple[str, ...] = (),
) -> Callable[[Results], Figure]:
    """Draw test perplexity of all tokens against FLOPs per token (left) and measured time (right).

    ``stages``: trained on all tokens and timed. Lines: each stage routed by the gate at every rate,
    mean over seeds. Marks: variants as they were trained, with the 95 % interval over seeds; those
    that add no layer take the base's time. ``lines`` (variant and rule) and ``marks`` (variants)
    are drawn against FLOPs alone: their time was not measured.
    """
    return lambda results: _front(one(results), stages, routed, baselines, base, lines, marks)


def _front(results: Results, stages, routed, baselines, base: str, lines, marks) -> Figure:
    frame, routes, clock = results(), results("routes"), results("clock")
    labels = results.labels
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDE, 5.2), sharey=True)
    times: dict[str, float] = {}
    colours = dict(zip(stages, style.COLOURS, strict=False))
    means = frame[frame["variant"].isin((*baselines, *routed, *marks))].groupby("variant")
    points = [(labels[name], *own) for name, own in means[["test_ppl", "flops"]].mean().iterrows()]
    for stage in stages:
        own = routes[(routes["variant"] == stage) & (routes["rule"] == "gate")]
        if own.empty:
            continue
        mean = own.groupby("wanted_rate")[["flops", "test_ppl", "test_rate"]].mean()
        known = clock[clock["variant"] == stage].sort_values("rate")
        seconds = np.interp(mean["test_rate"], known["rate"], known["relative_time"])
        times[stage] = float(known["relative_time"].iloc[-1])
        look = {"color": colours[stage], "marker": ".", "label": labels[stage]}
        panels[0].plot(mean["flops"], mean["test_ppl"], **look)
        panels[1].plot(seconds, mean["test_ppl"], **{**look, "linestyle": "none"})
        points.append(_lowest(labels[stage], mean))
    for name, marker in zip((*baselines, *routed), style.MARKERS, strict=False):
        own = frame[frame["variant"] == name]
        if own.empty:
            continue
        look = {
            "color": colours.get(name, "black"),
            "mfc": "black" if name in routed else "white",
            "ms": 6.5,
            "label": None if name in times else labels[name],  # its line has the name
        }
        for axes, x in zip(panels, (own["flops"].mean(), _time(name, times, routed)), strict=True):
            if x is None:
                continue  # the clock times gates, not the second pass that entropy needs
            _mark(axes, x, own["test_ppl"], marker, look)
    dashed = _lines(panels[0], routes, labels, lines)
    points += dashed
    further = len(dashed) + _marks(panels[0], frame, labels, marks)
    alone = frame.loc[frame["variant"] == base, "test_ppl"].iloc[0]
    panels[0].axhline(alone, color=style.QUIET, linewidth=1, linestyle=":")
    style.level(panels[1], "base alone", alone)
    panels[0].set_xlabel("FLOPs per token (base = 1)")
    panels[1].set_xlabel("measured time per token (base = 1)")
    panels[0].set_ylabel("perplexity of all test tokens (lower is better)")
    found = "All held-out tokens against cost"
    if points:
        name, ppl, cost = min(points, key=lambda point: point[1])
        found = f"Lowest: {name} ({ppl:.2f} at {cost:.3g} times the base's FLOPs)"
    figure.suptitle(f"{found}; base alone {alone:.2f}\n({_stands_on(frame, routes)})")
    note = (
        "line, dots: a stage routed by the gate, mean over seeds; end mark: every token\n"
        "each time measured once; bar: 95 % interval over seeds\n"
        "filled mark: routed as trained, its time was not measured"
    )
    if further:
        note += "; nor that of dashed lines and light blue marks"
    style.legend(figure, panels[0], note, 3)
    return figure


Point = tuple[str, float, float]  # name, perplexity, FLOPs


def _lowest(name: str, mean: pd.DataFrame) -> Point:
    """Where a line is lowest. ``mean``: perplexity and FLOPs by share routed."""
    rate = mean["test_ppl"].idxmin()
    shown = name if rate == 1 else f"{name}, {100 * rate:g} % routed"
    return shown, mean.loc[rate, "test_ppl"], mean.loc[rate, "flops"]


def _lines(
    axes: Axes, routes: pd.DataFrame, labels, lines: tuple[tuple[str, str], ...]
) -> list[Point]:
    """Draw further stages by a rule of their own at every rate; where each is lowest."""
    drawn = []
    for (variant, rule), colour in zip(lines, style.COLOURS[2:], strict=False):
        own = routes[(routes["variant"] == variant) & (routes["rule"] == rule)]
        if own.empty:
            continue
        mean = own.groupby("wanted_rate")[["flops", "test_ppl"]].mean()
        look = {"color": colour, "linestyle": "--", "marker": ".", "label": labels[variant]}
        axes.plot(mean["flops"], mean["test_ppl"], **look)
        drawn.append(_lowest(labels[variant], mean))
    return drawn


def _marks(axes: Axes, frame: pd.DataFrame, labels, marks: tuple[str, ...]) -> int:
    """Draw further variants as they were trained, with their intervals; how many there are."""
    drawn = 0
    for name, marker in zip(marks, FURTHER, strict=True):
        own = frame[frame["variant"] == name]
        if own.empty:
            continue
        colour = style.COLOURS[5]
        filling = colour if own["rate"].mean() < 1 else "white"
        look = {"color": colour, "mfc": filling, "ms": 7.5, "label": labels[name]}
        _mark(axes, own["flops"].mean(), own["test_ppl"], marker, look)
        drawn += 1
    return drawn


def _mark(axes: Axes, x: float, values: pd.Series, marker: str, look: dict) -> None:
    """The mean over seeds at a cost, with its interval."""
    found = interval(values)
    bar = [[found.mean - found.low], [found.high - found.mean]]
    axes.errorbar(x, found.mean, bar, fmt=marker, zorder=4, capsize=3, **look)


def _time(name: str, times: dict[str, float], routed: tuple[str, ...]) -> float | None:
    """Time of a variant over the base's: a stage's on all tokens, 1 without added layers."""
    return None if name in routed else times.get(name, 1.0)


def kept_gain(stage: str) -> Callable[[Results], Figure]:
    """Draw the share of a stage's whole gain in nats that a rule keeps, against the share routed.

    Left all tokens, right those outside the template; the diagonal is random routing. A seed whose
    stage kept its start, as short trainings do, has no gain to share and is left out.
    """
    return lambda results: _kept_gain(one(results), stage)


def _kept_gain(results: Results, stage: str) -> Figure:
    frame, routes = results(), results("routes")
    routes = routes[routes["variant"] == stage]
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDE, 4.6), sharey=True)
    oracle: list[str] = []
    for axes, column, title in zip(
        panels,
        ("test_ppl", "test_content_ppl"),
        ("all tokens", "outside section titles"),
        strict=True,
    ):
        base = frame[f"base_{column}"].dropna().iloc[0]
        whole = routes[routes["wanted_rate"] == 1].groupby("seed")[column].first()
        whole = whole[~np.isclose(whole, base, rtol=1e-5)]
        if whole.empty:
            axes.text(0.5, 0.5, "no seed's stage differs from its base", ha="center")
        inset = axes.inset_axes((0.58, 0.07, 0.4, 0.3))
        for rule, look in _rules().items():
            own = routes[(routes["rule"] == rule) & routes["seed"].isin(whole.index)]
            gain = np.log(base / own[column]) / np.log(base / own["seed"].map(whole))
            _through_origin(inset if rule == ORACLE else axes, own.assign(gain=gain), look)
            if rule == ORACLE and len(own):
                highest = gain.groupby(own["wanted_rate"]).mean().max()
                oracle.append(f"{title} {alternative.short(highest)}")
        for place in (axes, inset):
            place.plot([0, 1], [0, 1], color=style.QUIET, lw=1.2, ls="--", label="chance")
        inset.set_title(RULE_NAMES[ORACLE], fontsize=8)
        inset.tick_params(labelsize=7)
        axes.set_xlabel("share of tokens routed")
        axes.set_title(title)
    panels[0].set_ylabel("share of the whole gain kept (in nats)")
    kept = [
        f"{100 * np.interp(READ, *line.get_data()):.0f} % ({axes.get_title()})"
        for axes in panels
        for line in axes.lines
        if line.get_label() == f"by {RULE_NAMES['gate']}"
    ]
    found = f"Routing {100 * READ:.0f} % by the gate keeps of the gain {', '.join(kept)}"
    figure.suptitle(f"{found}\n({_stands_on(frame, routes)})")
    style.legend(
        figure,
        panels[0],
        f"{results.labels[stage]}, routed by each rule at each rate\n"
        "line: mean over seeds; band: 95 % interval",
        4,
    )
    words = alternative.at(figure, READ, f"{100 * READ:.0f} % of the tokens (chance: {READ:g})")
    most = f" The oracle keeps at most: {', '.join(oracle)}." if oracle else ""
    alternative.say(figure, words + most)
    return figure


def _through_origin(axes: Axes, routes: pd.DataFrame, look: dict) -> None:
    """Mean gain and its band over the share routed; nothing routed keeps nothing."""
    found = {
        rows["test_rate"].mean(): interval(rows["gain"])
        for _, rows in routes.groupby("wanted_rate")
    }
    places, values = [0, *found], list(found.values())
    axes.plot(places, [0, *(v.mean for v in values)], **look)
    low, high = [0, *(v.low for v in values)], [0, *(v.high for v in values)]
    axes.fill_between(places, low, high, color=look["color"], alpha=0.1, linewidth=0)


def steps(variants: tuple[str, ...]) -> Callable[[Results], Figure]:
    """Draw one row a step of an ablation: perplexity of all test tokens over the base's."""
    return lambda results: _steps(one(results), variants)


def _steps(results: Results, variants: tuple[str, ...]) -> Figure:
    frame, names = results.named(), results.names(variants)
    names = [name for name in names if (frame["variant"] == name).any()]
    ratios = frame.assign(ratio=frame["test_ppl"] / frame["base_test_ppl"])
    values = {name: rows.own_values(ratios, name, "ratio") for name in names}
    parts = [[n for n in names if len(values[n]) > 1], [n for n in names if len(values[n]) == 1]]
    parts = [part for part in parts if part]
    figure, panels = plt.subplots(
        len(parts),
        1,
        figsize=(7.6, rows.HEIGHT * len(names) + 0.9 * len(parts) + 1.5),
        squeeze=False,
        gridspec_kw={"height_ratios": [len(part) for part in parts]},
    )
    for axes, part in zip(panels[:, 0], parts, strict=True):
        several, before = len(values[part[0]]) > 1, None
        for y, name in enumerate(part):
            mean = values[name].mean()
            if several and before is not None:  # how far this step leads from the one above
                axes.plot([before, mean], [y, y], color=style.QUIET, lw=1)
            rows.draw(axes, y, values[name], style.COLOURS[0])
            place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
            axes.annotate(f"{mean:.3f} (n = {len(values[name])})", (1.01, y), **place)
            before = mean
        style.level(axes, "base alone", 1.0, horizontal=False)
        style.plain_log(axes, "x")
        rows.name_rows(axes, part)
        what = "One change after the other" if several else "Single changes, one seed: no interval"
        axes.set_title(what, pad=18)
    panels[-1, 0].set_xlabel(
        "perplexity of all test tokens over the base's (below 1 is better, logarithmic)"
    )
    own = frame[frame["variant"].isin(names)]
    first = next((n for n in parts[0] if values[n].max() < 1), None)
    found = (
        f"better than the base from “{first}” on" if first else "no step is better than the base"
    )
    figure.suptitle(f"From the report's design to a working one: {found}\n({_corpora(own)})")
    note = "thin line: from the row above to this one"
    style.legend(figure, rows.key(False), note, 3)
    return figure


def _rules() -> dict[str, dict]:
    """How the line of each rule is drawn; the oracle is set apart."""
    found = {}
    for (rule, name), colour, marker in zip(
        RULE_NAMES.items(), style.COLOURS, style.MARKERS, strict=False
    ):
        oracle = rule == ORACLE
        found[rule] = {
            "color": style.QUIET if oracle else colour,
            "linestyle": ":" if oracle else "-",
            "marker": marker,
            "markersize": 3.5,
            "label": f"by {name}",
        }
    return found


def _stands_on(frame: pd.DataFrame, routes: pd.DataFrame) -> str:
    """Corpus and seeds of the runs behind the routes."""
    return tables.corpora(frame[frame["run_id"].isin(routes["run_id"])])


def _corpora(frame: pd.DataFrame) -> str:
    return ", ".join(frame["corpus"].unique())
