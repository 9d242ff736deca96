"""Figures over the size of the training text."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.panels import band


def by_size(results: pd.DataFrame, methods: tuple[str, ...], title: str) -> Figure:
    """Test perplexity against training characters; mean over seeds with 95 % interval."""
    figure, axes = plt.subplots()
    for method, colour in style.colours(list(methods)).items():
        rows = results[results["method"] == method]
        band(axes, rows, "train_chars", "test_ppl", color=colour, marker="o", label=method)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("training characters")
    axes.set_ylabel("test perplexity")
    axes.set_title(title)
    axes.legend()
    return figure
