"""Figures that most character experiments draw: perplexities by variant, and training curves."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lib.figures import panels, style, training
from lib.results import tables
from lib.results.claims import change
from lib.results.statistics import percent_interval
from lib.results.store import Absent, Results


def metric(corpus: str) -> str:
    """The column that decides on a text: test perplexity, or valid where there is no test."""
    return "val_ppl" if corpus == "repeated" else "test_ppl"


def changed(results: Results, treatment: str, baseline: str) -> dict[str, str]:
    """Text -> percent change between two variants, seed by seed, where both have rows there."""
    found = {}
    for corpus in results.corpora:
        own = results.on(corpus)
        try:
            values = change(treatment, baseline, metric(corpus))(own)
        except Absent:
            continue
        found[corpus] = f"{percent_interval(values)} %"
    return found


def perplexity(
    variants: Sequence[str],
    pair: tuple[str, str],
    report: str = "",
    counted: Sequence[str] = (),
    diamonds: bool = True,
):
    """Draw the perplexity of every variant with its interval, a panel a text.

    ``pair``: treatment and baseline whose change is the heading; ``report``: the name of the rows
    in ``reported.csv`` that are named first, and drawn beside if measured on ``repeated``
    (``diamonds``); ``counted`` names the n-gram baselines that are drawn
    as rows too.
    """

    def draw(results: Results) -> Figure:
        frame = results.named()
        metrics = {corpus: metric(corpus) for corpus in results.corpora}
        names = results.names((*variants, *counted))
        figure = panels.perplexities(frame, names, "", metrics, report, diamonds)
        finding, found = "Perplexity", {}
        if set(pair) <= results.labels.keys():
            finding = " against ".join(results.labels[variant] for variant in pair)
            found = changed(results, *pair)
        panels.heading(figure, finding, found, f"change of perplexity, {tables.seeds(frame)}")
        return figure

    return draw


def curves(variants: Sequence[str], highest: float | None = None):
    """Draw validation perplexity over epochs, a panel a text; ``highest`` cuts the axis."""

    def draw(results: Results) -> Figure:
        curve, names = results.named("curve"), results.names(variants)
        figure, axes = panels.grid_of_panels(
            panels.counted(results()), "Validation during training", 3.6
        )
        lowest = {}
        for panel, corpus in zip(axes, results.corpora, strict=True):
            own = curve[curve["corpus"] == corpus]
            cut = training.lines(panel, own, names, highest)
            panel.set_ylabel(training.axis_name(cut, highest))
            best = own.groupby(["variant", "seed"])["val_ppl"].min().groupby("variant").mean()
            best = best[best.index.isin(names)]
            if len(best):
                lowest[corpus] = f"{best.idxmin()} ({best.min():.1f})"
        panels.heading(figure, "Lowest at its best epoch", lowest)
        style.legend(figure, axes[0], training.OVER_SEEDS, 3 if len(names) > 4 else 2)
        return figure

    return draw
