"""Figures that most character experiments draw: perplexities by variant, and training curves."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lib.figures import panels, style, training
from lib.results import tables
from lib.results.store import Results


def metric(corpus: str) -> str:
    """The column that decides on a text: test perplexity, or valid where there is no test."""
    return "val_ppl" if corpus == "repeated" else "test_ppl"


def perplexity(variants: Sequence[str], title: str, report: str = "", counted: Sequence[str] = ()):
    """Draw the perplexity of every variant with its interval, a panel a text.

    ``report``: the name of the rows in ``reported.csv`` that are drawn beside; ``counted`` names
    the n-gram baselines that are drawn as rows too.
    """

    def draw(results: Results) -> Figure:
        frame = results.named()
        metrics = {corpus: metric(corpus) for corpus in results.corpora}
        names = results.names((*variants, *counted))
        return panels.perplexities(frame, names, f"{title}, {tables.seeds(frame)}", metrics, report)

    return draw


def curves(variants: Sequence[str], highest: float | None = None):
    """Draw validation perplexity over epochs, a panel a text; ``highest`` cuts the axis."""

    def draw(results: Results) -> Figure:
        curve, names = results.named("curve"), results.names(variants)
        figure, axes = panels.grid_of_panels(
            panels.counted(results()), "Validation during training", 3.6
        )
        for panel, corpus in zip(axes, results.corpora, strict=True):
            own = curve[curve["corpus"] == corpus]
            cut = training.lines(panel, own, names, highest)
            panel.set_ylabel(training.axis_name(cut, highest))
        style.legend(figure, axes[0], training.OVER_SEEDS, 3 if len(names) > 4 else 2)
        return figure

    return draw
