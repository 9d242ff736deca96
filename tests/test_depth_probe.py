"""Train, keep, probe and time a tiny network, end to end; and the measures that claims use."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from lib.character.analysis.depth_probe import Probe, splits
from lib.character.analysis.exit_speed import Speed
from lib.character.character_run import CharacterRun
from lib.character.experiments.probed import if_enough_exit
from lib.character.experiments.two_corpora import reported_tables, spread
from lib.experiments import (
    exp08_layer_contribution,
    exp09_early_exit,
    exp10_confidence_routing,
    exp11_lpt_routing,
)
from lib.training.fit import Training

from lib.character import kept_run
from lib.character.analysis import depth_probe, difficulty_judges, exit_speed
from lib.character.analysis.ngrams import bigram_perplexity
from lib.character.evaluation import mean_loss
from lib.character.experiments.e07_progressive_growing import at_equal_compute
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Standard
from lib.character.routing import Routed
from lib.results import store
from lib.runs.task import Outcome
from lib.text.corpus import load_corpus
from lib.text.windows import Windows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    corpus = load_corpus("repeated", train_chars=900, valid_chars=600)
    model = TransformerConfig(len(corpus.alphabet), 4, 16, 2, 16)
    training = Training(epochs=2, batch_size=4, shuffle=False)
    config = CharacterRun(corpus, model, Routed((0, 0.5, 0, 0.5)), training, 16, True)
    runs = tmp_path_factory.mktemp("runs")
    outcomes = {}
    for seed, name in enumerate(("a", "b")):
        (runs / name).mkdir()
        outcomes[name] = kept_run.run(config, seed, runs / name)
    return config, runs, outcomes


def test_the_kept_state_is_the_one_that_was_reported(trained):
    config, runs, outcomes = trained
    model = kept_run.load_state(config, runs / "a", "best")
    loss = mean_loss(lambda x: config.objective.predict(model, x), config.windows("valid"))
    assert math.exp(loss) == pytest.approx(outcomes["a"].row["val_ppl"])
    with pytest.raises(ValueError, match="allowed: best, last"):
        kept_run.load_state(config, runs / "a", "first")
    with pytest.raises(FileNotFoundError, match="train"):
        kept_run.load_state(config, runs / "nowhere", "best")


def test_every_judge_groups_the_same_symbols_and_the_last_layer_is_the_probes_own(trained):
    config, runs, _ = trained
    rows = difficulty_judges.run(difficulty_judges.Judged(config, "a", "b"), 0, runs / "c")
    frame = pd.DataFrame(rows.tables["judges"])
    assert set(frame["judge"]) == set(difficulty_judges.JUDGES)
    counts = frame.groupby(["judge", "split", "state", "layer"])["count"].sum()
    assert counts.groupby("split").nunique().eq(1).all()
    probe = depth_probe.run(Probe(config, "a", 2, "b"), 0, runs / "c").tables["layers"]
    theirs = [row["loss"] for row in probe if row["judge"] == "other"]
    ours = frame.loc[frame["judge"] == difficulty_judges.LAST, "loss"].tolist()
    assert sorted(ours) == pytest.approx(sorted(theirs))


def test_pairs_are_counted_as_the_bigram_model_counts_them(trained):
    config, _, _ = trained
    alphabet = config.corpus.alphabet
    train, held_out = (alphabet.encode(t) for t in (config.corpus.train, config.corpus.valid))
    windows = Windows(held_out[None, :-1], held_out[None, 1:])
    losses = difficulty_judges.pair_losses(train, windows, len(alphabet))
    assert math.exp(losses.mean()) == pytest.approx(
        bigram_perplexity(train, held_out, len(alphabet))
    )


def test_without_a_test_text_valid_is_halved(trained):
    found = splits(trained[0])
    halves = torch.cat([found[name].inputs for name in ("choose", "report")])
    assert len(found["choose"]) > 0 and torch.equal(halves, found["valid"].inputs)


def test_the_halves_of_the_seeds_repeated_text_hold_the_same_windows():
    # a limit that the documentation of the probe states; if it goes, so does that sentence
    corpus = load_corpus("repeated")
    model = TransformerConfig(len(corpus.alphabet))
    found = splits(CharacterRun(corpus, model, Standard(), whole_batches=True))
    chosen, reported = (set(map(tuple, found[n].inputs.tolist())) for n in ("choose", "report"))
    assert chosen == reported and len(reported) == 9


def test_with_a_test_text_nothing_is_chosen_on_what_is_reported(corpus):
    found = splits(CharacterRun(corpus, TransformerConfig(97), Standard()))
    assert found["choose"] is found["valid"]
    first = corpus.alphabet.encode(corpus.test[:64])
    assert torch.equal(found["report"].inputs[0], first)


def test_the_probe_agrees_with_the_training_run(trained):
    config, runs, outcomes = trained
    tables = depth_probe.run(Probe(config, "a", 2, "b"), 0, runs / "probe").tables
    exits = [r for r in tables["exits"] if (r["state"], r["split"]) == ("best", "valid")]
    at = next(row for row in exits if row["threshold"] == 0.8)
    assert at["ppl"] == pytest.approx(outcomes["a"].row["val_ppl"], rel=1e-5)
    summary = tables["summary"][0]
    assert at["random_ppl"] == pytest.approx(
        summary["always_exit_ppl"] ** (at["exit_pct"] / 100)
        * summary["always_last_ppl"] ** (1 - at["exit_pct"] / 100)
    )
    assert {row["judge"] for row in tables["layers"]} == {"own", "other"}
    assert {row["layer"] for row in tables["layers"]} == {1, 2, 3, 4}
    bins = pd.DataFrame(tables["reliability"])
    counts = bins.groupby(["state", "split", "layer", "kind"])["count"].sum()
    symbols = {(row["state"], row["split"]): row["symbols"] for row in tables["summary"]}
    assert len(counts) == 2 * 2 * 2 * 2  # every symbol in one bin of each
    assert all(count == symbols[where[:2]] for where, count in counts.items())


def test_timings_have_a_clock_an_ideal_and_a_loss(trained):
    config, runs, _ = trained
    speed = Speed(config, "a", 2, (0.05,), 4, 1, 4, (16,), (0.5,))
    tables = exit_speed.run(speed, 0, runs / "speed").tables
    exact = next(row for row in tables["batched"] if row["keep"] == "recompute")
    assert exact["ppl"] == pytest.approx(exact["exact_ppl"], rel=1e-4)
    assert all(row["speedup"] > 0 for rows in tables.values() for row in rows)
    assert {row["method"] for row in tables["generated"]} == {
        "full, no cache",
        "full, cache",
        "propagate",
        "recompute",
    }


def test_rows_of_one_run_become_outcomes_of_their_own():
    rows = [{"variant": "a", "val_ppl": 2.0}, {"variant": "b", "val_ppl": 3.0}]
    curve = [{"variant": "b", "epoch": 1}]
    found = spread([Outcome({"seed": 0}, {"paths": rows, "curve": curve})], "paths", ("curve",))
    assert [outcome.row["val_ppl"] for outcome in found] == [2.0, 3.0]
    assert [outcome.tables for outcome in found] == [{}, {"curve": [{"epoch": 1}]}]


def test_equal_compute_scores_the_path_within_the_budget_of_scratch():
    rows = [("grown", 1.0, 12.0), ("grown", 2.0, 11.0), ("grown", 9.0, 5.0)]
    rows += [("scratch", 1.5, 20.0), ("scratch", 3.0, 10.0)]
    curve = pd.DataFrame(rows, columns=["variant", "operations", "val_ppl"]).assign(seed=0)
    measured = at_equal_compute("grown", "scratch")(lambda table: curve)
    assert measured == pytest.approx([10.0])
    with pytest.raises(KeyError, match="no curve"):
        at_equal_compute("grown", "absent")(lambda table: curve)


def main_rows(variants, seeds=(0, 1)):
    """A main table on both corpora; the second variant is 20 % better on test, 10 % on valid."""
    return pd.DataFrame(
        {
            "variant": variant,
            "corpus": corpus,
            "corpus_sha256": "0" * 64,
            "size": "full",
            "seed": seed,
            "params": 10,
            "best_epoch": 2,
            "val_ppl": 10.0 - number,
            "test_ppl": None if corpus == "repeated" else 10.0 - 2 * number,
            "seconds": 1.0,
            "device": "cpu",
            "code_hash": "a",
        }
        for corpus in ("wikitext-2", "repeated")
        for number, variant in enumerate(variants)
        for seed in seeds
    )


def test_each_corpus_has_a_table_by_the_column_that_decides_there():
    frame = main_rows(["Standard", "LPT"])
    real, repeated = reported_tables(frame, "exp08", "Standard")
    assert real.loc["LPT", "Δ test against Standard"].startswith("-20.00")
    assert repeated.loc["LPT", "Δ val against Standard"].startswith("-10.00")
    assert "wikitext-2" in real.attrs["caption"] and "repeated" in repeated.attrs["caption"]


def test_the_seeds_figures_stand_beside_the_text_they_were_measured_on():
    frame = main_rows(["4-layer scratch", "4-layer full"])
    real, repeated = reported_tables(frame, "exp05", "4-layer scratch")
    assert real["seed's valid PPL"].tolist() == ["", ""]
    assert repeated["seed's valid PPL"].tolist() == [9.88, 24.62]


def test_what_hardly_ever_happens_decides_nothing():
    measure = if_enough_exit(lambda tables: np.zeros(2), lambda tables: np.array(tables))
    assert measure([4.0, 6.0]).tolist() == [0, 0]
    with pytest.raises(store.Absent, match="only 3.5 % of the symbols exit"):
        measure([1.0, 6.0])


@pytest.fixture
def written(monkeypatch):
    """``written(name, rows)`` makes those rows the table that ``store.read`` finds."""
    found = {}
    monkeypatch.setattr(store, "read", lambda slug, table="", size="full": found[table].copy())
    return lambda name, rows: found.update({name: pd.DataFrame(rows)})


def test_the_seeds_layers_are_of_the_last_epoch_its_own_judge_and_all_of_valid(written):
    wanted = {
        "variant": exp08_layer_contribution.STANDARD,
        "state": "last",
        "judge": "own",
        "split": "valid",
    }
    place = {"corpus": "repeated", "layer": 1, "group": "easy", "norm": 2.0}
    rows = [{**wanted, **place, "seed": seed, "loss": loss} for seed, loss in ((0, 1.0), (1, 2.0))]
    other = {"variant": "LPT", "state": "best", "judge": "other", "split": "report"}
    rows += [{**rows[0], column: value, "loss": 9.0} for column, value in other.items()]
    written("layers", rows)
    table = exp08_layer_contribution.layers_table("full")
    assert table.loc[("repeated", 1), ("loss", "easy")] == 1.5
    assert table.loc[("repeated", 1), ("norm", "easy")] == 2.0


def test_the_seeds_own_layers_come_from_the_reported_table():
    table = exp08_layer_contribution.reported_layers()
    assert table.loc["L4 hard", "residual_norm"] == store.reported_value(
        "exp08", "L4 hard", "residual_norm"
    )


def test_summaries_are_means_over_seeds_on_the_reported_split(written):
    rows = [
        {
            "corpus": "repeated",
            "variant": "a",
            "state": "best",
            "split": split,
            "seed": seed,
            "exit_layer": 1,
            "always_last_ppl": value,
            "chosen_ppl": value,
            "chosen_threshold": 0.5,
            "chosen_exit_temperature": 1.0,
            "exit_ece_raw": value / 100,
            "exit_ece_tempered": 0.01,
            "exit_overconfidence": value / 10,
        }
        for split, seed, value in (("report", 0, 4.0), ("report", 1, 6.0), ("valid", 0, 50.0))
    ]
    written("summary", rows)
    early = exp09_early_exit.summary_table("full")[("repeated", "a", "best")]
    assert early["chosen_ppl"] == early["always_last_ppl"] == 5 and early["exit_ece_raw"] == 0.05
    assert "exit_layer" not in early and "exit_overconfidence" not in early
    routing = exp11_lpt_routing.summary_table("full").loc[("repeated", "a", "best")]
    assert routing["chosen_ppl"] == 5 and routing["exit_overconfidence"] == 0.5
    assert "always_last_ppl" not in routing


def test_one_slow_second_does_not_move_the_clock_and_the_full_model_keeps_its_rows(written):
    seeds = ((0, 1.0), (1, 2.0), (2, 9.0))
    place = {"corpus": "repeated", "variant": "a", "run_id": "b"}
    written(
        "batched",
        [
            {**place, "seed": s, "threshold": 0.5, "keep": "recompute", "speedup": x}
            for s, x in seeds
        ],
    )
    batched = exp10_confidence_routing.batched_table("full")
    assert batched.loc[("repeated", 0.5, "recompute")].to_dict() == {"speedup": 4.0}
    columns = ("symbols_per_second", "ideal_speedup", "exit_pct", "same_symbols_pct")
    generated = [
        {**place, "seed": s, "method": m, "threshold": t, "speedup": x, **dict.fromkeys(columns, 7)}
        for s, x in seeds
        for m, t in (("full, cache", None), ("recompute", 0.5))
    ]
    written("generated", generated)
    table = exp10_confidence_routing.generated_table("full")
    assert table["speedup"].tolist() == [2.0, 2.0] and len(table.columns) == 5
    assert table.index.get_level_values("method").tolist() == ["full, cache", "recompute"]


def test_the_scale_check_is_kept_apart_from_the_seeds_comparison():
    plain = exp11_lpt_routing.PLAIN
    core = main_rows([plain, exp11_lpt_routing.LPT])
    larger = main_rows([exp11_lpt_routing.scaled("LPT", 20_000)]).query("corpus == 'wikitext-2'")
    larger = larger.assign(method="LPT", train_chars=20_000, updates=[4, 6])
    frame = pd.concat([core, larger], ignore_index=True)
    tables = exp11_lpt_routing.core_tables(frame)
    assert [list(table.index) for table in tables] == [[plain, exp11_lpt_routing.LPT]] * 2
    assert exp11_lpt_routing.scale_rows(frame)["method"].tolist() == ["LPT", "LPT"]
    row = exp11_lpt_routing.scale_table(frame).loc[(20_000, "LPT")]
    assert (row["updates"], row["val_ppl"], row["test_ppl"]) == (5, 10, 10)
