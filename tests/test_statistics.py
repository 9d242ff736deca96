"""Intervals and verdicts."""

import numpy as np
import pandas as pd
import pytest

from lib.character.analysis.ngrams import bigram_perplexity, unigram_perplexity
from lib.results.statistics import bootstrap, percent_change
from lib.results import claims, store
from lib.results.claims import (
    Claim,
    change,
    claim_maker,
    decide,
    difference,
    level,
    place,
    ratio,
)
from lib.text.alphabet import Alphabet


def test_the_bootstrap_is_seeded_and_covers_the_mean():
    values = np.random.default_rng(1).normal(3.0, 1.0, 30)
    found = bootstrap(values)
    assert found.low < found.mean < found.high and found.n == 30
    # for 30 normal values both intervals are close to mean +- 2 standard errors
    half = 2.0 * values.std() / 30**0.5
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    skewed = np.random.default_rng(1).lognormal(0.0, 2.0, 30)
    found = bootstrap(skewed)
    assert found == bootstrap(skewed) and found != bootstrap(skewed, seed=1)
    assert found.high - found.mean > found.mean - found.low  # the bootstrap follows the skew


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_of_few_seeds_hold_the_true_mean_as_often_as_they_say(n):
    draws = np.random.default_rng(n).normal(size=(400, n))
    held = [found.low < 0 < found.high for found in map(bootstrap, draws)]
    assert np.mean(held) > 0.92  # 400 draws: 0.95 give or take 0.02; the percentiles alone fail


def test_failed_runs_are_not_numbers():
    with pytest.raises(ValueError, match="not finite"):
        bootstrap([1.0, float("inf")])
    with pytest.raises(ValueError, match="one value a seed"):
        bootstrap([])


def test_one_value_has_no_width():
    assert (bootstrap([2.0]).low, bootstrap([2.0]).high) == (2.0, 2.0)


def test_percent_change_is_paired():
    assert percent_change([11, 22], [10, 20]).tolist() == pytest.approx([10, 10])


@pytest.mark.parametrize(
    ("low", "high", "expect", "threshold", "verdict"),
    [
        (-3, -1, "below", 0, "replicated"),
        (1, 3, "below", 0, "reversed"),
        (-1, 1, "below", 0, "no difference seen"),
        (1, 3, "above", 0, "replicated"),
        (-1, 1, "within", 2, "replicated"),
        (3, 4, "within", 2, "reversed"),
        (1, 4, "within", 2, "no difference seen"),
    ],
)
def test_verdicts(low, high, expect, threshold, verdict):
    assert place(low, high, expect, threshold)[0] == verdict


def claim(**more) -> Claim:
    content = {
        "id": "x",
        "experiment": "exp03",
        "slug": "03_x",
        "source": "seed",
        "statement": "a beats b",
        "reported": -5.0,
        "unit": "%",
        "measure": change("a", "b"),
        "expect": "below",
        "control": "equal everything",
    }
    return Claim(**{**content, **more})


def test_claims_of_an_experiment_differ_only_in_what_each_says():
    make = claim_maker("area", "03_x", "seed", min_seeds=3)
    plain = make("name", "a beats b", change("a", "b"), "equal everything")
    assert (plain.id, plain.experiment, plain.slug, plain.source) == (
        "area-name",
        "area",
        "03_x",
        "seed",
    )
    assert (plain.expect, plain.threshold, plain.reported, plain.min_seeds) == ("below", 0, None, 3)
    own = make("other", "a is b", change("a", "b"), "none", expect="within", source="a control")
    assert (own.expect, own.source, own.min_seeds) == ("within", "a control", 3)
    moved = claim_maker("area", "03_x", "seed", experiment="exp03")
    assert moved("name", "a beats b", change("a", "b"), "").experiment == "exp03"
    with pytest.raises(ValueError, match="allowed"):
        make("name", "a beats b", change("a", "b"), "", expect="beneath")


def frame(seeds_a, seeds_b) -> pd.DataFrame:
    rows = [("a", s, 9.0 + 0.01 * s) for s in seeds_a] + [("b", s, 10.0) for s in seeds_b]
    table = pd.DataFrame(rows, columns=["variant", "seed", "test_ppl"])
    return table.assign(corpus="wikitext-2")


def test_a_claim_is_decided_from_its_table(monkeypatch):
    monkeypatch.setattr(store, "read", lambda *a, **k: frame(range(5), range(5)))
    (row,) = decide(claim())
    assert row["verdict"] == "replicated" and row["n"] == 5 and row["corpus"] == "wikitext-2"
    assert row["ours"] == pytest.approx(-9.8, abs=0.05)


def test_a_reported_value_stands_only_beside_the_text_it_was_measured_on(monkeypatch):
    both = [frame(range(5), range(5)).assign(corpus=c) for c in ("repeated", "wikitext-2")]
    monkeypatch.setattr(store, "read", lambda *a, **k: pd.concat(both))
    rows = decide(claim(reported_on=("repeated",)))
    assert {row["corpus"]: row["reported"] for row in rows} == {"repeated": -5, "wikitext-2": None}
    assert [row["reported"] for row in decide(claim())] == [-5, -5]


def test_too_few_seeds_decide_nothing(monkeypatch):
    monkeypatch.setattr(store, "read", lambda *a, **k: frame(range(4), range(4)))
    (row,) = decide(claim())
    assert row["verdict"] == "not measurable here" and row["reason"].startswith("4 seeds, 5 needed")


def test_what_is_not_there_decides_nothing_and_what_is_broken_is_loud(monkeypatch):
    whole = frame(range(5), range(5))
    for absent in (whole[whole["variant"] == "a"], frame(range(5), range(5)).assign(test_ppl=None)):
        monkeypatch.setattr(store, "read", lambda *a, found=absent, **k: found)
        assert decide(claim())[0]["verdict"] == "not measurable here"
    partial = whole.copy()
    partial.loc[2, "test_ppl"] = None
    monkeypatch.setattr(store, "read", lambda *a, **k: partial)
    with pytest.raises(ValueError, match="'a' has no test_ppl in 1 of 5 rows"):
        decide(claim())
    monkeypatch.setattr(store, "read", lambda *a, **k: whole)
    with pytest.raises(KeyError, match="test_pll") as misspelt:
        decide(claim(measure=change("a", "b", "test_pll")))
    assert misspelt.value.__notes__ == ["while deciding claim x on wikitext-2"]


def test_only_a_count_model_stands_for_every_seed():
    rows = frame(range(5), range(1))
    measure = change("a", "b")
    with pytest.raises(ValueError, match="do not share their seeds"):
        measure(lambda table="": rows.assign(params=7))
    counted = rows.assign(params=[7.0] * 5 + [None])
    assert measure(lambda table="": counted) == pytest.approx([-10, -9.9, -9.8, -9.7, -9.6])


def test_measures_of_unequally_many_seeds_do_not_pair():
    tables = lambda table="": frame(range(5), range(1))  # noqa: E731
    for pair in (difference, ratio):
        with pytest.raises(ValueError, match="5 and 1 values do not pair"):
            pair(level("a", "test_ppl"), level("b", "test_ppl"))(tables)
        assert len(pair(level("a", "test_ppl"), level("a", "test_ppl"))(tables)) == 5


def test_seeds_that_do_not_pair_are_an_error(monkeypatch):
    monkeypatch.setattr(store, "read", lambda *a, **k: frame(range(5), range(1, 6)))
    with pytest.raises(ValueError, match="do not share their seeds"):
        decide(claim())


def test_missing_results_are_said(monkeypatch):
    monkeypatch.setattr(store, "read", lambda *a, **k: frame(range(5), []))
    assert "variant 'b' has no test_ppl" in decide(claim())[0]["reason"]
    with pytest.raises(ValueError, match="allowed: below, above, within"):
        claim(expect="lower")
    assert claims.EXPECTATIONS == ("below", "above", "within")


def test_count_models_know_their_text():
    alphabet = Alphabet.of("ab")
    text = alphabet.encode("ab" * 500)
    assert unigram_perplexity(text, text, 2) == pytest.approx(2.0, abs=1e-3)
    assert bigram_perplexity(text, text, 2) == pytest.approx(1.0, abs=1e-3)
