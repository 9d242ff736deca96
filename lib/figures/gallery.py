"""Figures of an experiment: shown in its notebook, and drawn again from committed tables."""

import matplotlib.pyplot as plt

from lib.experiment import Experiment
from lib.figures import style
from lib.results import store
from lib.results.store import Results
from lib.runs.places import ROOT


def show(experiment: Experiment, what: str, results: Results) -> None:
    """Draw a figure of a set of results, save it beside them and leave it open for the notebook.

    Raises KeyError for a figure that the experiment does not list.
    """
    figure = experiment.figures[what](results)
    folder = ROOT / "figures" if results.folder is None else results.folder
    style.save(figure, folder / f"{experiment.slug}_{what}.png")


def redraw(experiment: Experiment) -> list[str]:
    """Draw every figure of an experiment from its committed tables; returns their names."""
    style.use()
    results = store.committed(experiment.slug)
    for what in experiment.figures:
        show(experiment, what, results)
        plt.close("all")
    return [f"{experiment.slug}_{what}.png" for what in experiment.figures]
