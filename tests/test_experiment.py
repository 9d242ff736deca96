"""Experiments as data: run whole, extended by a reader, and honest about runs that failed."""

import dataclasses
import re
import shutil

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from small_experiment import SmallVariant, experiment
from small_runs import later

from lib import checks
from lib.character.experiments.e00_start_here import E00
from lib.character.experiments.e03_iterative_refinement import E03
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Segments
from lib.character.variants import Variant
from lib.experiment import Experiment
from lib.figures import gallery
from lib.parameters import ParameterError
from lib.results import scoreboard, store, tables
from lib.results.claims import NOT_MEASURABLE, change
from lib.results.forecast import forecast
from lib.results.schema import DIVERGED, THEIRS
from lib.runs import places
from lib.runs.places import ROOT
from lib.runs.sweep import SweepFailed, sweep
from lib.training.loop import Training

matplotlib.use("Agg")


def fresh(entry: Experiment, *variants: str) -> Experiment:
    """A copy whose variants may be changed, with some of them only."""
    names = variants or entry.variants
    return dataclasses.replace(entry, variants={name: entry.variants[name] for name in names})


def tiny(entry: Experiment, **given):
    own = {"corpus": "embedded", "train_chars": 1_100, "valid_chars": 600, "test_chars": 600}
    return entry.parameters.at("tiny").changed(**{**own, **given})


def texts_of(figure) -> str:
    """Every word on a figure."""
    found = [t.get_text() for axes in figure.axes for t in (axes.title, *axes.texts)]
    for axes in figure.axes:
        found += [label.get_text() for label in (*axes.get_yticklabels(), *axes.get_xticklabels())]
    found += [t.get_text() for legend in figure.legends for t in legend.get_texts()]
    return " | ".join(found)


def test_an_experiment_runs_whole_with_tables_figures_and_verdicts(kept, capsys):
    e = fresh(E00)
    results = e.run(tiny(e, seeds=2, epochs=2))
    said = capsys.readouterr().out
    assert "4 runs of 3 variants on 1 text, device cpu" in said and "all finished" in said
    assert results().groupby("variant").size().to_dict() == {
        "standard": 2, "unigram": 1, "bigram": 1
    }  # fmt: skip
    assert set(results("curve").groupby(["variant", "seed"]).size()) == {2}
    shown = tables.against_reported(results, e)
    assert shown.index.tolist() == ["Standard, 1 layer", "unigram", "bigram"]
    assert "embedded (sha256" in shown.attrs["caption"] and shown["n"].tolist() == [2, 1, 1]
    assert "mean over n random seeds" in shown.attrs["caption"]
    uncounted = tables.captioned(shown.drop(columns="n"), results())
    assert "mean over 2 random seeds [" in uncounted.attrs["caption"], "counts have no seed"
    other = results().assign(variant="other", label="Other").query("seed == 0").head(1)
    told = tables.captioned(shown.drop(columns="n"), pd.concat([results(), other]))
    assert "mean over 2 random seeds (1: Other) [" in told.attrs["caption"]
    gallery.show(e, "curve", results)
    plt.close("all")
    assert (results.folder / "00_start_here_curve.png").stat().st_size > 5_000
    again = e.run(tiny(e, seeds=2, epochs=2))
    pd.testing.assert_frame_equal(again(), results())


def test_the_time_is_told_before_anything_is_trained(kept, capsys, monkeypatch):
    e = experiment()
    parameters = e.parameters(seeds=2)
    e.run(parameters)
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "4 to train; the time left is told as runs end"
    rows = e.run(parameters)()
    assert capsys.readouterr().out.splitlines()[1] == "nothing is left to train"
    for task in e.tasks(parameters, e.texts(None)):
        if task.side:
            shutil.rmtree(places.runs_folder() / task.key())
    e.run(parameters)
    assert capsys.readouterr().out.splitlines()[1] == (
        "2 to run beside finished ones; the time left is told as runs end"
    )
    rows = rows.assign(seconds=90.0, size=parameters.size)
    monkeypatch.setattr("lib.results.store.has_committed", lambda slug: True)
    monkeypatch.setattr("lib.results.store.committed", lambda slug: lambda: rows)
    more = e.parameters(seeds=3, workers=2)
    monkeypatch.setattr(type(more), "size", parameters.size)
    e.run(more)
    assert capsys.readouterr().out.splitlines()[1] == (
        "2 to train; on a core of ours they took 3 min, with 2 at once about 90 s"
    )


def test_the_time_told_counts_runs_of_other_notebooks_that_are_not_there(kept, monkeypatch):
    e = experiment(base=SmallVariant(label="Base", function=later))
    parameters = e.parameters(seeds=2)
    tasks = e.tasks(parameters, e.texts(None))
    starts = {key: 3600.0 for task in tasks for key in task.before(places.runs_folder())}
    rows = pd.DataFrame(
        {"variant": "base", "size": parameters.size, "seconds": [60.0, 60.0, 900.0]}
    )

    def told() -> str:
        return forecast(e.slug, tasks, {}, parameters, "cpu")

    with monkeypatch.context() as patch:
        patch.setattr("lib.results.store.has_committed", lambda slug: True)
        patch.setattr("lib.results.store.committed", lambda slug: lambda: rows)
        assert (
            told() == "2 to train, after 2 that they start from; the time left is told as runs end"
        )
        patch.setattr("lib.results.store.seconds", lambda keys: {k: starts[k] for k in keys})
        assert told() == (
            "2 to train, after 2 that they start from; on a core of ours they took 2.0 h, "
            "with 1 at once about 2.0 h"
        )
    sweep(tasks)
    assert told() == "nothing is left to train"
    for task in tasks:
        shutil.rmtree(places.runs_folder() / task.key())
    assert told() == "2 to train; the time left is told as runs end", (
        "what they start from is there"
    )
    kept_file = places.runs_folder() / next(iter(starts)) / "best.safetensors"
    kept_file.unlink()
    assert told().startswith("2 to train, after 1 that they start from")


def test_committed_rows_tell_what_runs_took():
    some = pd.read_csv(ROOT / "results" / "20_adaptive_or_fixed_depth.csv").iloc[:3]
    assert store.seconds(list(some["run_id"])) == some.set_index("run_id")["seconds"].to_dict()
    assert store.seconds([]) == {} and store.seconds(["0" * 12]) == {}


def test_seeds_are_outermost_so_that_an_interrupted_sweep_has_whole_comparisons():
    e = experiment()
    tasks = e.tasks(e.parameters(), e.texts(None))
    assert [task.seed for task in tasks] == sorted(task.seed for task in tasks)
    assert [t.labels["variant"] for t in tasks][:3] == ["base", "worse", "worse"]


def test_a_readers_variant_is_trained_with_the_same_seeds_and_appears_marked(kept):
    e = fresh(E03, "standard", "irt")
    parameters = tiny(e, seeds=2, epochs=1)
    before = e.run(parameters)
    e.variants["mine"] = Variant(TransformerConfig(initial_state=True), Segments(3), "IRT thrice")
    results = e.run(parameters)
    mine = results()[results()["variant"] == "mine"]
    assert mine["seed"].tolist() == [0, 1] and set(mine["label"]) == {f"IRT thrice {THEIRS}"}
    assert mine["updates"].iloc[0] == 3 * before().iloc[0]["updates"]
    others = results()[results()["variant"] != "mine"].reset_index(drop=True)
    pd.testing.assert_frame_equal(others[before().columns], before(), check_dtype=False)
    assert results.folder != before.folder, "the tables without it stay"
    shown = tables.against_reported(results, e)
    assert f"IRT thrice {THEIRS}" in shown.index and shown.loc[f"IRT thrice {THEIRS}", "n"] == 2
    for what in e.figures:
        assert f"IRT thrice {THEIRS}" in texts_of(e.figures[what](results)), what
        assert THEIRS not in texts_of(e.figures[what](before)), what
    plt.close("all")
    assert "mine" not in E03.variants, "the repository's own experiment is as it was"
    verdicts = scoreboard.verdicts(e.claims, results, least=2)
    assert len(verdicts) == len(e.claims)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"irt": Variant(TransformerConfig(), Segments(3))}, "'irt'. is the repository's; allowed"),
        ({"x": TransformerConfig()}, "'x'. is a TransformerConfig; allowed: a Variant"),
        ({" ": Variant(TransformerConfig(), Segments(3))}, "' '. has a blank id; allowed: a word"),
        (
            {"x": Variant(TransformerConfig(), Segments(2), "x", {}, {"variant": "irt"})},
            "has the factor 'variant', a column of every table",
        ),
        (
            {n: Variant(TransformerConfig(), Segments(k), "mine") for n, k in (("a", 2), ("b", 3))},
            "'b'. is called 'mine', as is 'a'",
        ),
    ],
)
def test_a_readers_variant_does_not_pass_for_another(given, sentence):
    e = fresh(E03, "standard", "irt")
    e.variants |= given
    with pytest.raises(ParameterError, match=sentence):
        e.tasks(tiny(e), [])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Segments(0), "segments is 0; allowed"),
        (lambda: Segments("3"), "segments is '3'; allowed"),
        (lambda: TransformerConfig(layers=-1), "layers is -1; allowed"),
        (lambda: TransformerConfig(width=64.0), "width is 64.0; allowed"),
        (lambda: Training(learning_rate="1e-3"), "learning_rate is '1e-3'; allowed: a number"),
    ],
)
def test_an_impossible_number_of_a_variant_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_idea_that_notebook_00_shows_can_be_trained():
    book = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    (cell,) = [cell for cell in book.cells if "An idea of your own" in cell.source]
    (code,) = re.findall(r"```python\n(.*?)```", cell.source, re.S)
    e = fresh(E03, "standard")
    exec(code, {"experiment": e})
    parameters = tiny(e, seeds=2)
    (text,) = e.texts(parameters)
    assert [t.seed for t in e.tasks(parameters, [text], ["irt3"])] == [0, 1]
    line = (
        'experiment.variants["irt3"] = Variant(TransformerConfig(initial_state=True), Segments(3))'
    )
    for page in ("README.md", "README.ja.md"):
        assert line in code and line in (ROOT / page).read_text(encoding="utf-8")


def test_a_learning_rate_of_one_is_shown_as_diverged_or_fails_and_decides_nothing(kept, capsys):
    e = fresh(E03, "standard", "irt", "unigram")
    parameters = tiny(e, seeds=2, epochs=3, learning_rate=1.0)
    try:
        results = e.run(parameters)
    except SweepFailed as failed:
        lines = str(failed).splitlines()[1:]
        assert lines and all("loss nan in epoch" in line or "loss inf in" in line for line in lines)
        (about,) = store.all_sets()
        results = store.load_set(about["folder"])
    trained = results()[results()["params"].notna()]
    assert (trained["status"] == DIVERGED).all(), "worse than twice blind guessing"
    assert tables.seeds_interval(results(), "standard", "test_ppl") is None
    shown = tables.against_reported(results, e)
    assert shown.loc["Standard", "n"] == 0 and shown.loc["unigram", "test PPL"] != ""
    assert shown["Δ against Standard"].str.contains("diverged").sum() == trained["label"].nunique()
    beside = tables.beside_committed(results, store.committed(e.slug))
    assert beside.loc["Standard", "your n"] == 0 and beside.loc["Standard", "yours"] == ""
    checks.finite(results())
    assert f"{len(trained)} runs diverged" in capsys.readouterr().out
    own = [c for c in e.claims if c.id == "exp03-irt-beats-standard"]
    frame = scoreboard.score([(claim, results) for claim in own], least=2)
    assert frame["verdict"].tolist() == [NOT_MEASURABLE]


def test_diverged_rows_are_counted_beside_the_others_and_not_averaged(kept, capsys):
    e = experiment(
        base=SmallVariant(1.0, "Base"),
        sound=SmallVariant(2.0, "Sound"),
        lost=SmallVariant(3.0, "Lost", "lost"),
    )
    results = e.run(e.parameters())
    said = capsys.readouterr().out
    assert "lost, seed 0: val_ppl 1e+09, " in said
    assert said.endswith("diverged, and left out of means and claims: Lost (3)\n")
    shown = tables.against_reported(results, e)
    assert shown["n"].to_dict() == {"Base": 3, "Sound": 3, "Lost": 0}
    assert (
        shown.loc["Lost", "Δ against Base"] == "(3 diverged)"
        and shown.loc["Lost"]["test PPL"] == ""
    )
    frame = scoreboard.score([(c, results) for c in (
        dataclasses.replace(E03.claims[0], measure=change("lost", "base")),
        dataclasses.replace(E03.claims[0], measure=change("sound", "base")),
    )], least=2)  # fmt: skip
    assert frame["verdict"].tolist() == [NOT_MEASURABLE, "reversed"]
    mean = tables.means(store.load_set(results.folder)()).loc["embedded"]
    assert mean["n"].tolist() == [3, 3, 3] and mean["diverged"].tolist() == [0, 0, 3]
    assert pd.isna(mean.loc["lost", "test_ppl"]) and mean.loc["sound", "test_ppl"] < 4
    assert "diverged in 3 of 3 seeds" in frame["reason"].iloc[0]


def test_tables_grow_while_runs_end(kept):
    e = experiment()
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.runs.sweep.TOLD_SHARE", 1e9)
        e.run(e.parameters(seeds=2), published=lambda results: seen.append(results.outstanding))
    assert seen == sorted(seen, reverse=True) and seen[-1] == 0 and len(seen) == 6


def test_a_run_here_stands_beside_the_committed_one(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "TABLES", tmp_path / "results")
    e = experiment()
    full = e.run(e.parameters())
    store.publish(full)
    e.variants["mine"] = SmallVariant(3.0, "Mine")
    yours = e.run(e.parameters(seeds=2))
    shown = tables.beside_committed(yours, store.committed(e.slug))
    assert shown["your n"].tolist() == [2, 2, 2] and shown["our n"].tolist() == [3, 3, 0]
    assert set(shown["our text and size"]) == {"embedded, full"}


def test_claims_that_share_an_id_are_refused():
    with pytest.raises(ValueError, match="claims share an id: exp03-irt-beats-standard"):
        dataclasses.replace(E03, claims=(E03.claims[0], E03.claims[0]))
