"""One look for every figure: size, colours, readable axes, legends, and how it is saved.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; ``lib.figures.methods``
says which method has which. A legend stands under the axes, never over the data, and its heading
says what a line, a band or a bar is.
"""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, Locator, MaxNLocator, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib.figures import alternative
from lib.runs import files

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (8, 3)), (0, (6, 2, 1, 2, 1, 2)))
LINE_NAMES = ("solid", "dashed", "dash-dotted", "dotted", "long-dashed", "dash-dot-dotted")
QUIET = "#555555"  # floors, diagonals and notes
WIDE = 9.2  # inches: the width of a figure of several panels, about a page
SETTINGS = {
    "figure.figsize": (7.2, 4.2),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "savefig.dpi": 150,
    "savefig.pad_inches": 0.12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "font.size": 9.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.title_fontsize": 9,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",  # text stays text: it can be found, read aloud and translated
    "svg.hashsalt": "depth-adaptive-lm",  # the same figure gives the same bytes
}
COLOURS_OF_A_PICTURE = 256
DENSE = 2_000  # points of one collection from which on an SVG holds it as a picture


def use() -> None:
    """Apply the look to every figure made from here on."""
    plt.rcParams.update(SETTINGS)


class PlainLog(Locator):
    """Ticks of a logarithmic axis at round numbers, as many as can be read (3 to about 8)."""

    DIGITS = (
        (10, (1, 1.5, 2, 3, 4, 5, 7)),
        (40, (1, 2, 3, 5)),
        (3_000, (1, 3)),
        (np.inf, (1,)),
    )  # below this factor from end to end: the digits of every decade

    def __call__(self) -> np.ndarray:
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        """Round numbers: evenly spaced within a factor of 4, else the same digits each decade."""
        low, high = sorted((vmin, vmax))
        if high < 4 * low:
            return MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        digits = next(digits for span, digits in self.DIGITS if high < span * low)
        decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        ticks = np.sort(np.outer(decades, digits).ravel())
        return ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]


def plain_log(axes: Axes, which: str) -> None:
    """Make the axis ``which`` ("x" or "y") logarithmic, its ticks written as plain numbers."""
    getattr(axes, f"set_{which}scale")("log")
    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(PlainLog())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers only: epochs, layers, tokens."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(figure: Figure, source: Axes | list[Artist], note: str = "", columns: int = 2) -> None:
    """The figure's legend, under it: the labels of one panel, or artists of its own.

    ``note`` heads it and says what lines, bands and bars are.
    """
    handles = source.get_legend_handles_labels()[0] if isinstance(source, Axes) else source
    drawn = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, title=note or None
    )
    drawn.get_title().set(color=QUIET, multialignment="center")


def level(axes: Axes, name: str, value: float, horizontal: bool = True) -> None:
    """A named dotted line across the axes, its name in the margin, clear of the data."""
    look = {"color": QUIET, "linewidth": 1, "linestyle": ":"}
    if horizontal:
        axes.axhline(value, **look)
        place, coordinates, align = (1.01, value), ("axes fraction", "data"), ("left", "center")
    else:
        axes.axvline(value, **look)
        place, coordinates, align = (value, 1.01), ("data", "axes fraction"), ("center", "bottom")
    axes.annotate(
        name, place, xycoords=coordinates, ha=align[0], va=align[1], fontsize=9, color=QUIET
    )


def picture(figure: Figure, dpi: int, words: str) -> bytes:
    """A figure as a PNG that holds its words, in 256 colours: a third as large, and none is missed.

    No date and no version in it: the same data give the same bytes.
    """
    drawn, small, told = io.BytesIO(), io.BytesIO(), PngInfo()
    figure.savefig(drawn, format="png", dpi=dpi, bbox_inches="tight")
    told.add_itxt(alternative.KEY, words)
    with Image.open(drawn) as full:
        few = full.convert("RGB").quantize(COLOURS_OF_A_PICTURE, dither=Image.Dither.NONE)
    few.save(small, "PNG", optimize=True, dpi=(dpi, dpi), pnginfo=told)
    return small.getvalue()


def save(figure: Figure, path: Path, dpi: int = 150) -> None:
    """Write a figure as PNG and as SVG beside it, both with its words (``alternative.text``).

    No date and no version in them: the same data give the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    words = alternative.text(figure)
    files.write_bytes(path, picture(figure, dpi, words))
    for axes in figure.axes:
        for collection in axes.collections:
            if len(collection.get_offsets()) > DENSE:
                collection.set_rasterized(True)
    about = {"Title": alternative.title(figure), alternative.KEY: words}
    unsaid = {"Date": None, "Creator": None}
    drawn, how = io.BytesIO(), {"dpi": dpi, "bbox_inches": "tight", "metadata": about | unsaid}
    with plt.rc_context({key: SETTINGS[key] for key in SETTINGS if key.startswith("svg.")}):
        figure.savefig(drawn, format="svg", **how)
    files.write_bytes(path.with_suffix(".svg"), drawn.getvalue())
