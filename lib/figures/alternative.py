"""What a figure says to a reader who cannot see it: what is plotted, and what is found.

The words are read off the drawn figure (titles, axes, names, values), so they always belong to the
results that it was drawn from. They lie in the PNG and the SVG as their description; notebooks show
them under the figure, and pages of the site take them from there.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

KEY = "Description"  # of the PNG's text and of the SVG's metadata
NAMED = 6  # names that are listed; more are counted
TOLD = 3  # lines that are told one by one, from their beginning to their end
COMPARED = ("calibrated", "chance")  # drawn for comparison, measured by nobody


def say(figure: Figure, finding: str) -> None:
    """Give a figure its own words for what is found; without them they are read off its values."""
    figure.set_label(finding)


def text(figure: Figure) -> str:
    """One sentence on what is plotted, and one a panel on what is found.

    Raises ValueError for a figure without data.
    """
    panels = _panels(figure)
    if not panels:
        raise ValueError("a figure without data")
    found = figure.get_label() or " ".join(dict.fromkeys(filter(None, map(_finding, panels))))
    return f"{_plotted(figure, panels)} {found}".strip()


def of(path: Path) -> str:
    """The words that a saved PNG carries. Raises KeyError if it carries none."""
    with Image.open(path) as picture:
        return picture.info[KEY]


def title(figure: Figure) -> str:
    """The heading of a figure: its own, or that of its first panel with one."""
    titles = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    return _line(next(filter(None, titles), "Figure"))


def at(figure: Figure, x: float, where: str) -> str:
    """What every line of every panel has reached at ``x``, for ``say``; lines that begin later or
    end sooner are left out there.
    """
    parts = []
    for axes in _panels(figure):
        reached = []
        for artist, label in _labelled(axes):
            if isinstance(artist, Line2D):
                places, values = (np.asarray(v, dtype=float) for v in artist.get_data())
                if len(places) > 1 and places.min() <= x <= places.max():
                    reached.append(f"{label} {short(np.interp(x, places, values))}")
        if reached:
            parts.append(f"{_where(axes)}{', '.join(reached)}")
    return f"At {where}: {'; '.join(parts)}."


def short(value: float) -> str:
    """A number in about three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.has_data()]


def _plotted(figure: Figure, panels: list[Axes]) -> str:
    """Heading, axes, panels and names of what is drawn."""
    horizontal, vertical = (_labels(panels, f"get_{axis}label") for axis in "xy")
    rows = _rows(panels[0])
    axes = f"{vertical} against {horizontal}" if vertical and not rows else horizontal
    parts = [f"{title(figure)}. Plotted: {axes}"]
    headings = [_line(axes.get_title()) for axes in panels if axes.get_title()]
    if len(panels) > 1 and headings:
        parts.append(f"; a panel each: {_listed(headings)}")
    found = (name for panel in panels for name in (_rows(panel) or _series(panel)))
    names = list(dict.fromkeys(found))
    if names:
        parts.append(f"; {'a row' if rows else 'a line or mark'} each: {_listed(names)}")
    return "".join(parts) + "."


def _listed(names: list[str]) -> str:
    shown = [f"“{name}”" for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _finding(axes: Axes) -> str:
    """What the means of a panel are: few lines from end to end, else the lowest and the highest."""
    rows = _rows(axes)
    series = {name: np.array([mean]) for name, mean in rows.items()} if rows else _series(axes)
    if not series:
        return ""
    if len(series) <= TOLD and all(len(values) > 1 for values in series.values()):
        told = (f"“{n}” goes from {short(v[0])} to {short(v[-1])}" for n, v in series.items())
        return f"{_where(axes)}{'; '.join(told)}."
    last = {name: values[-1] for name, values in series.items()}
    low, high = min(last, key=last.get), max(last, key=last.get)
    if len(series) == 1:
        return f"{_where(axes)}“{low}” is at {short(last[low])}."
    lines = all(len(values) > 1 for values in series.values())
    verb = "ends" if lines else "is"
    return (
        f"{_where(axes)}“{low}” {verb} lowest, at {short(last[low])}; "
        f"“{high}” {verb} highest, at {short(last[high])}."
    )


def _where(axes: Axes) -> str:
    """The panel's heading, or what it is drawn against, before a finding, where there are more
    panels than one."""
    if len(_panels(axes.figure)) == 1:
        return ""
    heading, below = _line(axes.get_title()), _line(axes.get_xlabel())
    return f"{heading}: " if heading else f"Against {below}: " if below else ""


def _rows(axes: Axes) -> dict[str, float]:
    """Name -> mean of every named row: the upright tick at its height, or the marks of each label
    near it, as “row (label)”."""
    names: dict[int, str] = {}
    for shared in axes.get_shared_y_axes().get_siblings(axes):
        ticks = zip(shared.get_yticks(), shared.get_yticklabels(), strict=False)
        names |= {round(place): _line(label.get_text()) for place, label in ticks}
    found: dict[str, float] = {}
    for line in axes.lines:
        if line.get_marker() == "|" and len(line.get_xdata()) == 1:
            name = names.get(round(float(line.get_ydata()[0])), "")
            found.setdefault(name, float(line.get_xdata()[0]))
    if not found and not axes.get_ylabel():
        found = _marked(axes, names)
    return {name: mean for name, mean in found.items() if name and np.isfinite(mean)}


def _marked(axes: Axes, names: Mapping[int, str]) -> dict[str, float]:
    """“row (label)” -> where its mark lies: rows named in words, marks that no line joins."""
    found: dict[str, float] = {}
    for artist, label in _labelled(axes):
        if isinstance(artist, Line2D) and not _joined(artist):
            for x, y in zip(*artist.get_data(), strict=True):
                name = names.get(round(float(y)), "")
                if name and not _number(name):
                    found[f"{name} ({label})"] = float(x)
    return found


def _joined(line: Line2D) -> bool:
    return line.get_linestyle() not in ("None", "none", "", " ")


def _number(words: str) -> bool:
    """Whether a tick bears a value instead of a name."""
    return not any(letter.isalpha() for letter in words)


def _series(axes: Axes) -> Mapping[str, np.ndarray]:
    """Label -> what a line passes through from left to right, or the mean of a set of marks."""
    found: dict[str, np.ndarray] = {}
    for artist, label in _labelled(axes):
        if isinstance(artist, PathCollection):
            values, joined = np.asarray(artist.get_offsets(), dtype=float)[:, 1], False
        elif isinstance(artist, ErrorbarContainer):
            values, joined = np.asarray(artist.lines[0].get_ydata(), dtype=float), False
        elif isinstance(artist, Line2D):
            values = np.asarray(artist.get_ydata(), dtype=float)
            joined = _joined(artist)
        else:
            continue
        values = values[np.isfinite(values)]
        if len(values):
            found.setdefault(label, values if joined else values.mean(keepdims=True))
    return found


def _labelled(axes: Axes) -> Iterator[tuple[Artist | ErrorbarContainer, str]]:
    for artist in (*axes.lines, *axes.collections, *axes.containers):
        label = _line(str(artist.get_label()).split("\n")[0])
        if not label.startswith("_") and label not in COMPARED:
            yield artist, label


def _labels(panels: list[Axes], getter: str) -> str:
    """What the panels are drawn against: one label, or all that there are."""
    labels = (_line(getattr(axes, getter)()) for axes in panels)
    return " or ".join(dict.fromkeys(filter(None, labels)))


def _line(words: str) -> str:
    return " ".join(words.split())
