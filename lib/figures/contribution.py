"""Figures about what each layer contributes, by difficulty."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.analysis.layer_contribution import GROUPS
from lib.figures import style
from lib.figures.panels import band, corpora, legend_below, row_of_panels

COLOURS = dict(zip(GROUPS, (style.COLOURS[2], style.COLOURS[0], style.COLOURS[1]), strict=True))


def by_difficulty(
    layers: pd.DataFrame, variant: str, column: str, label: str, title: str
) -> Figure:
    """Mean of ``column`` (loss or norm) after each layer, by difficulty; a panel a corpus.

    Solid: best epoch, another seed's network says what is hard. Dashed: last epoch, the network's
    own final loss says it, as the seed did. Bands are 95 % intervals over seeds.
    """
    names = corpora(layers)
    figure, axes = row_of_panels(names, title)
    own = layers[layers["variant"] == variant]
    for panel, corpus in zip(axes, names, strict=True):
        for group, colour in COLOURS.items():
            for state, judge, line in (("best", "other", "-"), ("last", "own", "--")):
                rows = own[
                    (own["corpus"] == corpus)
                    & (own["group"] == group)
                    & (own["state"] == state)
                    & (own["judge"] == judge)
                ]
                look = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3}
                name = f"{group}, {state} epoch, {judge} judge"
                band(panel, rows, "layer", column, label=name, **look)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_xlabel("layer")
        panel.set_ylabel(label)
    legend_below(figure, axes[-1])
    return figure
