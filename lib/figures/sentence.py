"""A sentence token by token, each in the colour of a number."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.figures import alternative

PALE = 0.55  # of a colour map: darker ground than this takes white letters


def coloured(
    tokens: Sequence[str], rows: dict[str, Sequence[float]], title: str, label: str
) -> Figure:
    """Rows of numbers as colours, the tokens written in the first; darker is more.

    ``label`` says what the colours are. Raises ValueError for a row of another length.
    """
    if any(len(row) != len(tokens) for row in rows.values()):
        raise ValueError(f"rows of {[len(row) for row in rows.values()]} for {len(tokens)} tokens")
    values = np.array([list(row) for row in rows.values()], dtype=float)
    figure, axes = plt.subplots(figsize=(9.2, 0.9 + 0.34 * len(rows)))
    low, high = values.min(), values.max()
    axes.imshow(values, aspect="auto", cmap="Blues", vmin=low, vmax=high + 1e-9)
    for place, token in enumerate(tokens):
        dark = (values[0, place] - low) / (high - low + 1e-9) > PALE
        axes.text(place, 0, token, ha="center", va="center", color="white" if dark else "black")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    axes.set_xlabel(label)
    first = next(iter(rows))
    most = np.argsort(-values[0], kind="stable")[:3]
    named = ", ".join(f"“{tokens[place]}” (token {place + 1})" for place in most)
    alternative.say(figure, f"{len(tokens)} tokens; darkest in the row “{first}”: {named}.")
    return figure
