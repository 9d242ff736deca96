"""Every number of the reports beside ours: the right one, or why there is none."""

from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
import pytest

from lib import registry
from lib.results import beside_reported, store
from lib.results.claims import at_epoch, level, times
from lib.results.store import Absent, Results

REPORTED = store.reported()
TABLES = store.TABLES


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return beside_reported.compare(registry.experiments().values())


def test_every_number_stands_there_once_with_ours_or_the_reason(frame):
    keys = ["source", "experiment", "row", "metric", "value"]
    pd.testing.assert_frame_equal(frame[keys], REPORTED[keys])
    assert not frame.duplicated(keys[:-1]).any()
    found = frame["ours"].notna()
    assert found.sum() >= 330
    assert np.isfinite(frame.loc[found, "ours"].astype(float)).all()
    assert (frame.loc[found, ["n", "corpus", "size"]].astype(bool)).all(axis=None)
    empty = frame[~found]
    reasons = empty["note"]
    assert (reasons != "").all() and not reasons.str.contains(beside_reported.UNMEASURED).any()
    assert (empty["n"] == 0).all() and (empty["corpus"] == "").all()


def table(name: str, **where) -> pd.DataFrame:
    """Rows of a committed table at the largest size, read without the library."""
    rows = pd.read_csv(TABLES / f"{name}.csv")
    for column, value in where.items():
        rows = rows[rows[column] == value]
    largest = "full" if (rows["size"] == "full").any() else "small"
    rows = rows[rows["size"] == largest]
    assert len(rows)
    return rows


LAST = {"corpus": "repeated", "state": "last", "split": "valid"}


def by_hand() -> dict[tuple[str, str, str], float]:
    """Seven numbers, each from another kind of table."""
    real = {"corpus": "wikitext-2-standin"}
    losses = table("04_layerwise_progressive_curve", **real, variant="lpt", epoch=15)
    contributions = table(
        "08_layer_contribution_layers",
        **LAST, variant="standard", reference="own", layer=4, group="hard",
    )  # fmt: skip
    exits = table("09_early_exit_exits", **LAST, variant="standard", threshold=0.9)
    routed = table("11_lpt_routing_exits", **LAST, variant="aware", threshold=0.9)
    twice = table("12_two_layer_stage", variant="base_twice")
    stage = table("14_staged_training_curve", variant="ratio_09", stage=2)
    scaled = table("18_scaling_curve", variant="first_layer_size_2", recipe="report")
    stops = table("18_scaling", variant="first_layer_size_2")
    stops = stops.set_index("seed")["report_patience1_epoch"]
    stopped = scaled[scaled["epoch"] == scaled["seed"].map(stops)]
    return {
        ("exp04", "LPT sum epoch 15 L4", "train_loss"): losses["train_loss_layer_4"].mean(),
        ("exp08", "L4 hard", "loss"): contributions["loss"].mean(),
        ("exp09", "threshold 0.9", "l1_acc_pct"): exits["exit_shallow_acc_pct"].mean(),
        ("exp11", "LPT + Routing Aware final threshold 0.9", "val_ppl"): routed["ppl"].mean(),
        ("cascade_two_layer", "LLM 0", "val_ppl_hard"): twice["val_ppl"].mean(),
        ("cascade_stages", "stage 2", "best_val_ppl"): stage.groupby("seed")["val_ppl"]
        .min()
        .mean(),
        ("context_scaling", "100 samples", "acc_pct"): 100 * stopped["val_acc"].mean(),
    }


def test_numbers_are_those_of_the_tables(frame):
    found = frame.set_index(["experiment", "row", "metric"])["ours"]
    for key, value in by_hand().items():
        assert found[key] == pytest.approx(value, rel=1e-6), key


def test_numbers_are_of_the_text_of_the_report_and_of_like_settings(frame):
    """A mapping to another row, unit or state would be far off: nothing but size explains it."""
    own = frame[frame["ours"].notna()]
    for number in (5, 6, 7, 8, 9, 10, 11):
        assert set(own.loc[own["experiment"] == f"exp{number:02d}", "corpus"]) == {"repeated"}
    like = own[(own["size"] == "full") & ~own["note"].str.contains(beside_reported.OTHER_TEXT)]
    far = like[~like["ratio"].astype(float).between(0.5, 2)]
    known = {"exp01", "exp02"}  # LCT+OACD and HRM+Memory are reconstructions
    records = (far["row"] == "Hard tokens") & (far["metric"] == "val_ppl")  # R0's are others
    r0 = (far["experiment"] == "hard_vs_all") & (records | (far["metric"] == "seconds"))
    assert set(far.loc[~r0, "experiment"]) <= known, far
    assert like["ratio"].astype(float).between(0.8, 1.25).mean() > 0.85


def test_every_measure_and_remark_belongs_to_a_reported_number():
    for slug, experiment in registry.experiments().items():
        names = {experiment.report, *(claim.experiment for claim in experiment.claims)}
        rows = REPORTED[REPORTED["experiment"].isin(names)]
        keys = set(zip(rows["row"], rows["metric"], strict=True))
        assert set(experiment.beside) <= keys, slug
        for pattern in experiment.remarks:
            assert any(fnmatchcase(f"{r}: {m}", pattern) for r, m in keys), (slug, pattern)


# --- where a number is looked for ------------------------------------------------------------


def results(*where: tuple[str, str, float]) -> Results:
    """One seed of one variant, a perplexity for each text and size."""
    rows = [
        {"variant": "hrm", "label": "HRM", "seed": 0, "corpus": corpus, "size": size,
         "val_ppl": ppl, "best_epoch": 1, "params": 7, "status": "ok", "run_id": f"{corpus}{size}"}
        for corpus, size, ppl in where
    ]  # fmt: skip
    return Results("01_hrm_against_lct", {"": pd.DataFrame(rows)})


def found(monkeypatch, held: Results, **changes) -> pd.Series:
    """The row of HRM's perplexity in Experiment 1, of which only ``held`` is committed."""
    whole = registry.experiment("01_hrm_against_lct")
    experiment = replace(whole, variants={"hrm": whole.variants["hrm"]}, **changes)
    monkeypatch.setattr(store, "committed", lambda slug: held)
    frame = beside_reported.compare([experiment])
    own = frame[(frame["experiment"] == "exp01") & (frame["row"] == "HRM")]
    return own.set_index("metric").loc["best_val_ppl"]


def test_the_reports_text_at_its_largest_size_comes_first(monkeypatch):
    held = results(
        ("python-docs", "full", 1.0), ("wikitext-2", "small", 3.0), ("wikitext-2", "third", 2.0)
    )
    row = found(monkeypatch, held)
    assert (row["ours"], row["corpus"], row["size"]) == (2.0, "wikitext-2", "third")
    assert row["note"] == "smaller than the report" and row["ratio"] == 2.0 / row["value"]
    row = found(monkeypatch, results(("python-docs", "full", 1.0)))
    assert row["ours"] == 1.0 and row["note"] == beside_reported.OTHER_TEXT


def test_a_smaller_size_answers_where_the_larger_one_cannot(monkeypatch):
    def small_only(results: Results) -> np.ndarray:
        if results.sizes != ["small"]:
            raise Absent("it did not run")
        return level("hrm", "val_ppl")(results)

    here = ("wikitext-2", "full", 1.0), ("wikitext-2", "small", 3.0)
    own = {"beside": {("HRM", "best_val_ppl"): small_only}, "remarks": {"HRM: best_*": "as said"}}
    row = found(monkeypatch, results(*here), **own)
    assert (row["ours"], row["size"]) == (3.0, "small")
    assert row["note"] == "smaller than the report; as said"
    row = found(monkeypatch, results(here[0]), **own)
    assert pd.isna(row["ours"]) and (row["n"], row["corpus"], row["size"]) == (0, "", "")
    assert row["note"] == "not measured (size full): it did not run; as said"


def test_a_broken_measure_is_loud_and_says_where(monkeypatch):
    wrong = {("HRM", "best_val_ppl"): level("hrm", "val_pl")}
    with pytest.raises(KeyError) as raised:
        found(monkeypatch, results(("wikitext-2", "full", 1.0)), beside=wrong)
    assert raised.value.__notes__ == ["beside exp01, HRM: best_val_ppl"]


def test_an_epoch_of_the_curve_by_number_or_by_column():
    main = results(("wikitext-2", "full", 1.0))()
    main = pd.concat([main, main.assign(seed=1)]).assign(best_epoch=[1, 2])
    curve = pd.DataFrame(
        [("hrm", 1, 1, 0.5), ("hrm", 1, 2, 0.25), ("hrm", 0, 1, 0.75), ("lct", 0, 1, 9.0)],
        columns=["variant", "seed", "epoch", "share"],
    ).assign(run_id="r", stage=1)
    held = Results("01_hrm_against_lct", {"": main, "curve": curve})
    assert at_epoch("hrm", "share", 1)(held).tolist() == [0.75, 0.5]
    assert at_epoch("hrm", "share", 2)(held).tolist() == [0.25]
    assert times(100, at_epoch("hrm", "share", "best_epoch"))(held).tolist() == [75, 25]
    assert held.used >= {"r"}
    with pytest.raises(Absent, match="'hrm' is not trained up to epoch 3"):
        at_epoch("hrm", "share", 3)(held)
    with pytest.raises(Absent):
        at_epoch("hrm", "share", 1, stage=2)(held)
    held.frames["curve"] = pd.concat([curve, curve.assign(stage=2)])
    with pytest.raises(ValueError, match="several rows a seed"):
        at_epoch("hrm", "share", 1)(held)
    assert at_epoch("hrm", "share", 1, stage=2)(held).tolist() == [0.75, 0.5]
