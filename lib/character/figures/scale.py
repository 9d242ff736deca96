"""Figures over the size of the training text."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.figures import methods, style
from lib.figures.panels import band
from lib.results import tables
from lib.results.store import Results


def by_size(title: str):
    """Draw test perplexity against training characters, a line a method; 95 % intervals.

    Rows are those of the factors ``method`` and ``scale``.
    """

    def draw(results: Results) -> Figure:
        frame = results()
        frame = frame[frame["scale"].notna()] if "scale" in frame else frame.iloc[:0]
        figure, axes = plt.subplots()
        names = list(frame["method"].unique()) if len(frame) else []
        for number, (method, colour) in enumerate(methods.colours(names).items()):
            rows, marker = frame[frame["method"] == method], style.MARKERS[number]
            look = {"color": colour, "marker": marker, "label": method}
            band(axes, rows, "train_chars", "test_ppl", **look)
        if len(frame):
            style.plain_log(axes, "x")
            style.plain_log(axes, "y")
            axes.xaxis.set_major_locator(FixedLocator(sorted(frame["train_chars"].unique())))
            note = "line: mean over seeds; band: 95 % interval over seeds"
            style.legend(figure, axes, note, 4)
        axes.set_xlabel("training characters (logarithmic)")
        axes.set_ylabel("test perplexity (logarithmic)")
        axes.set_title(f"{title} ({tables.corpora(frame)})")
        return figure

    return draw
