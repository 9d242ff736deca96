"""Loss on all held-out tokens against cost, and what routing keeps of the whole gain."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.analysis.statistics import bootstrap
from lib.figures import style
from lib.results import store, tables

RULE_NAMES = {
    "gate": "learned gate",
    "entropy": "entropy",
    "confidence": "confidence",
    "margin": "margin",
    "last_two_layers": "cosine (seed 002)",
    "oracle": "oracle (sees the gain)",
}


def front(
    slug: str,
    size: str,
    stages: dict[str, str],
    routed: tuple[str, ...],
    rivals: tuple[str, ...],
    base: str,
) -> Figure:
    """Test perplexity of all tokens against FLOPs per token (left) and measured time (right).

    ``stages``: stage trained on all tokens -> the clock that timed its depth. Lines: each stage
    routed by the gate at every rate, mean over seeds. Marks: variants as they were trained, with
    the 95 % interval over seeds; those that add no layer take the base's time.
    """
    frame, routes = store.read(slug, size=size), store.read(slug, "routes", size)
    clock = store.read(slug, "clock", size)
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True)
    times: dict[str, float] = {}
    for (stage, timed), colour in zip(stages.items(), style.COLOURS, strict=False):
        own = routes[(routes["variant"] == stage) & (routes["rule"] == "gate")]
        if own.empty:
            continue
        mean = own.groupby("wanted_rate")[["flops", "test_ppl", "test_rate"]].mean()
        known = clock[clock["variant"] == timed].sort_values("rate")
        seconds = np.interp(mean["test_rate"], known["rate"], known["relative_time"])
        times[stage] = float(known["relative_time"].iloc[-1])
        for axes, x in zip(panels, (mean["flops"], seconds), strict=True):
            axes.plot(
                x, mean["test_ppl"], color=colour, marker=".", label=f"{stage}, routed by the gate"
            )
    for name, marker in zip((*rivals, *routed), style.MARKERS, strict=False):
        own = frame[frame["variant"] == name]
        if own.empty:
            continue
        found = bootstrap(own["test_ppl"].to_numpy(dtype=float))
        for axes, x in zip(panels, (own["flops"].mean(), _time(name, times, routed)), strict=True):
            if x is None:
                continue  # the clock times gates, not the second pass that entropy needs
            axes.errorbar(
                x,
                found.mean,
                [[found.mean - found.low], [found.high - found.mean]],
                fmt=marker,
                color="black",
                markerfacecolor="white",
                capsize=3,
                label=name,
                zorder=4,
            )
    alone = frame.loc[frame["variant"] == base, "test_ppl"].iloc[0]
    for axes, words in zip(panels, ("FLOPs per token", "milliseconds per token"), strict=True):
        axes.axhline(alone, color="#555555", linewidth=0.9, linestyle="--", label="base alone")
        axes.set_xlabel(f"{words}, base = 1")
    panels[0].set_ylabel("perplexity of all test tokens")
    figure.suptitle(
        f"All held-out tokens against cost ({tables.corpora(_decisive(frame, routes))})"
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _time(name: str, times: dict[str, float], routed: tuple[str, ...]) -> float | None:
    """Time of a variant over the base's: a stage's on all tokens, 1 without added layers."""
    return None if name in routed else times.get(name, 1.0)


def kept_gain(slug: str, size: str, stage: str) -> Figure:
    """Share of a stage's whole gain in nats that a rule keeps, against the share routed.

    Left all tokens, right those outside the template; the diagonal is random routing.
    """
    frame, routes = store.read(slug, size=size), store.read(slug, "routes", size)
    routes = routes[routes["variant"] == stage]
    figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.8), sharey=True)
    for axes, column, title in zip(
        panels,
        ("test_ppl", "test_content_ppl"),
        ("all tokens", "outside section titles"),
        strict=True,
    ):
        base = frame[f"base_{column}"].dropna().iloc[0]
        whole = routes[routes["wanted_rate"] == 1].groupby("seed")[column].first()
        for (rule, name), colour in zip(RULE_NAMES.items(), style.COLOURS, strict=False):
            own = routes[routes["rule"] == rule].copy()
            gain = np.log(base / own[column]) / np.log(base / own["seed"].map(whole))
            mean = (
                pd.DataFrame({"x": own["test_rate"], "y": gain, "rate": own["wanted_rate"]})
                .groupby("rate")
                .mean()
            )
            axes.plot(
                [0, *mean["x"]],
                [0, *mean["y"]],
                ":" if rule == "oracle" else "-",
                color=colour,
                marker=".",
                label=name,
            )
        axes.plot([0, 1], [0, 1], color="#555555", linewidth=0.9, linestyle="--", label="chance")
        axes.set_xlabel("share of tokens routed")
        axes.set_title(title)
    panels[0].set_ylabel("share of the whole gain kept")
    panels[1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def rungs(slug: str, size: str, names: tuple[str, ...]) -> Figure:
    """One row a rung: perplexity of all test tokens over the base's, every seed and the mean."""
    frame = store.read(slug, size=size)
    names = [name for name in names if (frame["variant"] == name).any()]
    figure, axes = plt.subplots(figsize=(6.6, 0.34 * len(names) + 1.4))
    for y, name in enumerate(names):
        own = frame[frame["variant"] == name]
        values = (own["test_ppl"] / own["base_test_ppl"]).to_numpy(dtype=float)
        axes.scatter(values, np.full(len(values), y), s=14, color=style.COLOURS[0], alpha=0.5)
        axes.plot(values.mean(), y, "|", markersize=14, color=style.COLOURS[0])
        axes.annotate(
            f"{values.mean():.3f}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="#555555", linewidth=0.9, linestyle="--")
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("perplexity of all test tokens over the base's (left of 1 is better)")
    axes.set_title("From the seed's design to a working one, one change at a time")
    return figure


def _decisive(frame: pd.DataFrame, routes: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["run_id"].isin(routes["run_id"])]
