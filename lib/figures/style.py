"""One look for every figure: size, colours, opaque white ground, and how it is saved.

A variant keeps its colour in every figure of a notebook; colours are those of Okabe and Ito,
which the colour-blind can tell apart.
"""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.results import store

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SETTINGS = {
    "figure.figsize": (6.4, 3.8),
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "font.size": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


def use() -> None:
    """Apply the look to every figure made from here on."""
    plt.rcParams.update(SETTINGS)


def colours(variants: list[str]) -> dict[str, str]:
    """A colour for each variant, in the order given; raises ValueError for more than eight."""
    if len(variants) > len(COLOURS):
        raise ValueError(f"{len(variants)} variants for {len(COLOURS)} colours: split the figure")
    return dict(zip(variants, COLOURS, strict=False))


def save(figure: Figure, slug: str, what: str, size: str) -> None:
    """Write ``figures/NN_slug_what.png`` (a folder of its own for sizes other than full).

    The file holds no date and no version, so the same data give the same bytes.
    """
    path = store.folder("figures", size) / f"{slug}_{what}.png"
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
