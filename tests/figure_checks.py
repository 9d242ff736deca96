"""What a reader stumbles over in a figure: words that lie on words, colours that change."""

import itertools

from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text


def collisions(figure: Figure) -> list[str]:
    """Headings, names of axes and the legend that lie on one another or outside the figure."""
    figure.canvas.draw()
    words: list[Text] = list(figure.texts)
    for axes in figure.axes:
        words += [axes.title, axes.xaxis.label, axes.yaxis.label]
    places = [(text.get_text(), text.get_window_extent()) for text in words if text.get_text()]
    places += [("the legend", legend.get_window_extent()) for legend in figure.legends]
    found = [
        f"{one!r} lies on {other!r}"
        for (one, here), (other, there) in itertools.combinations(places, 2)
        if here.padded(-1).overlaps(there.padded(-1))
    ]
    whole = figure.bbox.padded(2)
    found += [
        f"{name!r} leaves the figure"
        for name, place in places
        if not (whole.contains(*place.min) and whole.contains(*place.max))
    ]
    return found


def painted(figure: Figure) -> set[tuple[str, str]]:
    """Name and colour of every line and row."""
    rows = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    found = set()
    for axes in figure.axes:
        lines, labels = axes.get_legend_handles_labels()
        drawn = [getattr(line, "lines", (line,))[0] for line in lines]
        found |= {
            (label.removesuffix(" (above the cut)"), to_hex(line.get_color()))
            for line, label in zip(drawn, labels, strict=True)
            if hasattr(line, "get_color")
        }
        found |= {
            (rows[round(line.get_ydata()[0])], to_hex(line.get_color()))
            for line in axes.lines
            if line.get_marker() == "|"
        }
    return found
