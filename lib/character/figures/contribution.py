"""Figures about what each layer contributes, by difficulty."""

from matplotlib.figure import Figure

from lib.character.analysis.difficulty import GROUPS, REFERENCES
from lib.character.figures.exits import reported_split
from lib.figures import rows, style
from lib.figures.panels import band, corpora, counted, grid_of_panels, heading
from lib.results.store import Results

COLOURS = dict(zip(GROUPS, (style.COLOURS[2], style.COLOURS[0], style.COLOURS[1]), strict=True))
STATES = {("best", "other"): "-", ("last", "own"): "--"}  # epoch and reference: line
NOTE = (
    "solid: best epoch; reference of difficulty: the network of another random seed\n"
    "dashed: last epoch; reference: the network's own final loss, as in the report\n"
    "line: mean over seeds; band: 95 % interval over seeds"
)


def by_difficulty(variant: str, column: str, label: str, title: str):
    """Draw the mean of ``column`` (loss or norm) after each layer, by difficulty; a panel a text.

    Solid: best epoch, the network of another random seed is the reference of difficulty. Dashed:
    last epoch, the network's own final loss is, as in the report. Bands are 95 % intervals.
    """

    def draw(results: Results) -> Figure:
        layers, name = reported_split(results, "layers"), results.labels[variant]
        own = layers[layers["variant"] == name]
        figure, axes = grid_of_panels(counted(own), "", 3.8)
        grown = {}
        for panel, corpus in zip(axes, corpora(own), strict=True):
            for group, colour in COLOURS.items():
                for (state, reference), line in STATES.items():
                    here = own[
                        (own["corpus"] == corpus)
                        & (own["group"] == group)
                        & (own["state"] == state)
                        & (own["reference"] == reference)
                    ]
                    shown = f"{group} symbols" if line == "-" else None
                    look = {"color": colour, "linestyle": line, "marker": "o", "markersize": 4}
                    band(panel, here, "layer", column, label=shown, **look)
            hard = own[
                (own["corpus"] == corpus) & (own["group"] == "hard") & (own["state"] == "last")
            ]
            by_layer = hard[hard["reference"] == "own"].groupby("layer")[column].mean()
            if len(by_layer):
                grown[corpus] = f"{by_layer.iloc[0]:.1f} and {by_layer.iloc[-1]:.1f}"
            style.whole_numbers(panel.xaxis)
            panel.set_xlabel("layer")
        what = f"{title}, {name}, last epoch: hard symbols after the first and the last layer"
        heading(figure, what, grown)
        axes[0].set_ylabel(label)
        style.legend(figure, axes[-1], NOTE, 3)
        return figure

    return draw


def by_reference(variant: str, state: str = "best"):
    """Draw the percent by which hard symbols' loss falls from the first layer to the last.

    A row a reference of difficulty, a panel a text; seeds, mean and interval.
    """

    def draw(results: Results) -> Figure:
        table, name = reported_split(results, "references"), results.labels[variant]
        own = table[
            (table["variant"] == name) & (table["group"] == "hard") & (table["state"] == state)
        ]
        height = rows.HEIGHT * len(REFERENCES) + 1.6
        figure, axes = grid_of_panels(counted(own), "", height, sharey=True)
        span = {}
        for panel, corpus in zip(axes, corpora(own), strict=True):
            here = own[own["corpus"] == corpus]
            for y, reference in enumerate(REFERENCES):
                wide = here[here["reference"] == reference]
                wide = wide.pivot(index="seed", columns="layer", values="loss")
                fall = 100 * (1 - wide[wide.columns.max()] / wide[wide.columns.min()])
                rows.draw(panel, y, fall.to_numpy(), style.COLOURS[y])
                span.setdefault(corpus, []).append(fall.mean())
            rows.name_rows(panel, list(REFERENCES))
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_xlabel("fall of loss, % (below 0: grows)")
        said = {corpus: f"{min(v):.0f} to {max(v):.0f} %" for corpus, v in span.items()}
        what = f"{name}: from first to last layer the loss of hard symbols falls, by reference"
        heading(figure, what, said)
        axes[0].set_ylabel("reference of difficulty")
        style.legend(figure, rows.key(False), columns=3)
        return figure

    return draw
