"""Committed numbers: valid tables, verdicts and README that follow from them, figures present."""

import re
import subprocess
import sys

import matplotlib
import pandas as pd
import pytest
from matplotlib.pyplot import imread

from lib.experiments import registry
from lib.figures import gallery
from lib.runs.places import ROOT
from lib.results import scoreboard, store
from lib.results.schema import check

matplotlib.use("Agg")
MODULES = registry.modules()
WITH_RESULTS = [s for s in MODULES if (ROOT / "results" / f"{s}.csv").is_file()]


def test_every_experiment_has_committed_results_or_is_listed_as_pending():
    assert sorted([*WITH_RESULTS, *registry.pending()]) == sorted(MODULES)


@pytest.mark.parametrize("slug", WITH_RESULTS)
def test_committed_tables_are_valid(slug):
    frame = store.read(slug)
    check(frame)
    assert (frame["size"] == "full").all()
    known = {"exp00", *(claim.experiment for claim in registry.claims())}
    assert set(frame["experiment"]) <= known


@pytest.mark.parametrize("slug", WITH_RESULTS)
def test_every_run_of_a_further_table_is_in_the_main_one(slug):
    runs = set(store.read(slug)["run_id"])
    for path in (ROOT / "results").glob(f"{slug}_*.csv"):
        assert set(pd.read_csv(path, dtype=str)["run_id"]) <= runs, path.name


def test_claims_file_follows_from_the_tables():
    committed = pd.read_csv(scoreboard.PATH)
    computed = scoreboard.score(registry.claims())
    assert list(committed.columns) == list(scoreboard.COLUMNS)
    for column in ("id", "experiment", "corpus", "verdict", "reason", "n"):
        assert committed[column].fillna("").tolist() == computed[column].fillna("").tolist(), column
    for column in ("reported", "ours", "ci_low", "ci_high"):
        pd.testing.assert_series_equal(
            committed[column], computed[column].astype(float), rtol=1e-8, check_names=False
        )


def test_readme_scoreboard_is_the_claims_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split(scoreboard.BEGIN)[1].split(scoreboard.END)[0].strip()
    assert block == scoreboard.markdown(pd.read_csv(scoreboard.PATH))
    assert block == scoreboard.markdown(scoreboard.score(registry.claims()))


def test_a_number_is_rounded_once(monkeypatch, tmp_path):
    """The file, the README and a notebook show the same digits: 0.572749 is no 0.5728."""
    row = dict.fromkeys(scoreboard.COLUMNS, "x") | {"n": 6, "reported": None}
    row |= {"ours": 0.572749, "ci_low": -1.99249999, "ci_high": 3.1384999}
    monkeypatch.setattr(scoreboard, "PATH", tmp_path / "claims.csv")
    monkeypatch.setattr(scoreboard, "decide", lambda claim, size: [row])
    frame = scoreboard.write([None])
    from_file = scoreboard.markdown(pd.read_csv(scoreboard.PATH))
    shown = "0.5727 [-1.992, 3.138]"
    assert from_file == scoreboard.markdown(frame) and shown in from_file
    assert scoreboard.verdicts([None])["ours"].tolist() == [shown]


@pytest.mark.parametrize(
    ("verdict", "sole"),
    [("replicated", "one deterministic value"), ("not measurable here", "one seed")],
)
def test_a_single_value_shows_no_interval(verdict, sole, monkeypatch):
    row = dict.fromkeys(scoreboard.COLUMNS, "x") | {"n": 1, "reported": None, "verdict": verdict}
    row |= dict.fromkeys(("ours", "ci_low", "ci_high"), 6.993)
    monkeypatch.setattr(scoreboard, "decide", lambda claim, size: [row])
    assert scoreboard.verdicts([None])["ours"].tolist() == [f"6.993, {sole}"]
    assert f"| 6.993, {sole} | 1 |" in scoreboard.markdown(scoreboard.score([None]))


LOCKED = re.search(r"^matplotlib==(.+)$", (ROOT / "requirements.lock").read_text(), re.M)[1]


@pytest.mark.parametrize("slug", WITH_RESULTS)
def test_figures_are_those_that_the_tables_give(slug, monkeypatch, tmp_path):
    for what in MODULES[slug].FIGURES:
        assert (ROOT / "figures" / f"{slug}_{what}.png").stat().st_size > 5_000
    real = store.folder
    monkeypatch.setattr(
        store, "folder", lambda kind, size: tmp_path if kind == "figures" else real(kind, size)
    )
    for name in gallery.redraw(MODULES[slug], store.FULL):
        assert (tmp_path / name).stat().st_size > 5_000
        if matplotlib.__version__ == LOCKED:
            new, committed = (imread(folder / name) for folder in (tmp_path, ROOT / "figures"))
            assert new.shape == committed.shape, f"{name} is of older results; make figures"
            # another processor may round an edge's shade; a line that moved changes far more
            assert abs(new - committed).max() < 0.1, f"{name} is of older results; make figures"
    if matplotlib.__version__ != LOCKED:
        pytest.skip(f"pixels are compared under matplotlib {LOCKED} only")


def test_reported_values_are_found_and_a_wrong_name_is_not():
    assert store.reported_value("exp03", "IRT", "best_val_ppl") == 11.52
    with pytest.raises(KeyError, match="no single reported value"):
        store.reported_value("exp03", "IRT", "ppl")


def test_figures_of_no_experiment_are_refused():
    command = [sys.executable, str(ROOT / "tools" / "results.py"), "figures", "--only", "03,99"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith("no experiment 99; there are 00, 01")


def test_missing_results_name_the_command():
    with pytest.raises(FileNotFoundError, match="make reproduce NB=03"):
        store.read("03_nothing")


# claim -> experiment, row, baseline: the reported effect is the change of best_val_ppl between them
CHANGES = {
    "exp01-hrm-beats-lct-1": ("exp01", "HRM", "LCT+OACD 1-layer"),
    "exp01-hrm-beats-lct-2": ("exp01", "HRM", "LCT+OACD 2-layer"),
    "exp01-two-blocks-help-lct": ("exp01", "LCT+OACD 2-layer", "LCT+OACD 1-layer"),
    "exp02-infini-beats-hrm": ("exp02", "Infini-HRM reset", "HRM"),
    "exp02-reset-beats-carry": ("exp02", "Infini-HRM reset", "Infini-HRM carry"),
    "exp02-hidden-reset-fails": ("exp02", "HRM+Memory reset", "HRM"),
    "exp02-hidden-carry-fails": ("exp02", "HRM+Memory carry", "HRM"),
    "exp03-irt-beats-standard": ("exp03", "IRT", "Standard"),
    "exp03-hrm-beats-standard": ("exp03", "HRM", "Standard"),
    "exp03-hierarchy-adds-little": ("exp03", "HRM", "IRT"),
    "exp04-lpt-beats-standard": ("exp04", "LPT sum", "Standard"),
    "exp04-lpt-weighted-beats-standard": ("exp04", "LPT weighted", "Standard"),
    "exp04-sum-beats-weighted": ("exp04", "LPT sum", "LPT weighted"),
    "exp04-irt-harms-deep": ("exp04", "IRT", "Standard"),
    "exp05-growth-collapses": ("exp05", "4-layer full", "3-layer base"),
    "exp05-frozen-equals-full": ("exp05", "4-layer frozen", "4-layer full"),
    "exp05-scratch-best": ("exp05", "4-layer scratch", "4-layer full"),
    "exp06-greedy-explodes": ("exp06", "greedy 4", "greedy 1"),
    "exp06-fine-tuning-worsens": ("exp06", "greedy + fine-tune", "greedy 4"),
    "exp06-scratch-beats-greedy": ("exp06", "4-layer scratch", "greedy 4"),
    "exp07-lpt-grows-better": ("exp07", "LPT progressive 4", "Standard progressive 4"),
    "exp07-growing-degrades": ("exp07", "LPT progressive 4", "LPT progressive 1"),
    "exp07-scratch-lpt": ("exp07", "Scratch LPT", "Scratch standard"),
    "exp07-scratch-beats-growing": ("exp07", "Scratch LPT", "LPT progressive 4"),
    "exp10-routed-beats-full": ("exp10", "Confidence-Routed", "Standard 4-layer"),
    "exp10-routed-beats-half": ("exp10", "Confidence-Routed", "Standard 2-layer"),
    "exp11-lpt-spoils-routing": ("exp11", "Full LPT", "Standard Routing"),
    "exp11-aware-spoils-routing": ("exp11", "LPT + Routing Aware", "Standard Routing"),
    "cascade_stages-stage-two-worse": ("cascade_stages", "stage 2", "stage 1"),
}
# claim -> experiment, row, metric: the reported effect is the number itself
LEVELS = {
    "exp09-losses-correlate": ("exp09", "L1-L4 loss correlation", "pearson_r"),
    "exp09-agreement": ("exp09", "threshold 0.8", "agreement_pct"),
    "exp09-compute-saved": ("exp09", "adaptive 0.8", "compute_pct"),
    "exp09-first-layer-knows": ("exp09", "L1 correct given L4 correct", "pct"),
    "exp10-compute-saved": ("exp10", "Confidence-Routed", "compute_pct"),
    "exp10-compute-saved-after-training": (
        "exp10",
        "Confidence-Routed final threshold 0.8",
        "compute_pct",
    ),
    "exp08-easy-solved-early": ("exp08", "L1 easy", "loss"),
    "context_scaling-falls": ("context_scaling", "fit", "alpha"),
}


def test_reported_effects_of_claims_agree_with_the_reported_table():
    by_id = {claim.id: claim for claim in registry.claims()}
    value = store.reported_value
    for name, (experiment, new, old) in CHANGES.items():
        ratio = value(experiment, new, "best_val_ppl") / value(experiment, old, "best_val_ppl")
        effect = 100 * (ratio - 1)
        assert by_id[name].reported == pytest.approx(effect, rel=1e-3, abs=0.06), name
    for name, row in LEVELS.items():
        assert by_id[name].reported == value(*row), name
    two, one = (value("cascade_two_layer", f"LLM {k}", m) for k, m in TWO_LAYER)
    assert by_id["cascade_two_layer-improves-hard"].reported == pytest.approx(
        100 * (two / one - 1), abs=0.06
    )


TWO_LAYER = ((1, "val_ppl_after"), (0, "val_ppl_hard"))
