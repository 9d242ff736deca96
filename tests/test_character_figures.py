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
    rows = [(seed, epoch, 10 + 9 / epoch + seed) for seed in (0, 1) for epoch in range(1, 7)]
    own = pd.DataFrame(rows, columns=["seed", "epoch", "val_ppl"])
    own["operations"] = own["epoch"] * 1e12
    later = own.assign(operations=own["operations"] + 6e12, val_ppl=11.0)
    figure = growth.stages(["a"])(results_of(pd.concat([own, later]), "curve"))
    assert figure.axes[0].get_ylim()[1] == pytest.approx(1.15 * 11.0)
    assert figure.axes[0].get_title() == "text, 2 seeds"


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
