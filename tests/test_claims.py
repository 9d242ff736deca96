"""Claims: what decides them, in which words, and what must never decide one."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib import registry
from lib.results import beside_reported, scoreboard, tables
from lib.results.claims import (
    CONTRADICTED,
    NOT_MEASURABLE,
    REPLICATED,
    REVERSED,
    SUPPORTED,
    UNDECIDED,
    Claim,
    change,
    claim_maker,
    decide,
    difference,
    level,
    ratio,
)
from lib.results.store import Results

VALUES = {"a": 9.0, "b": 10.0}


def results(
    corpus: str = "wikitext-2", size: str = "full", seeds: int = 5, spread: float = 0.01, **columns
) -> Results:
    """Two variants, five seeds, whose values differ a little from seed to seed."""
    rows = []
    for place, (variant, value) in enumerate(VALUES.items()):
        for seed in range(seeds):
            noise = spread * ((seed * (2 + place)) % 5 - 2)
            rows.append(
                {
                    "variant": variant,
                    "label": variant.upper(),
                    "seed": seed,
                    "corpus": corpus,
                    "size": size,
                    "test_ppl": value + noise,
                    "params": 7,
                    "status": "ok",
                    "run_id": f"{variant}{seed}",
                    "commit": "abc",
                    **columns,
                }  # fmt: skip
            )
    return Results("98_small", {"": pd.DataFrame(rows)})


def merged(*parts: Results) -> Results:
    return Results("98_small", {"": pd.concat([part() for part in parts], ignore_index=True)})


def claim(**own) -> Claim:
    content = {"id": "x", "texts": ("wikitext-2",), "reported": -5.0, **own}
    content = {"measure": change("a", "b"), "control": "equal everything", **content}
    return Claim(experiment="exp98", source="R4", statement="a beats b", **content)


def of(claims, *given, **more) -> list[dict]:
    return scoreboard.score([(c, given[0]) for c in claims], **more).to_dict("records")


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ({}, REPLICATED),
        ({"expect": "above"}, REVERSED),
        ({"threshold": -10.0}, UNDECIDED),
        ({"kind": "own", "reported": None}, SUPPORTED),
        ({"kind": "own", "expect": "above"}, CONTRADICTED),
        ({"kind": "explanation", "parent": "y", "expect": "above"}, CONTRADICTED),
        ({"expect": "within", "threshold": 12.0}, REPLICATED),
        ({"expect": "within", "threshold": 3.0}, REVERSED),
        ({"expect": "within", "threshold": 10.0}, UNDECIDED),
    ],
)
def test_a_verdict_follows_from_where_the_interval_lies(own, verdict):
    spread = 0.1 if verdict == UNDECIDED else 0.01
    (row,) = of([claim(**own)], results(spread=spread))
    assert row["verdict"] == verdict
    assert row["n"] == 5 and row["ours"] == pytest.approx(-10, abs=0.2)
    assert row["ci_low"] < row["ours"] < row["ci_high"]
    assert row["run_ids"].split() == [f"{v}{s}" for v in "ab" for s in range(5)]
    assert row["commit"] == "abc" and "equal everything" in row["reason"]


def test_another_text_or_size_is_a_transfer_and_shows_no_reported_value():
    given = merged(
        results(), results("wikitext-2-standin"), results(size="third"), results("wikipedia")
    )
    rows = {(row["corpus"], row["size"]): row for row in of([claim()], given)}
    kinds = {place: row["kind"] for place, row in rows.items()}
    assert kinds == {
        ("wikitext-2", "full"): "reported",
        ("wikitext-2-standin", "full"): "reported",
        ("wikitext-2", "third"): "transfer",
        ("wikipedia", "full"): "transfer",
    }
    for row in rows.values():
        own = row["kind"] == "reported"
        assert (row["reported"] == -5.0) == own and (row["parent"] == "x") == (not own)
        assert row["verdict"] == REPLICATED
    explained = of([claim(kind="explanation", parent="y", texts=())], given)
    assert {row["kind"] for row in explained} == {"explanation"}
    only = of([claim(only=("wikipedia",))], given)
    assert [row["corpus"] for row in only] == ["wikipedia"]
    (none,) = of([claim(only=("alpaca",))], given)
    assert none["verdict"] == NOT_MEASURABLE and none["reason"] == "no results on alpaca"


def test_too_few_seeds_decide_nothing_and_show_their_interval():
    (row,) = of([claim()], results(seeds=4))
    assert row["verdict"] == UNDECIDED and row["reason"].startswith("4 seeds, 5 needed")
    assert not pd.isna(row["ci_low"])
    (row,) = of([claim()], results(seeds=2), least=2)
    assert row["verdict"] == REPLICATED
    (row,) = of([claim()], results(seeds=1), least=2)
    assert row["verdict"] == UNDECIDED and pd.isna(row["ci_low"]) and pd.isna(row["p"])


def test_a_diverged_run_decides_nothing_and_is_not_averaged():
    given = results()
    frame = given()
    lost = (frame["variant"] == "a") & (frame["seed"] == 3)
    frame.loc[lost, ["status", "test_ppl"]] = ["diverged", 1e9]
    (row,) = of([claim()], given)
    assert row["verdict"] == NOT_MEASURABLE
    assert row["reason"] == "not decided: variant 'a' diverged in 1 of 5 seeds"
    assert pd.isna(row["ours"]) and row["n"] == 0
    assert tables.seeds_interval(frame, "a", "test_ppl").n == 4
    assert tables.seeds_interval(frame, "a", "test_ppl").mean == pytest.approx(9.0, abs=0.1)


def test_a_diverged_run_decides_nothing_through_a_further_table_either():
    given = results()
    stages = given().drop(columns="status").assign(stage=1)
    given.frames["stages"] = stages
    own = claim(measure=lambda r: r.used.update(stages["run_id"]) or stages["test_ppl"].to_numpy())
    assert of([own], given)[0]["verdict"] != NOT_MEASURABLE
    given().loc[given()["run_id"] == "a3", "status"] = "diverged"
    (row,) = of([own], given)
    assert row["verdict"] == NOT_MEASURABLE
    assert row["reason"] == "not decided: runs of 'a' diverged" and pd.isna(row["ours"])


def test_what_is_not_there_decides_nothing_and_what_is_broken_is_loud():
    (row,) = of([claim(measure=change("c", "b"))], results())
    assert (row["verdict"], row["reason"]) == (
        NOT_MEASURABLE, "not decided: variant 'c' has no test_ppl"
    )  # fmt: skip
    (row,) = of([claim()], None)
    assert row["verdict"] == NOT_MEASURABLE and row["reason"] == "no results are committed"
    partial = results()
    partial().loc[2, "test_ppl"] = None
    with pytest.raises(ValueError, match="'a' has no test_ppl in 1 of 5 rows"):
        of([claim()], partial)
    with pytest.raises(KeyError, match="test_pll") as misspelt:
        of([claim(measure=change("a", "b", "test_pll"))], results())
    assert misspelt.value.__notes__ == ["while deciding claim x on wikitext-2, size full"]


def test_seeds_pair_and_only_a_count_model_stands_for_all():
    given = results()
    frame = given()
    frame["seed"] += (frame["variant"] == "b") * 1
    assert len(change("a", "b")(given)) == 4, "those that both have"
    frame["seed"] += (frame["variant"] == "b") * 9
    (row,) = of([claim()], given)
    assert row["reason"] == "not decided: no seed that both variants have"
    counted = results()
    one = counted()[~((counted()["variant"] == "b") & (counted()["seed"] > 0))].copy()
    one.loc[one["variant"] == "b", "params"] = None
    assert len(change("a", "b")(Results("x", {"": one}))) == 5
    with_params = one.assign(params=7)
    assert len(change("a", "b")(Results("x", {"": with_params}))) == 1, "a seed, not a count model"


def test_measures_pair_by_seed_and_those_that_name_none_must_be_equally_many():
    given = results()
    a, b = given()["variant"] == "a", given()["variant"] == "b"
    given.frames[""] = given()[~(a & (given()["seed"] == 0)) & ~(b & (given()["seed"] > 3))]
    one, other = level("a", "test_ppl"), level("b", "test_ppl")
    wanted = change("a", "b")(given).tolist()
    assert ratio(one, other)(given).tolist() == wanted and len(wanted) == 3, "seeds 1 to 3"
    assert difference(one, other)(given).index.tolist() == [1, 2, 3]
    for pair in (difference, ratio):
        with pytest.raises(ValueError, match="4 and 3 values do not pair"):
            pair(one, lambda r: other(r).to_numpy()[:3])(given)
        assert len(pair(one, one)(given)) == 4


def test_a_deterministic_comparison_has_no_interval_and_needs_no_seeds():
    (row,) = of([claim(deterministic=True)], results(seeds=1))
    assert row["verdict"] == REPLICATED and "(deterministic)" in row["reason"]
    assert all(pd.isna(row[name]) for name in ("ci_low", "ci_high", "p", "q"))
    (row,) = of([claim(deterministic=True, expect="within", threshold=12.0)], results(seeds=1))
    assert row["verdict"] == REPLICATED


def test_shares_keep_inside_their_bounds_and_percents_above_minus_one_hundred():
    share = claim(measure=lambda r: np.array([99.0, 100.0, 100.0, 100.0, 100.0]),
                  expect="above", threshold=50.0, bounds=(0, 100), unit="%")  # fmt: skip
    (row,) = of([share], results())
    assert row["ci_high"] == 100
    wild = claim(measure=lambda r: np.array([-99.9, -20.0, 400.0, -50.0, 10.0]))
    (row,) = of([wild], results())
    assert row["ci_low"] > -100


def test_the_p_value_is_on_the_scale_of_the_interval():
    rng = np.random.default_rng(0)
    for _ in range(100):
        values = 100 * (np.exp(rng.normal(0.9, 1.2, 5)) - 1)
        own = claim(measure=lambda r, values=values: values, expect="above", threshold=10.0)
        assert (own.p(values) < 0.05) == own.interval(values).excludes(10.0)


def test_verdicts_are_corrected_for_how_many_claims_were_tried():
    rng = np.random.default_rng(1)

    def named(name: str, kind: str, mean: float) -> Claim:
        values = mean + rng.normal(0, 1, 5)
        values += mean - values.mean()
        return Claim(name, "exp98", "R4", "s", lambda r: values, "c", kind=kind, unit="points")

    weak = [named(f"n{i}", "own", 0.01) for i in range(30)]
    edge = named("edge", "own", -1.6)
    alone = {row["id"]: row for row in of([edge], results())}["edge"]
    among = {row["id"]: row for row in of([edge, *weak], results())}["edge"]
    assert alone["verdict"] == SUPPORTED and alone["q"] == alone["p"] < 0.05
    assert among["p"] == alone["p"] and among["q"] > 0.05 and among["verdict"] == UNDECIDED
    assert "not among so many claims (q 0." in among["reason"]
    other = [named(f"m{i}", "reported", 0.01) for i in range(30)]
    apart = {row["id"]: row for row in of([edge, *other], results())}["edge"]
    assert apart["verdict"] == SUPPORTED, "kinds are families of their own"


def test_rows_of_too_few_seeds_lend_nothing_to_others():
    """Beside thirty tiny p of three seeds a row of five would pass the correction."""

    def named(name: str, *values: float) -> Claim:
        return Claim(name, "exp98", "R4", "s", lambda r: np.array(values), "c", kind="own")

    edge = named("edge", -0.2, -1.9, -0.4, -2.9, -2.6)
    weak = [named(f"w{i}", -1.0, 1.0, -2.0, 2.0, 0.1) for i in range(5)]
    few = [named(f"f{i}", -9.0, -9.1, -9.2) for i in range(30)]
    without = of([edge, *weak], results())[0]
    beside = of([edge, *weak, *few], results())
    assert without["p"] < 0.05 < without["q"] and without["verdict"] == UNDECIDED
    assert (beside[0]["q"], beside[0]["verdict"]) == (without["q"], UNDECIDED)
    assert all(np.isnan(row["q"]) and row["p"] < 0.01 for row in beside[6:])


def test_claims_of_an_experiment_differ_only_in_what_each_says():
    make = claim_maker("exp98", "R4", texts=("wikitext-2",))
    plain = make("one", "a beats b", change("a", "b"), "c", reported=-5.0)
    assert (plain.id, plain.kind, plain.texts) == ("exp98-one", "reported", ("wikitext-2",))
    why = make("two", "not by luck", change("a", "b"), "c", explains="one")
    assert (why.kind, why.parent) == ("explanation", "exp98-one")


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ({"expect": "beneath"}, "expect is 'beneath'; allowed: below, above, within"),
        ({"kind": "transfer"}, "kind is 'transfer'; allowed: reported, explanation, own"),
        ({"kind": "explanation"}, "an explanation has a parent"),
        ({"parent": "y"}, "an explanation has a parent, other kinds have none"),
    ],
)
def test_a_claim_that_makes_no_sense_is_refused(own, sentence):
    with pytest.raises(ValueError, match=sentence):
        claim(**own)


def test_a_number_is_rounded_once():
    """The file and a notebook show the same digits: 0.572749 is no 0.5728."""
    given = results()
    values = np.array([-1.2, 0.3, 1.9, 0.1, 1.763745])
    frame = scoreboard.score([(claim(measure=lambda r: values, unit="points"), given)])
    text = frame.to_csv(index=False, float_format="%.6g")
    again = pd.read_csv(io.StringIO(text))
    assert scoreboard.shown(again)["ours"].tolist() == scoreboard.shown(frame)["ours"].tolist()
    assert list(again.columns) == list(scoreboard.COLUMNS)
    one = scoreboard.shown(scoreboard.score([(claim(), results(seeds=1))]))
    assert one["ours"].tolist()[0].startswith("-10")
    assert decide(claim(), results())[0]["verdict"] == REPLICATED


def test_a_claim_whose_sign_changes_with_the_slice_is_undecided_on_that_text():
    elsewhere, own = results(corpus="wikipedia"), claim()
    judge = replace(own, id="slices", kind="own", over="slices", unanimous=True, judges="x")
    both = replace(judge, measure=lambda _: np.array([-9.0, -8.0, -9.0, -8.0, 1.0]))
    (alone,) = scoreboard.score([(own, elsewhere)]).itertuples()
    assert alone.verdict == REPLICATED
    for pair in ([(own, elsewhere), (both, elsewhere)], [(both, elsewhere), (own, elsewhere)]):
        rows = scoreboard.score(pair).set_index("id")
        assert rows["p"].notna().all() and rows["q"].isna().all(), "neither helps other rows"
        row = rows.loc["x"]
        assert row["verdict"] == UNDECIDED
        assert row["reason"].startswith("the sign changes with the slices (claim slices); the int")
    against = replace(judge, measure=lambda _: np.array([8.0, 9.0, 8.0, 9.0, 8.0]))
    row = scoreboard.score([(own, elsewhere), (against, elsewhere)]).set_index("id").loc["x"]
    assert row["verdict"] == UNDECIDED
    assert row["reason"].startswith("the slices say the opposite (claim slices); the int")
    for pair in ([(own, results()), (both, elsewhere)], [(own, elsewhere), (judge, elsewhere)]):
        row = scoreboard.score(pair).set_index("id").loc["x"]
        assert row["verdict"] == REPLICATED, "another text, or slices that agree"


def test_changes_and_falls_are_averaged_as_logarithms():
    change, fall = claim(unit="% change of loss"), claim(unit="% fall of loss")
    up, down = np.array([100.0, -50.0]), np.array([-100.0, 50.0])  # twice and half of it
    assert change.interval(up).mean == pytest.approx(0) == fall.interval(down).mean
    one, other = change.interval(up), fall.interval(down)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert change.p(up) == pytest.approx(1) == fall.p(down)
    assert claim(unit="% of symbols").interval(up).mean == 25.0
    assert claim(unit="% change of x").interval(np.array([-100.0, 0.0])).mean == -50.0, "no log"


def test_committed_verdicts_and_comparisons_are_those_of_the_committed_tables():
    """What a claim measures, its control and its line cannot change unseen: `make claims`."""
    pairs = (
        (scoreboard.score(registry.claims()), scoreboard.PATH),
        (beside_reported.compare(registry.experiments().values()), beside_reported.PATH),
    )
    for made, path in pairs:
        text = made.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        made, held = pd.read_csv(io.StringIO(text)), pd.read_csv(path)
        # another processor may round the last digit otherwise
        pd.testing.assert_frame_equal(made, held, rtol=1e-4, obj=f"{path.name}: make claims;")


def test_all_measured_changes_are_averaged_as_logarithms():
    """A plain mean of percent changes stands under no caption that says otherwise."""
    for entry in registry.experiments().values():
        for own in entry.claims:
            made = own.measure.__qualname__.split(".")[0]
            if made in ("ratio", "change"):
                assert own._change(np.array([1.0])), own.id


def test_within_a_band_takes_two_one_sided_tests():
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])  # 90 % interval +-1.51, 95 % +-1.96
    for threshold, verdict in ((1.7, SUPPORTED), (1.4, UNDECIDED)):
        own = {"kind": "own", "reported": None, "unit": "points", "expect": "within"}
        (row,) = of([claim(measure=lambda _: values, threshold=threshold, **own)], results())
        assert row["verdict"] == verdict


def test_a_p_value_below_the_limit_decides_nothing_if_its_q_is_above():
    def named(name: str, *values: float) -> Claim:
        return claim(measure=lambda _: np.array(values), kind="own", reported=None, unit="points",
                     id=name)  # fmt: skip

    pair = [named("edge", -0.4, -2.4, -0.6, -2.6, -1.4), named("null", -1.0, 1.0, -2.0, 2.0, 0.1)]
    edge, _ = of(pair, results())
    assert edge["p"] < 0.05 < edge["q"] < 0.1 and edge["verdict"] == UNDECIDED
