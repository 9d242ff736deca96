"""Figures of an experiment: shown in its notebook, and drawn again from committed tables."""

import base64
import html

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.experiment import Experiment
from lib.figures import alternative, style
from lib.results import store
from lib.results.store import Results
from lib.runs.places import ROOT


def show(experiment: Experiment, what: str, results: Results) -> None:
    """Draw a figure of a set of results, save it beside them and present it in the notebook.

    Raises KeyError for a figure that the experiment does not list.
    """
    present(draw(experiment, what, results))


def draw(experiment: Experiment, what: str, results: Results) -> Figure:
    """Draw a figure of a set of results and save it beside them."""
    figure = experiment.figures[what](results)
    folder = ROOT / "figures" if results.folder is None else results.folder
    style.save(figure, folder / f"{experiment.slug}_{what}.png")
    return figure


def present(figure: Figure) -> None:
    """Show a figure in a notebook and close it: a picture with its words as alternative text.

    The words stand under the picture too, folded: not every viewer of notebooks passes the
    alternative text on.
    """
    from IPython.display import HTML, display  # noqa: PLC0415 (drawing needs no notebook)

    words = alternative.text(figure)
    picture = style.picture(figure, style.SETTINGS["figure.dpi"], words)
    plt.close(figure)
    data = {"image/png": base64.b64encode(picture).decode(), "text/plain": words}
    display(data, metadata={"image/png": {"alt": words}}, raw=True)
    folded = f"<details><summary>In words</summary>{html.escape(words)}</details>"
    display(HTML(folded))


def redraw(experiment: Experiment) -> list[str]:
    """Draw every figure of an experiment from its committed tables; returns their names."""
    style.use()
    results = store.committed(experiment.slug)
    for what in experiment.figures:
        draw(experiment, what, results)
        plt.close("all")
    return [f"{experiment.slug}_{what}.png" for what in experiment.figures]
