"""The learning rates of notebook 20: how they are searched for, and that they follow from rows."""

import pandas as pd
import pytest

from lib.depth.experiments import tuning
from lib.depth.experiments.e20_adaptive_or_fixed_depth import E20
from lib.depth.experiments.tuning import GRID, START, TUNED, missing
from lib.depth.variants import CHOSEN


@pytest.mark.parametrize("best", GRID)
def test_the_search_goes_outward_until_the_best_lies_between_two_others(best):
    losses = {}
    while rates := missing(losses):
        losses |= {rate: abs(GRID.index(rate) - GRID.index(best)) for rate in rates}
    assert min(losses, key=losses.get) == best
    place = GRID.index(best)
    assert set(GRID[max(0, place - 1) : place + 2]) <= set(losses)
    assert set(START) <= set(losses)


def test_what_was_chosen_follows_from_the_committed_rows():
    table = pd.read_csv(tuning.TABLE)
    own = table[table["size"] == tuning.SIZE]
    assert set(own["family"]) == set(TUNED) == set(CHOSEN)
    for family, rows in own.groupby("family"):
        losses = dict(zip(rows["learning_rate"], rows["valid_loss"], strict=True))
        assert missing(losses) == [], f"{family}: rates are still to be tried"
        assert min(losses, key=losses.get) == CHOSEN[family]
        assert set(rows["variant"]) == {TUNED[family]} and (rows["run_id"].str.len() == 12).all()


def test_a_search_writes_its_rows_and_repeats_no_run(kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tuning, "TABLE", tmp_path / "20_tuning.csv")
    parameters = E20.parameters.at("tiny")
    (text,) = parameters.texts()
    best = tuning.search("adapted", "tiny", parameters, text)
    table = pd.read_csv(tmp_path / "20_tuning.csv")
    assert not table.duplicated(tuning.KEYS).any() and len(table) >= len(START)
    assert best == table.loc[table["valid_loss"].idxmin(), "learning_rate"]
    capsys.readouterr()
    assert tuning.search("adapted", "tiny", parameters, text) == best
    assert pd.read_csv(tmp_path / "20_tuning.csv").equals(table)
    assert "left" not in capsys.readouterr().out, "every run was finished"


def test_a_family_that_is_not_there_is_named():
    with pytest.raises(SystemExit, match="no family exit; allowed: adapted, exits"):
        tuning.main(["--only", "exit"])
