"""Experiment 22: the search that all methods share, and that its choices follow from its table."""

import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from lib.character import choices, tuned
from lib.character.choices import Choice
from lib.character.experiments import e22_tuned_baselines as e22
from lib.character.experiments import tuning
from lib.character.experiments.e01_hrm_against_lct import E01
from lib.character.experiments.e02_infini_hrm import E02
from lib.character.experiments.e03_iterative_refinement import E03
from lib.character.experiments.e04_layerwise_progressive import E04
from lib.character.experiments.e10_confidence_routing import E10
from lib.character.experiments.e11_lpt_routing import E11
from lib.character.experiments.e22_tuned_baselines import (
    COMPARED,
    E22,
    LARGER,
    METHODS,
    PAIRS,
    SIZES,
    VARIANTS,
    WIDTH,
)
from lib.character.models.hrm import HRMConfig
from lib.character.models.lct import LCTConfig
from lib.character.two_phase_run import TwoPhaseRun, run_two_phases
from lib.results.store import Absent, Results
from lib.runs.task import CPU, run_one
from lib.text.corpus import load_corpus

TINY = ["train_chars", "1100", "valid_chars", "1100", "test_chars", "1100", "largest_chars", "1100"]


@pytest.fixture
def no_choices(tmp_path, monkeypatch):
    """Nothing is tuned yet, and what is written goes elsewhere."""
    monkeypatch.setattr(choices, "TABLE", tmp_path / "tuning.csv")
    monkeypatch.setattr(choices, "PATH", tmp_path / "choices.csv")
    choices.known.cache_clear()
    yield tmp_path
    choices.known.cache_clear()


def tiny_search(method: str) -> list[str]:
    """The command line that tunes a method on very little text."""
    pairs = [TINY[i : i + 2] for i in range(0, len(TINY), 2)]
    pairs += [("corpus", "python-docs"), ("tuned_epochs", "1"), ("workers", "1")]
    return ["--only", method, *(part for pair in pairs for part in ("-p", *pair))]


def losses_of(score, method: str = "irt_1", chars: int = 20_000) -> pd.DataFrame:
    """A table of tuning of every point of the whole grid; ``score`` gives a choice's loss."""
    rows, seen = [], set()
    for rate in choices.GRID["learning_rate"]:
        for decay in choices.GRID["weight_decay"]:
            for dropout in choices.GRID["dropout"]:
                for average in choices.AVERAGES:
                    point = Choice(rate, decay, dropout, average)
                    if point not in seen:
                        seen.add(point)
                        rows += [(point, seed) for seed in choices.SEEDS]
    return pd.DataFrame(
        {
            "corpus": "wikipedia", "train_chars": chars, "method": method, "seed": seed,
            **{name: getattr(point, name) for name in choices.NUMBERS},
            "valid_loss": score(point) + (0.1 if seed % 2 else -0.1), "stage": "", "seconds": 1.0,
        }
        for point, seed in rows
    )  # fmt: skip


def test_the_committed_choices_follow_from_the_committed_table():
    table = choices.kept()
    followed = choices.from_table(table)
    pd.testing.assert_frame_equal(
        followed.reset_index(drop=True), choices.known(), check_dtype=False, rtol=1e-6
    )
    assert set(followed["method"]) <= set(METHODS)
    if len(table):
        assert set(table["seed"]) == set(choices.SEEDS)
        assert not table.duplicated([*choices.KEYS, *choices.NUMBERS, "seed"]).any()


def test_the_search_takes_one_number_after_the_other():
    def score(choice: Choice) -> float:
        return (
            abs(math.log(choice.learning_rate / 3e-3))
            + abs(choice.weight_decay - 0.5)
            + abs(choice.dropout - 0.1)
            + (0.01 if choice.average == 0 else 0)
        )

    path, ended = choices.follow(losses_of(score))
    assert ended and path == [
        Choice(),
        Choice(3e-3, average=0.98),
        Choice(3e-3, 0.5, average=0.98),
        Choice(3e-3, 0.5, 0.1, 0.98),
    ]
    (row,) = choices.from_table(losses_of(score)).to_dict("records")
    assert row["dropout"] == 0.1 and row["valid_loss"] == pytest.approx(0.0, abs=1e-9)


def test_an_unfinished_stage_chooses_nothing_and_a_diverged_run_loses():
    table = losses_of(lambda choice: choice.learning_rate)
    at = (table["learning_rate"] == 3e-4) & (table["seed"] == choices.SEEDS[0])
    lost = table.assign(valid_loss=table["valid_loss"].where(~at))
    path, ended = choices.follow(lost)
    assert ended and path[1].learning_rate == 1e-3, "the best rate has a run without a loss"
    path, ended = choices.follow(table[~at])
    assert not ended and path == [Choice()]
    assert choices.from_table(table[~at]).empty
    last = (table["dropout"] == 0.2) & (table["seed"] == choices.SEEDS[1])
    path, ended = choices.follow(table[~last])
    assert not ended and len(path) == 3


def test_the_grid_is_the_same_for_all_and_holds_the_reports_numbers():
    assert choices.GRID == {
        "learning_rate": (3e-4, 1e-3, 3e-3, 1e-2),
        "weight_decay": (0.01, 0.1, 0.5, 1.0, 3.0),
        "dropout": (0.0, 0.1, 0.2),
    }
    assert Choice() in choices.candidates("learning_rate", Choice())
    points, fixed = set(), Choice()
    for stage in choices.GRID:
        points |= set(choices.candidates(stage, fixed))
    assert tuning.RUNS == len(points) * len(choices.SEEDS) == 40


def test_seeds_that_chose_are_never_compared():
    most = E22.parameters.model_fields["seeds"].metadata
    highest = next(limit.le for limit in most if hasattr(limit, "le"))
    assert min(choices.SEEDS) >= highest, "rows have seeds 0 to highest - 1"


def test_the_reports_numbers_are_a_choice_that_changes_nothing(corpus):
    parameters = E22.parameters()
    for method in METHODS.values():
        config = method.config(parameters, corpus)
        assert Choice().apply(config) == config
        other = Choice(3e-3, 0.5, 0.1, 0.98).apply(config)
        if isinstance(config, TwoPhaseRun):
            (config, shaping), (other, shaped) = (
                (both.head, both.shaping) for both in (config, other)
            )
            assert shaped == replace(shaping, learning_rate=3e-3, weight_decay=0.5)
        assert (other.model.dropout, other.training.average) == (0.1, 0.98)
        assert replace(other, model=config.model, training=config.training) == config


def test_untuned_rows_are_the_runs_of_their_experiments(corpus):
    parameters = E22.parameters(seeds=2)
    for name, origin, variant in (
        ("hrm_original", E01, "hrm"),
        ("oacd_2", E01, "oacd_2"),
        ("infini_carry", E02, "infini_carry"),
        ("irt_1", E03, "irt"),
        ("looped_1", E03, "looped_batch_8"),
        ("full", E10, "full"),
        ("aware_routed", E11, "aware"),
    ):
        own = origin.parameters() if origin is E02 else parameters.of(origin.parameters)
        theirs = origin.variants[variant].config(own, corpus)  # in Experiment 2, its own patience
        ours = list(VARIANTS[name].runs(parameters, corpus))
        assert [run.config for run in ours] == [theirs, theirs]
        assert {run.function for run in ours} == {type(origin.variants[variant]).function}
        assert [run.seed for run in ours] == [0, 1]
    assert METHODS["full"].config(parameters, corpus).whole_batches


def test_tuned_rows_wait_alike(corpus):
    parameters = E22.parameters()
    for name in METHODS:
        config = tuning.config_of(name, parameters, corpus)
        training = (config.head if isinstance(config, TwoPhaseRun) else config).training
        assert (training.epochs, training.patience) == (90, 5), name
        assert not config.corpus.test


@pytest.mark.parametrize("model", [HRMConfig(), HRMConfig(update="original"), LCTConfig(2)])
def test_dropout_acts_in_training_alone(model):
    symbols = torch.arange(12).view(2, 6)
    plain, dropping = (replace(model, dropout=rate) for rate in (0.0, 0.5))
    networks = []
    for config in (plain, dropping):
        torch.manual_seed(0)
        networks.append(config.build(20))

    def read(network):
        torch.manual_seed(1)
        return network.segment(symbols, network.begin(symbols))[0]

    assert not torch.equal(read(networks[1]), read(networks[0]))
    assert torch.equal(read(networks[1].eval()), read(networks[0].eval()))
    assert torch.equal(read(networks[0].train()), read(networks[0].eval()))


def test_two_phases_are_tuned_like_one(no_choices, kept, capsys):
    asked = tiny_search("oacd_1")
    tuning.main([*asked, "--plan"])
    assert "oacd_1: 40 runs, at most" in capsys.readouterr().out
    parameters = E22.parameters.at("tiny").changed(corpus="python-docs", tuned_epochs=1)
    config = tuning.config_of("oacd_1", parameters, parameters.load())
    config = replace(config, shaping=replace(config.shaping, epochs=1))
    (task, _), *others = tuning.stage_tasks("oacd_1", config, "learning_rate", Choice())
    assert len(others) == 15 and task.function is run_two_phases
    row = run_one(task, kept, CPU)["row"]
    assert math.isfinite(row["val_ppl"]) and row["test_ppl"] is None


def test_a_text_takes_the_choices_nearest_to_it(no_choices):
    rows = [
        ("wikipedia", 20_000, 1e-3), ("wikipedia", 200_000, 3e-3), ("wikitext-2", 50_000, 3e-4)
    ]  # fmt: skip
    pd.DataFrame(
        [
            {
                "corpus": c,
                "train_chars": n,
                "method": "irt_1",
                **vars(Choice(rate)),
                "valid_loss": 2,
            }
            for c, n, rate in rows
        ]
    ).to_csv(choices.PATH, index=False)
    choices.known.cache_clear()
    for corpus, chars, rate in (
        ("wikipedia", 20_000, 1e-3),
        ("wikipedia", 50_000, 1e-3),
        ("wikipedia", 2_000_000, 3e-3),
        ("wikitext-2", 2_000_000, 3e-4),
        ("embedded", 1_000, 1e-3),
    ):
        assert choices.chosen("irt_1", corpus, chars) == Choice(rate), (corpus, chars)
    assert choices.chosen("standard_1", "wikipedia", 20_000) is None


def test_a_method_that_is_tuned_nowhere_has_no_tuned_row(no_choices, corpus, capsys):
    parameters = E22.parameters.at("tiny").changed(corpus="python-docs")
    assert list(VARIANTS["irt_1_tuned"].runs(parameters, corpus)) == []
    assert len(list(VARIANTS["irt_1"].runs(parameters, corpus))) == 1
    parameters.texts()
    assert "not tuned yet, so without a tuned row: standard_1, irt_1" in capsys.readouterr().out


def test_larger_texts_have_fewer_epochs_and_come_last(no_choices, capsys):
    choices.write(losses_of(lambda choice: choice.learning_rate))
    parameters = E22.parameters(corpus="python-docs", seeds=1, larger_seeds=2)
    (text,) = parameters.texts()
    runs = {size: list(VARIANTS[f"irt_1_tuned_{size}"].runs(parameters, text)) for size in
            LARGER.values()}  # fmt: skip
    assert [len(found) for found in runs.values()] == [2, 2, 0]
    assert "left out are 2,000,000 characters" in capsys.readouterr().out
    assert [len(found[0].config.corpus.train) for found in runs.values() if found] == [
        50_000,
        200_000,
    ]
    assert runs["200k"][0].config.training.epochs == 50 and parameters.passes(2_000_000) == 5
    (tuned_row,) = VARIANTS["irt_1_tuned"].runs(parameters, text)
    (plain,) = VARIANTS["irt_1"].runs(parameters, text)
    assert (tuned_row.config.training.epochs, plain.config.training.epochs) == (90, 30)
    assert runs["200k"][0].config.training.learning_rate == 3e-4
    choices.write(losses_of(lambda choice: choice.learning_rate, "half"))
    wide = list(VARIANTS["half_tuned_wide"].runs(parameters, text))
    assert [run.config.model.width for run in wide] == [WIDTH] * 2
    assert len(wide[0].config.corpus.train) == 200_000
    less = parameters.changed(largest_chars=50_000)
    assert list(VARIANTS["irt_1_tuned_200k"].runs(less, text)) == []
    turns = [VARIANTS[name].turn for name in ("irt_1", "lpt_4_tuned", "routed", "irt_1_tuned_50k")]
    assert turns == sorted(set(turns))


def test_tuning_sees_no_test_text_and_goes_on_where_it_stopped(no_choices, kept, capsys):
    asked = tiny_search("irt_1")
    tuning.main([*asked, "--plan"])
    said = capsys.readouterr().out
    assert "irt_1: 40 runs, at most" in said and not choices.TABLE.exists()
    tuning.main(asked)
    assert "[16/16]" in capsys.readouterr().out
    table = choices.kept()
    assert len(table) == 40 and "test_ppl" not in table
    assert table["stage"].value_counts().to_dict() == {
        "learning_rate": 16, "weight_decay": 16, "dropout": 8
    }  # fmt: skip
    followed = choices.known()
    assert followed["method"].tolist() == ["irt_1"]
    tuning.main(asked)
    assert "[1/" not in capsys.readouterr().out, "nothing is trained twice"
    pd.testing.assert_frame_equal(choices.kept(), table)
    text = load_corpus("python-docs", "", 1_100, 1_100, 1_100)
    assert tuning.config_of("irt_1", E22.parameters(), text).corpus.test == ""
    (shown,) = tuned.grid_tables(METHODS, "python-docs", 1_100)
    assert len(shown) == 24 and shown["IRT, 1 layer"].str.endswith("*").sum() == 3
    assert tuned.choices_table(METHODS).index.tolist() == ["IRT, 1 layer"]
    assert tuned.edges(vars(Choice(1e-2, 0.1, 0.0))) == ["learning rate"]
    assert tuned.edges(vars(Choice(1e-3, 3.0, 0.2))) == ["weight decay", "dropout"]


def test_the_command_refuses_a_method_or_a_value_in_a_sentence():
    with pytest.raises(SystemExit, match="no method gpt; allowed: standard_1, irt_1"):
        tuning.main(["--only", "gpt"])
    with pytest.raises(SystemExit, match="unknown parameter 'chars'"):
        tuning.main(["-p", "chars", "5"])


def test_a_run_that_fails_has_no_loss(corpus):
    rows = tuning.rows_of("irt_1", corpus, "dropout", [(Choice(), 1_000, None)])
    assert rows[0]["valid_loss"] is None and rows[0]["run_id"] == ""
    table = tuning.merged(pd.DataFrame(), rows)
    assert len(tuning.merged(table, rows)) == 1
    good = [{**row, "valid_loss": 2.0} for row in rows]
    for first, then in ((rows, good), (good, rows)):  # a failure can be mended, and mends nothing
        again = tuning.merged(tuning.merged(pd.DataFrame(), first), then)
        assert again["valid_loss"].tolist() == [2.0]


def test_losses_on_another_text_of_the_same_name_give_way(corpus, capsys):
    losses = [(Choice(), 1_000, None)]
    other = replace(corpus, valid=corpus.valid[::-1])
    assert other.sha256 != corpus.sha256 and other.name == corpus.name
    table = pd.DataFrame(tuning.rows_of("irt_1", corpus, "dropout", losses))
    table = tuning.merged(table, tuning.rows_of("standard_1", corpus, "dropout", losses))
    assert len(table) == 2 and capsys.readouterr().out == ""
    table = tuning.merged(table, tuning.rows_of("standard_1", other, "dropout", losses))
    assert table["corpus_sha256"].tolist() == [other.sha256]
    assert capsys.readouterr().out == "2 rows of another text of this name give way\n"


def results() -> Results:
    """Three seeds of the one-layer trio, tuned and not, and of one pair on a larger text."""
    rows = []
    for variant, ppl in (
        ("standard_1", 14.0), ("irt_1", 13.0), ("looped_1", 13.1), ("standard_1_tuned", 12.0),
        ("irt_1_tuned", 12.0), ("looped_1_tuned", 11.9), ("standard_1_tuned_50k", 9.0),
        ("irt_1_tuned_50k", 8.8),
    ):  # fmt: skip
        chars = 50_000 if variant.endswith("50k") else 20_000
        for seed in range(3):
            rows.append(
                {
                    "variant": variant, "label": VARIANTS[variant].label, "corpus": "wikipedia",
                    "corpus_sha256": "a" * 64, "size": "full", "device": "cpu", "seed": seed,
                    "test_ppl": ppl + 0.01 * seed * (1 + ("irt" in variant)), "params": 5,
                    "status": "ok", "train_chars": chars, "run_id": f"{variant}{seed}",
                }
            )  # fmt: skip
    return Results("22_tuned_baselines", {"": pd.DataFrame(rows)})


def test_tables_and_figures_show_what_is_there():
    given = results()
    table = tuned.compared(given, PAIRS)
    assert len(table) == 2 and table["report's"].tolist() == ["-5.3 %", ""]
    assert table["n"].tolist() == ["3/3", "3/3"]
    sized = tuned.by_size(given, PAIRS, SIZES)
    assert sized.columns.tolist() == ["usual text", "50,000 characters"]
    assert sized["50,000 characters"].tolist()[0].startswith("-2.") and len(sized) == 2
    pairs, gains, sizes = (E22.figures[name](given) for name in ("pairs", "gains", "sizes"))
    assert said(pairs).endswith("as reported: 0 kept and 1 reversed of 2 on wikipedia")
    assert said(gains) == "Methods that tuning alone improves: 3 of 3 on wikipedia"
    assert said(sizes).endswith("tuned baseline: 1 of 1 at 50,000 characters on wikipedia")
    plt.close("all")


def said(figure) -> str:
    """The heading of a figure with plain blanks."""
    return figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ")


def test_figures_have_a_panel_a_text():
    given = results()
    other = given().assign(corpus="wikitext-2", corpus_sha256="b" * 64)
    tuned_ones = other["variant"].str.endswith("_tuned")
    other.loc[tuned_ones, "test_ppl"] *= 1.5  # there tuning makes every method worse
    other = other[other["train_chars"] == 20_000]  # and no larger text was run
    both = replace(given, frames={"": pd.concat([given(), other], ignore_index=True)})
    pairs, gains, sizes = (E22.figures[name](both) for name in ("pairs", "gains", "sizes"))
    titles = [panel.get_title() for panel in pairs.axes]
    assert titles == ["wikipedia, 3 seeds", "wikitext-2, 3 seeds"]
    told = "Methods that tuning alone improves: 3 of 3 on wikipedia, 0 of 3 on wikitext-2"
    assert said(gains) == told and len(gains.axes) == 2
    assert [panel.get_title() for panel in sizes.axes] == ["wikipedia"]
    flat = other.assign(test_ppl=12.0 + 0.01 * other["seed"])  # a text without any difference
    both = replace(given, frames={"": pd.concat([given(), flat], ignore_index=True)})
    pairs = E22.figures["pairs"](both)
    assert said(pairs).endswith("0 kept and 1 reversed of 2 on wikipedia") and len(pairs.axes) == 2
    lone = other[other["variant"] == "standard_1"]  # a text on which nothing is compared
    both = replace(given, frames={"": pd.concat([given(), lone], ignore_index=True)})
    titles = [panel.get_title() for panel in E22.figures["pairs"](both).axes]
    assert titles == ["wikipedia, 3 seeds"]
    one, two = (np.concatenate([d.get_offsets() for d in p.collections]) for p in gains.axes)
    assert one[:, 0].max() < 15 < two[:, 0].max()  # each text's own values
    plt.close("all")


def test_a_gap_is_measured_on_the_seeds_that_all_have():
    given = results()
    frame = given()
    frame = frame[(frame["variant"] != "irt_1_tuned") | (frame["seed"] < 2)]
    values = tuned.gap("irt_1", "standard_1")(replace(given, frames={"": frame}))
    assert len(values) == 2 and values[0] == pytest.approx(0 - 100 * (13 / 14 - 1))
    with pytest.raises(Absent, match="'lpt_4_tuned' has no test_ppl"):
        tuned.gap("lpt_4", "standard_4")(given)


def test_comparisons_check_reported_claims_and_hold_every_method():
    kinds = {c.id: c.kind for entry in (E01, E02, E03, E04, E10, E11) for c in entry.claims}
    assert {kinds[checked] for *_, checked, _ in COMPARED.values()} == {"reported"}
    assert {claim.kind for claim in E22.claims} == {"own"}
    assert {checked for *_, checked, _ in COMPARED.values()} <= set(e22.CHECKED)
    assert {name for pair in PAIRS for name in pair} == set(METHODS)
    assert all(np.isfinite(value) for value in PAIRS.values() if value is not None)


def test_a_tuned_comparison_says_what_else_differs():
    """A memory that reads later symbols, unequal parameters or updates: as the claim it checks."""
    for claim in e22.CLAIMS:
        treatment, baseline, checked, _ = e22.COMPARED.get(claim.id.split("-", 1)[1], [None] * 4)
        if treatment and baseline not in e22.OTHERS:
            assert claim.control.endswith(e22.CHECKED[checked].control), claim.id
        if treatment and "infini" in treatment:
            assert "later symbols" in claim.control, claim.id
