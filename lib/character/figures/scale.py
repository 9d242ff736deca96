"""Figures over the size of the training text."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.figures import methods, style
from lib.figures.panels import band, grid_of_panels, heading
from lib.results import tables
from lib.results.statistics import percent_change, percent_interval
from lib.results.store import Results


def by_size(title: str, pair: tuple[str, str]):
    """Draw test perplexity against training characters, a line a method; 95 % intervals.

    Rows are those of the factors ``method`` and ``scale``; each text has a panel of its own. The
    heading tells how the first method of the ``pair`` changes the second at the ends of the axis.
    """

    def draw(results: Results) -> Figure:
        frame = results()
        frame = frame[frame["scale"].notna()] if "scale" in frame else frame.iloc[:0]
        texts = list(frame["corpus"].unique())
        figure, panels = grid_of_panels(texts or [""], title, 3.6)
        found = {}
        for panel, text in zip(panels, texts, strict=False):
            own = frame[frame["corpus"] == text]
            colours = methods.colours(list(frame["method"].unique()))
            for number, (method, colour) in enumerate(colours.items()):
                rows, marker = own[own["method"] == method], style.MARKERS[number]
                look = {"color": colour, "marker": marker, "label": method}
                band(panel, rows, "train_chars", "test_ppl", **look)
            style.plain_log(panel, "x")
            style.plain_log(panel, "y")
            sizes = sorted(own["train_chars"].unique())
            panel.xaxis.set_major_locator(FixedLocator(sizes))
            changes = [_change(own[own["train_chars"] == size], pair) for size in sizes]
            if changes and all(changes):
                found[text] = f"{changes[0]} and {changes[-1]} %"
        if found:
            ends = f"{' against '.join(pair)} at {sizes[0]:,.0f} and {sizes[-1]:,.0f} characters"
            heading(figure, ends, found, f"{title}, {tables.seeds(frame)}")
        if texts:
            note = "line: mean over seeds; band: 95 % interval over seeds"
            style.legend(figure, panels[0], note, 4)
        for panel in panels:
            panel.set_xlabel("training characters (logarithmic)")
        panels[0].set_ylabel("test perplexity (logarithmic)")
        return figure

    return draw


def _change(rows: pd.DataFrame, pair: tuple[str, str]) -> str:
    """Percent change of test perplexity between two methods, seed by seed; '' without both."""
    one, other = (rows[rows["method"] == name].set_index("seed")["test_ppl"] for name in pair)
    both = pd.concat([one, other], axis=1).dropna().to_numpy().T
    return str(percent_interval(percent_change(*both))) if both.size else ""
