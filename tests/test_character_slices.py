"""Experiment 23: slices of a text, comparisons over them, and what decides them."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.character import slices
from lib.character.experiments.e02_infini_hrm import Exp02
from lib.character.experiments.e03_iterative_refinement import E03
from lib.character.experiments.e10_confidence_routing import E10
from lib.character.experiments.e23_slices_of_text import CLAIMED, COMPARED, E23, HEADLINES
from lib.parameters import ParameterError
from lib.results.claims import SUPPORTED, UNDECIDED, decide
from lib.results.statistics import percent_interval
from lib.results.store import Absent, Results

IRT = COMPARED["exp03"]


def small(**given):
    """Parameters on prose that every Python has."""
    own = {"corpus": "python-docs", "slices": 5, "apart": 1_500}
    return E23.parameters.at("tiny").changed(**{**own, **given})


def results(changes: np.ndarray, headline=IRT, lost: tuple[int, int] | None = None) -> Results:
    """Rows of one comparison: percent changes (slices, seeds); ``lost``: a run that diverged."""
    rows = []
    for number, values in enumerate(changes, 1):
        for seed, value in enumerate(values):
            base = 10.0 + number + 0.1 * seed
            for arm, ppl in (
                (headline.baseline, base),
                (headline.treatment, base * (1 + value / 100)),
            ):
                gone = lost == (number, seed) and arm == headline.treatment
                rows.append(
                    {
                        "variant": headline.variant(arm, number), "label": f"{arm} {number}",
                        "corpus": "wikipedia", "corpus_sha256": "a" * 64, "size": "full",
                        "device": "cpu", "seed": seed, "test_ppl": ppl, "params": 5,
                        "status": "diverged" if gone else "ok", "run_id": f"{arm}{number}{seed}",
                    }
                )  # fmt: skip
    return Results("23_slices_of_text", {"": pd.DataFrame(rows)})


def spread(means, seeds: float = 0.2) -> np.ndarray:
    """Changes (slices, 2) about their means."""
    return np.array([[mean - seeds, mean + seeds] for mean in means])


def claim_of(name: str):
    return next(c for c in E23.claims if c.id == f"exp23-{HEADLINES[name][2]}")


def test_slices_share_no_character_and_hold_valid_and_test_equal():
    parameters = small()
    texts = [parameters.slice(number, "python-docs") for number in range(1, 6)]
    first = texts[0]
    whole = parameters.changed(train_chars=7_100, apart=7_100).slice(1, "python-docs").train
    for number, text in enumerate(texts):
        start = number * parameters.apart
        assert text.train == whole[start : start + parameters.train_chars]
        assert (text.valid, text.test) == (first.valid, first.test)
    assert len({text.sha256 for text in texts}) == 5


def test_slices_that_would_overlap_are_refused_in_a_sentence():
    with pytest.raises(
        ParameterError, match="'apart' is 1000; allowed: at least train_chars, 1100"
    ):
        small(apart=1_000)
    with pytest.raises(ParameterError, match="one batch of 16 windows"):
        small(train_chars=1_000, apart=1_000)
    with pytest.raises(ParameterError, match="'repeated'"):
        small(corpus="repeated")
    with pytest.raises(ValueError, match="at most"):
        small(apart=1_000_000).slice(2, "python-docs")


def test_every_headline_keeps_the_numbers_of_its_experiment():
    parameters = small()
    assert parameters.of(Exp02).patience == Exp02().patience == 3
    assert parameters.of(E03.parameters).patience == 5
    assert parameters.of(E10.parameters).training().shuffle is False
    assert {name: headline.reported for name, headline in COMPARED.items()} == {
        name: claim.reported for name, claim in CLAIMED.items()
    }
    for name, (origin, *_) in HEADLINES.items():
        for arm in (COMPARED[name].treatment, COMPARED[name].baseline):
            assert E23.variants[COMPARED[name].variant(arm, 3)].variant is origin.variants[arm]


def test_the_first_slice_trains_what_the_experiment_itself_trains():
    parameters = small(seeds=1)
    texts = parameters.texts()
    keys = {task.labels["variant"]: task.key() for task in E23.tasks(parameters, texts)}
    own = {task.labels["variant"]: task for task in E03.tasks(parameters.of(E03.parameters), texts)}
    for arm in ("irt", "standard"):
        assert keys[f"exp03_{arm}_slice_1"] == own[arm].key()
        assert keys[f"exp03_{arm}_slice_2"] != own[arm].key()
    probe = next(iter(E10.variants["routed"].runs(parameters.of(E10.parameters), texts[0])))
    (plain,) = E23.variants["exp10_routed_slice_1"].runs(parameters, texts[0])
    assert plain.config == probe.config.network, "the same network, not taken apart"


def test_cheap_comparisons_of_all_seeds_come_before_dear_ones():
    parameters = small(seeds=2, slices=2)
    tasks = E23.tasks(parameters, parameters.texts())
    turns = [HEADLINES[task.labels["headline"]][1] for task in tasks]
    assert turns == sorted(turns) and set(turns) == {0, 1, 2, 3}
    first = [task.seed for task, turn in zip(tasks, turns, strict=True) if turn == 0]
    assert first == sorted(first) and len(tasks) == 2 * 2 * 12


def test_a_verdict_stands_on_one_value_a_slice():
    means = (-5.0, -4.0, -6.0, -5.5, -4.5)
    (row,) = decide(claim_of("exp03"), results(spread(means)))
    assert row["n"] == 5 and row["verdict"] == SUPPORTED and row["kind"] == "own"
    wanted = percent_interval([slices.mean(values) for values in spread(means)])
    ends = (wanted.mean, wanted.low, wanted.high)
    assert (row["ours"], row["ci_low"], row["ci_high"]) == pytest.approx(ends)
    (row,) = decide(claim_of("exp03"), results(spread(means[:4])))
    assert row["verdict"] == UNDECIDED and row["reason"].startswith("4 slices, 5 needed")


def test_a_sign_that_changes_with_the_slice_decides_nothing():
    claim, means = claim_of("exp03"), (-5.0, -5.0, -5.0, -5.0, 0.4)
    (alone,) = decide(replace(claim, unanimous=False), results(spread(means)))
    assert alone["verdict"] == SUPPORTED and alone["ci_high"] < 0
    (row,) = decide(claim, results(spread(means)))
    assert row["verdict"] == UNDECIDED and row["reason"].startswith("slices lie on both sides of 0")


def test_a_run_that_diverged_decides_nothing_and_is_not_left_out():
    lost = results(spread((-5.0, -4.0, -6.0, -5.5, -4.5)), lost=(2, 1))
    with pytest.raises(Absent, match="diverged in 1 of 2 seeds"):
        IRT.by_slice(lost)
    assert IRT.shown(lost) == {}
    (row,) = decide(claim_of("exp03"), lost)
    assert row["n"] == 0 and "diverged" in row["reason"]


def test_seeds_alone_leave_a_narrower_interval_where_slices_differ():
    found = IRT.by_slice(results(spread((-12.0, -2.0, -7.0, -10.0, -4.0))))
    seeds = slices.over_seeds(found)
    texts = percent_interval([slices.mean(values) for values in found.values()])
    assert seeds.n == 10 and seeds.mean == pytest.approx(texts.mean)
    assert seeds.high - seeds.low < (texts.high - texts.low) / 5
    between, inside = slices.spreads(found)
    assert between == pytest.approx(4.4, abs=0.3) and inside == pytest.approx(0.3, abs=0.05)
    alone = {number: values[:1] for number, values in found.items()}
    assert np.isnan(slices.spreads(alone)).all()
    assert slices.over_seeds(alone).low == slices.over_seeds(alone).high


def test_the_interval_of_seeds_is_students_t_of_the_pooled_variance():
    logs = np.array([[0.01, 0.03, 0.02], [0.11, 0.13, 0.15]])
    found = {i: 100 * np.expm1(values) for i, values in enumerate(logs, 1)}
    pooled = (((logs - logs.mean(1, keepdims=True)) ** 2).sum() / 4) ** 0.5
    width = 2.7764 * pooled / 6**0.5  # t of 4 degrees of freedom, six runs
    seeds = slices.over_seeds(found)
    ends = [np.log1p(x / 100) for x in (seeds.mean, seeds.low, seeds.high)]
    assert ends == pytest.approx([logs.mean(), logs.mean() - width, logs.mean() + width], rel=1e-4)


def test_table_and_figure_say_over_what_their_intervals_are():
    given = results(spread((-5.0, -4.0, -6.0, -5.5, 0.5)))
    table = slices.table(given, tuple(COMPARED.values()))
    assert table.index.tolist() == [IRT.words], "comparisons without runs are left out"
    row = table.iloc[0]
    assert (row["slices below/above 0"], row["runs"]) == ("4/1", 10)
    assert (
        row["report's"] == "-5.3 %"
        and "Student's t over the slices' means" in table.attrs["caption"]
    )
    figure = E23.figures["slices"](given)
    said = figure.get_suptitle().replace("\u00a0", " ")
    assert said == "Comparisons in which all slices agree in sign: 0 of 1 on wikipedia"
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == [*(f"slice {i}" for i in range(1, 6)), "over slices", "over seeds"]
    plt.close("all")


def test_texts_are_drawn_apart():
    one = results(spread((-5.0, -4.0, -6.0, -5.5, 0.5)))
    other = results(spread((5.0, 4.0, 6.0, 5.5, 4.5)))
    frames = {
        name: pd.concat([frame, other.frames[name].assign(corpus="repeated")])
        for name, frame in one.frames.items()
    }
    figure = E23.figures["slices"](replace(one, frames=frames))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"{IRT.words}\nwikipedia", f"{IRT.words}\nrepeated"]
    means = [sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|")
             for axes in figure.axes]  # fmt: skip
    assert all(x < 0 for x in means[0]) and all(x > 0 for x in means[1])
    said = figure.get_suptitle().replace("\u00a0", " ")
    assert said.endswith("agree in sign: 0 of 1 on wikipedia, 1 of 1 on repeated")
    plt.close("all")


def test_claims_ask_what_a_report_claims_once_more():
    assert len(E23.claims) == len(HEADLINES) == 6
    for claim, parent in zip(E23.claims, CLAIMED.values(), strict=True):
        assert (claim.expect, claim.unit) == (parent.expect, parent.unit)
        assert parent.kind == "reported" and claim.unanimous and claim.over == "slices"
