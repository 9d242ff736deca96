"""Figures about what each layer contributes, by difficulty."""

import pandas as pd
from matplotlib.figure import Figure

from lib.character.analysis.layer_contribution import GROUPS
from lib.figures import rows
from lib.figures import style
from lib.figures.panels import band, corpora, counted, grid_of_panels

COLOURS = dict(zip(GROUPS, (style.COLOURS[2], style.COLOURS[0], style.COLOURS[1]), strict=True))
STATES = {("best", "other"): "-", ("last", "own"): "--"}  # epoch and judge: line
NOTE = (
    "solid: best epoch, another seed's network says what is hard\n"
    "dashed: last epoch, the network's own final loss says it, as in the seed document\n"
    "line: mean over seeds; band: 95 % interval over seeds"
)


def by_difficulty(
    layers: pd.DataFrame, variant: str, column: str, label: str, title: str
) -> Figure:
    """Mean of ``column`` (loss or norm) after each layer, by difficulty; a panel a corpus.

    Solid: best epoch, another seed's network says what is hard. Dashed: last epoch, the network's
    own final loss says it, as the seed did. Bands are 95 % intervals over seeds.
    """
    own = layers[layers["variant"] == variant]
    figure, axes = grid_of_panels(counted(own), title, 3.8)
    for panel, corpus in zip(axes, corpora(own), strict=True):
        for group, colour in COLOURS.items():
            for (state, judge), line in STATES.items():
                rows = own[
                    (own["corpus"] == corpus)
                    & (own["group"] == group)
                    & (own["state"] == state)
                    & (own["judge"] == judge)
                ]
                name = f"{group} symbols" if line == "-" else None
                look = {"color": colour, "linestyle": line, "marker": "o", "markersize": 4}
                band(panel, rows, "layer", column, label=name, **look)
        style.whole_numbers(panel.xaxis)
        panel.set_xlabel("after layer")
    axes[0].set_ylabel(label)
    style.legend(figure, axes[-1], NOTE, 3)
    return figure


def by_judge(judged: pd.DataFrame, judges: list[str], variant: str) -> Figure:
    """Percent by which hard symbols' loss falls from the first layer to the last, a row a judge;
    a panel a corpus, seeds, mean and interval."""
    own = judged[(judged["variant"] == variant) & (judged["group"] == "hard")]
    title = f"Loss of hard symbols, first layer to last, {variant}"
    figure, axes = grid_of_panels(counted(own), title, rows.HEIGHT * len(judges) + 1.6, sharey=True)
    for panel, corpus in zip(axes, corpora(own), strict=True):
        here = own[own["corpus"] == corpus]
        for y, judge in enumerate(judges):
            wide = here[here["judge"] == judge].pivot(index="seed", columns="layer", values="loss")
            fall = 100 * (1 - wide[wide.columns.max()] / wide[wide.columns.min()])
            rows.draw(panel, y, fall.to_numpy(), style.COLOURS[y])
        rows.name_rows(panel, judges)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_xlabel("fall of the loss, % (left of 0: it grows)")
    axes[0].set_ylabel("who says what is hard")
    style.legend(figure, rows.key(False), columns=3)
    return figure
