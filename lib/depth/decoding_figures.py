"""Figures of notebook 21, from the table of decoding."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.figures import style
from lib.results import tables
from lib.results.statistics import interval
from lib.results.store import Results


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
