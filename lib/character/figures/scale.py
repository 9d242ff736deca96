"""Figures over the size of the training text."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.figures import methods
from lib.figures import style
from lib.figures.panels import band


def by_size(results: pd.DataFrame, names: tuple[str, ...], title: str) -> Figure:
    """Test perplexity against training characters; mean over seeds with 95 % interval."""
    figure, axes = plt.subplots()
    for number, (method, colour) in enumerate(methods.colours(list(names)).items()):
        rows = results[results["method"] == method]
        marker = style.MARKERS[number]
        band(axes, rows, "train_chars", "test_ppl", color=colour, marker=marker, label=method)
    style.plain_log(axes, "x")
    style.plain_log(axes, "y")
    axes.xaxis.set_major_locator(FixedLocator(sorted(results["train_chars"].unique())))
    axes.set_xlabel("training characters (logarithmic)")
    axes.set_ylabel("test perplexity (logarithmic)")
    axes.set_title(title)
    style.legend(figure, axes, "line: mean over seeds; band: 95 % interval over seeds", 4)
    return figure
