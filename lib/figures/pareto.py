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
    slug: str, size: str, routed: tuple[str, ...], rivals: tuple[str, ...], base: str
) -> Figure:
    """Test perplexity of all tokens against FLOPs per token over the base's.

    Lines: one stage trained on all tokens, routed by each rule at every rate (mean over seeds).
    Marks: variants trained by themselves, with the 95 % interval over seeds.
    """
    frame, routes = store.read(slug, size=size), store.read(slug, "routes", size)
    figure, axes = plt.subplots(figsize=(7.2, 4.4))
    for (rule, name), colour in zip(RULE_NAMES.items(), style.COLOURS, strict=False):
        own = routes[routes["rule"] == rule].groupby("wanted_rate")[["flops", "test_ppl"]].mean()
        axes.plot(
            own["flops"],
            own["test_ppl"],
            ":" if rule == "oracle" else "-",
            color=colour,
            marker=".",
            label=f"by {name}",
            zorder=2,
        )
    for name, marker in zip((*routed, *rivals), style.MARKERS, strict=False):
        own = frame[frame["variant"] == name]
        found = bootstrap(own["test_ppl"].to_numpy(dtype=float))
        axes.errorbar(
            own["flops"].mean(),
            found.mean,
            [[found.mean - found.low], [found.high - found.mean]],
            fmt=marker,
            color="black",
            markerfacecolor="white",
            capsize=3,
            label=name,
            zorder=4,
        )
    axes.axhline(
        frame.loc[frame["variant"] == base, "test_ppl"].iloc[0],
        color="#555555",
        linewidth=0.9,
        linestyle="--",
        label="base alone",
    )
    axes.set_xlabel("FLOPs per token, base = 1")
    axes.set_ylabel("perplexity of all test tokens")
    axes.set_title(f"All held-out tokens against cost ({tables.corpora(_decisive(frame, routes))})")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def kept_gain(slug: str, size: str) -> Figure:
    """Share of the stage's whole gain in nats that a rule keeps, against the share routed.

    Left all tokens, right those outside the template; the diagonal is random routing.
    """
    frame, routes = store.read(slug, size=size), store.read(slug, "routes", size)
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
