"""Figures of Experiments 0 to 11: drawn from the committed tables, and what they show."""

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from figure_checks import collisions, painted
from matplotlib.colors import to_hex

from lib import registry
from lib.character.figures import common, exits, growth
from lib.figures import methods, panels, style
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
def test_every_figure_of_the_committed_results_can_be_read(slug):
    experiment, results = registry.experiment(slug), store.committed(slug)
    colours: dict[str, set[str]] = {}
    for what, draw in experiment.figures.items():
        figure = draw(results)
        assert all(axes.has_data() for axes in figure.axes)
        assert collisions(figure) == [], what
        for name, colour in painted(figure):
            colours.setdefault(name, set()).add(colour)
        plt.close(figure)
    assert {name for name, found in colours.items() if len(found) > 1} == set()
    own = {name: methods.method_of(name) for name in colours}
    assert all(colours[name] == {to_hex(colour)} for name, colour in own.items() if colour)


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


def exits_of(values: dict[int, float], last: float = 80.0) -> Results:
    """Exits at two thresholds with one value a seed, on two texts, and what no exit gives."""
    keys = [
        {"variant": "a", "corpus": corpus, "seed": seed, "state": state, "split": "report"}
        for corpus in ("text", "other")
        for seed in values
        for state in ("best", "last")
    ]
    found = pd.DataFrame(
        {**key, "threshold": t, "ppl": values[key["seed"]], "acc_pct": values[key["seed"]],
         "random_ppl": last, "agree_pct": values[key["seed"]], "compute_pct": 100 * t,
         "exit_pct": 5.0}
        for key in keys
        for t in (0.5, 0.8)
    )  # fmt: skip
    ends = {"always_last_ppl": last, "always_last_acc_pct": last, "exit_layer": 1}
    main = found[["variant", "corpus", "seed"]].drop_duplicates().assign(label="4-layer full")
    summary = pd.DataFrame({**key, **ends} for key in keys)
    return Results("slug", {"": main, "exits": found, "summary": summary})


def test_exits_are_compared_seed_by_seed_with_none():
    found = exits.compared(exits_of({0: 80.0, 1: 100.0}))
    assert found.groupby("seed")[["ppl", "acc_pct", "random_ppl"]].mean().to_dict("index") == {
        0: {"ppl": 0.0, "acc_pct": 0.0, "random_ppl": 0.0},
        1: {"ppl": 25.0, "acc_pct": 20.0, "random_ppl": 0.0},
    }


def test_a_band_of_percentages_ends_at_a_hundred_and_a_change_does_not():
    results = exits_of({0: 80.0, 1: 100.0, 2: 100.0})  # the interval of their mean reaches 122
    figure = exits.thresholds(["a"], ["agree_pct", "ppl"])(results)
    assert [axes.get_title() for axes in figure.axes] == [
        f"{corpus}:\n{exits.COLUMNS[column]}"
        for corpus in ("text", "other")
        for column in ("agree_pct", "ppl")
    ]
    highest = [max(a.collections[0].get_paths()[0].vertices[:, 1]) for a in figure.axes]
    assert highest[0] == highest[2] == 100 and highest[1] == highest[3] > 50


def test_a_share_of_exits_is_drawn_where_every_seed_has_some():
    results = exits_of({0: 80.0, 1: 90.0})
    table = results.frames["exits"]
    table.loc[(table["threshold"] == 0.8) & (table["seed"] == 1), "agree_pct"] = float("nan")
    figure = exits.thresholds(["a"], ["agree_pct"])(results)
    assert list(figure.axes[0].lines[0].get_xdata()) == [0.5]


def test_what_exits_cost_stands_beside_as_many_at_random():
    figure = exits.pareto(["a"])(exits_of({0: 88.0, 1: 88.0}, last=80.0))
    panel = figure.axes[0]
    (bars,) = panel.containers
    assert list(bars.lines[0].get_ydata()) == pytest.approx([10.0, 10.0])
    assert panel.lines[-1].get_linestyle() == ":" and set(panel.lines[-1].get_ydata()) == {0.0}
    assert "4-layer full on text: 10" in figure.get_label()


def test_the_words_of_stages_are_where_each_stage_ends():
    rows = [(0, epoch, stage, 10.0 * stage) for epoch in (1, 2) for stage in (1, 2)]
    own = pd.DataFrame(rows, columns=["seed", "epoch", "stage", "val_ppl"])
    figure = growth.stages(["a"])(results_of(own, "curve"))
    assert figure.get_label() == "At the end of each stage: 4-layer full on text: 10, 20."


def test_headings_say_what_is_found():
    rows = [(seed, "a", 8.0 + seed) for seed in (0, 1)] + [(seed, "b", 10.0) for seed in (0, 1)]
    frame = pd.DataFrame(rows, columns=["seed", "variant", "test_ppl"])
    frame = frame.assign(corpus="text", size="full", run_id="x", label=frame["variant"] + "!")
    figure = common.perplexity(["a", "b"], ("a", "b"))(Results("slug", {"": frame}))
    assert " ".join(figure.get_suptitle().split()) == (
        "a! against b!: -15 [-60, 79] % on text (change of perplexity, 2 seeds)"
    )
    assert common.changed(Results("slug", {"": frame}), "a", "none") == {}
    mine = frame.replace({"variant": {"b": "mine"}, "label": {"b!": "mine (yours)"}})
    for own in (mine, pd.concat([frame, mine[mine["variant"] == "mine"]])):
        drawn = common.perplexity(["a", "b"], ("a", "b"))(Results("slug", {"": own}))
        assert drawn.get_suptitle().startswith("a! against b!") == (own is not mine)


def test_a_variant_that_is_on_one_text_only_is_left_out_on_the_other():
    rows = [("a", text, e, 9.0 / e, 1e12 * e) for text in ("text", "other") for e in (1, 2)]
    rows += [("b", "text", e, 8.0 / e, 2e12 * e) for e in (1, 2)]
    columns = ["variant", "corpus", "epoch", "val_ppl", "operations"]
    curve = pd.DataFrame(rows, columns=columns).assign(seed=0)
    main = curve.drop_duplicates(["variant", "corpus"]).assign(label=curve["variant"])
    figure = growth.against_compute(["a", "b"])(Results("slug", {"": main, "curve": curve}))
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]


def test_rows_of_the_report_stand_above_a_line_where_they_come_first():
    assert panels._parted(["a", "b", "c"], {"a", "b"}) == 2
    assert panels._parted(["a", "c", "b"], {"a", "b"}) == 0
    assert panels._parted(["a", "b"], {"a", "b"}) == panels._parted(["a"], set()) == 0
