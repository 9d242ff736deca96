"""Every figure of an experiment, drawn from its written tables alone.

An experiment module lists its figures as ``FIGURES = {what: draw}`` with ``draw(size) -> Figure``;
the notebook shows them one by one, and ``make figures`` draws them all again from committed
results without training anything.
"""

from types import ModuleType

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.figures import style


def show(experiment: ModuleType, what: str, size: str) -> None:
    """Draw a figure, save it as ``NN_slug_what.png`` and leave it open for the notebook.

    Raises KeyError for a figure that the experiment does not list.
    """
    figure: Figure = experiment.FIGURES[what](size)
    style.save(figure, experiment.SLUG, what, size)


def redraw(experiment: ModuleType, size: str) -> list[str]:
    """Draw and save every figure of an experiment; returns their names."""
    style.use()
    for what in experiment.FIGURES:
        show(experiment, what, size)
        plt.close("all")
    return [f"{experiment.SLUG}_{what}.png" for what in experiment.FIGURES]
