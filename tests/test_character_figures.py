"""Figures of Experiments 0 to 11: drawn from the committed tables, and what they show."""

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from lib import registry
from lib.character.figures import exits, growth
from lib.figures import methods, style
from lib.results import store
from lib.results.store import Results

matplotlib.use("Agg")
SLUGS = [slug for slug in registry.module_names() if slug < "12"]


@pytest.fixture(autouse=True)
def look():
    with plt.rc_context():
        style.use()
        yield
        plt.close("all")


@pytest.mark.parametrize("slug", SLUGS)
def test_every_figure_is_drawn_from_the_committed_results(slug):
    experiment, results = registry.experiment(slug), store.committed(slug)
    for draw in experiment.figures.values():
        figure = draw(results)
        assert all(axes.has_data() for axes in figure.axes)


def results_of(frame: pd.DataFrame, table: str, **tables) -> Results:
    """Results of one variant, "a", whose name is "4-layer full"."""
    frame = frame.assign(variant="a", corpus="text")
    main = frame[["variant", "corpus", "seed"]].drop_duplicates().assign(label="4-layer full")
    return Results("slug", {"": main, table: frame, **tables})


def test_stages_show_what_follows_the_first_stage():
    rows = [(seed, epoch, 10 + 30 / epoch + seed) for seed in (0, 1) for epoch in range(1, 7)]
    own = pd.DataFrame(rows, columns=["seed", "epoch", "val_ppl"]).assign(stage=1)
    later = own[own["epoch"] < 5].assign(stage=2, val_ppl=30.0 + own["seed"])
    figure = growth.stages(["a"])(results_of(pd.concat([own, later]), "curve"))
    (panel,) = figure.axes
    assert panel.get_ylim()[1] == pytest.approx(1.1 * 30.5), "the first epochs reach 40"
    assert panel.get_title() == "text, 2 seeds"
    first, second = panel.lines
    assert (first.get_ydata()[0], first.get_ydata()[-1]) == pytest.approx((40.5, 15.5))
    assert set(second.get_ydata()) == {30.5} and 1 < second.get_xdata()[0] < 1.1


def test_seeds_that_stop_at_other_epochs_are_compared_by_shares_of_the_stage():
    rows = [(0, 1, 9.0), (0, 2, 8.0), (0, 3, 7.0), (1, 1, 6.0), (2, 1, 5.0), (2, 2, 4.0)]
    found = growth.over_stage(pd.DataFrame(rows, columns=["seed", "epoch", "val_ppl"]))
    assert found[:, [0, 10, 20]].tolist() == [[9.0, 8.0, 7.0], [6.0] * 3, [5.0, 4.5, 4.0]]


def test_a_band_of_percentages_ends_at_a_hundred():
    values = ((0, 80.0), (1, 100.0), (2, 100.0))  # the interval of their mean reaches 122
    frame = pd.DataFrame(
        {"state": state, "split": "report", "seed": s, "threshold": t, "acc_pct": v, "ppl": v}
        for state in ("best", "last")
        for s, v in values
        for t in (0.5, 0.8)
    )
    summary = pd.DataFrame({"exit_layer": [1]})
    results = results_of(frame, "exits", summary=summary)
    figure = exits.thresholds(["a"], ["acc_pct", "ppl"], repeated=False)(results)
    highest = [
        max(band.get_paths()[0].vertices[:, 1]) for band in (a.collections[0] for a in figure.axes)
    ]
    assert highest[0] == 100 < highest[1]


def test_a_method_has_one_colour_in_all_experiments():
    found: dict[str, set[str]] = {}
    for slug in SLUGS:
        for label in registry.experiment(slug).labels().values():
            found.setdefault(label, set()).add(methods.row_colours([label, "Standard"])[label])
    assert all(len(colours) == 1 for colours in found.values())
    assert found["LPT sum"] == found["LPT 4-layer"] == found["Scratch LPT"]
