"""Figures of an experiment: shown in its notebook, and drawn again from committed tables."""

import base64
import html

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lib.experiment import Experiment
from lib.figures import alternative, style
from lib.results import store
from lib.results.schema import DIVERGED
from lib.results.store import Absent, Results
from lib.runs.places import ROOT


def show(experiment: Experiment, what: str, results: Results) -> None:
    """Draw a figure of a set of results, save it beside them and present it in the notebook.

    One that cannot be drawn before outstanding runs have ended, or without those that diverged, is
    a sentence instead. Raises KeyError for a figure that the experiment does not list.
    """
    experiment.figures[what]
    try:
        figure = draw(experiment, what, results)
    except Absent as missing:
        print(f"figure {what}: {missing.args[0]}")
        return
    present(figure)
    if lost := _lost(results):
        print(f"not drawn: {lost}")


def _lost(results: Results) -> str:
    """Which runs diverged, or ""."""
    counts = results()[results()["status"] == DIVERGED]["label"].value_counts(sort=False)
    return ", ".join(f"{count} diverged of {label}" for label, count in counts.items())


def draw(experiment: Experiment, what: str, results: Results) -> Figure:
    """Draw a figure of a set of results, runs that diverged left out, and save it beside them.

    Raises Absent where runs are outstanding and none that the figure shows has ended, and where it
    cannot be drawn without the runs that diverged.
    """
    try:
        figure = experiment.figures[what](results.sound())
    except (LookupError, ValueError, FileNotFoundError) as error:
        if lost := _lost(results):
            raise Absent(f"cannot be drawn, {lost}") from error
        if not isinstance(error, FileNotFoundError) or not waiting(experiment, results):
            raise
        raise Absent("not drawn, none of its runs has ended") from None
    if not any(axes.has_data() for axes in figure.axes) and waiting(experiment, results):
        plt.close(figure)
        raise Absent("not drawn, none of its runs has ended")
    folder = ROOT / "figures" if results.folder is None else results.folder
    style.save(figure, folder / f"{experiment.slug}_{what}.png")
    return figure


def waiting(experiment: Experiment, results: Results) -> bool:
    """Whether runs are outstanding: of a set, or of the committed tables of a size."""
    if results.folder is not None:
        return results.outstanding > 0
    frame = results()
    trained = frame.dropna(subset="params")  # a count model has one row and no seed
    seeds = trained.groupby(["corpus", "size", "variant"])["seed"].nunique()
    unequal = (seeds.groupby(["corpus", "size"]).nunique() > 1).any()
    return bool(set(experiment.own) - set(frame["variant"])) or bool(unequal)


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
    results, drawn = store.committed(experiment.slug), []
    for what in experiment.figures:
        try:
            draw(experiment, what, results)
        except Absent as missing:
            print(f"{experiment.slug}_{what}: {missing.args[0]}")
            continue
        drawn.append(f"{experiment.slug}_{what}.png")
        plt.close("all")
    return drawn
