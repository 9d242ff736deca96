"""Committed numbers: valid tables, verdicts and README that follow from them, figures present."""

import matplotlib
import pandas as pd
import pytest

from lib.experiments import registry
from lib.figures import gallery
from lib.provenance import ROOT
from lib.results import scoreboard, store
from lib.results.claims import decide
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
    assert frame["experiment"].str.fullmatch(r"exp\d\d|\w+").all()


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
            committed[column], computed[column].astype(float), rtol=1e-4, check_names=False
        )


def test_readme_scoreboard_is_the_claims_file():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split(scoreboard.BEGIN)[1].split(scoreboard.END)[0].strip()
    assert block == scoreboard.markdown(scoreboard.score(registry.claims()))


@pytest.mark.parametrize("slug", WITH_RESULTS)
def test_figures_are_there_and_can_be_drawn_from_the_tables(slug, monkeypatch, tmp_path):
    for what in MODULES[slug].FIGURES:
        assert (ROOT / "figures" / f"{slug}_{what}.png").stat().st_size > 5_000
    real = store.folder
    monkeypatch.setattr(
        store, "folder", lambda kind, size: tmp_path if kind == "figures" else real(kind, size)
    )
    for name in gallery.redraw(MODULES[slug], store.FULL):
        assert (tmp_path / name).stat().st_size > 5_000


def test_reported_values_are_found_and_a_wrong_name_is_not():
    assert store.reported_value("exp03", "IRT", "best_val_ppl") == 11.52
    with pytest.raises(KeyError, match="no single reported value"):
        store.reported_value("exp03", "IRT", "ppl")


def test_missing_results_name_the_command():
    with pytest.raises(FileNotFoundError, match="make reproduce NB=03"):
        store.read("03_nothing")


def test_reported_effects_of_claims_agree_with_the_reported_table():
    by_id = {claim.id: claim for claim in registry.claims()}
    value = store.reported_value
    for name, pair in {
        "exp03-irt-beats-standard": ("exp03", "IRT", "Standard"),
        "exp04-lpt-beats-standard": ("exp04", "LPT sum", "Standard"),
        "exp04-irt-harms-deep": ("exp04", "IRT", "Standard"),
        "exp02-infini-beats-hrm": ("exp02", "Infini-HRM reset", "HRM"),
        "exp01-hrm-beats-lct-1": ("exp01", "HRM", "LCT+OACD 1-layer"),
    }.items():
        experiment, new, old = pair
        ratio = value(experiment, new, "best_val_ppl") / value(experiment, old, "best_val_ppl")
        assert by_id[name].reported == pytest.approx(100 * (ratio - 1), abs=0.1), name
        assert decide(by_id[name])[0]["n"] >= 5
