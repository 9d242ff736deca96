"""Figures over the size of the training text."""

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.figures import methods, style
from lib.figures.panels import band, grid_of_panels
from lib.results import tables
from lib.results.store import Results


def by_size(title: str):
    """Draw test perplexity against training characters, a line a method; 95 % intervals.

    Rows are those of the factors ``method`` and ``scale``; each text has a panel of its own.
    """

    def draw(results: Results) -> Figure:
        frame = results()
        frame = frame[frame["scale"].notna()] if "scale" in frame else frame.iloc[:0]
        texts = list(frame["corpus"].unique())
        heading = f"{title}, {tables.seeds(frame)}" if len(frame) else title
        figure, panels = grid_of_panels(texts or [""], heading, 3.6)
        for panel, text in zip(panels, texts, strict=False):
            own = frame[frame["corpus"] == text]
            colours = methods.colours(list(frame["method"].unique()))
            for number, (method, colour) in enumerate(colours.items()):
                rows, marker = own[own["method"] == method], style.MARKERS[number]
                look = {"color": colour, "marker": marker, "label": method}
                band(panel, rows, "train_chars", "test_ppl", **look)
            style.plain_log(panel, "x")
            style.plain_log(panel, "y")
            panel.xaxis.set_major_locator(FixedLocator(sorted(own["train_chars"].unique())))
        if texts:
            note = "line: mean over seeds; band: 95 % interval over seeds"
            style.legend(figure, panels[0], note, 4)
        for panel in panels:
            panel.set_xlabel("training characters (logarithmic)")
        panels[0].set_ylabel("test perplexity (logarithmic)")
        return figure

    return draw
