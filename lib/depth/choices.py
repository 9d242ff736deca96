"""The learning rate of every family of methods, chosen on validation text.

``python -m lib.depth.experiments.tuning`` trains each family with random seed 0 and writes what the
watched part of valid loses at each rate into ``results/20_tuning.csv``. CHOSEN follows from its
rows of SIZE (65 updates; the 20 of ``tenth`` favour the largest rates), and a test sees that it
does.
"""

from __future__ import annotations

from collections.abc import Mapping

from lib.runs.places import ROOT

TABLE = ROOT / "results" / "20_tuning.csv"
SIZE = "third"
GRID = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
START = GRID[1:4]  # tried first; then outwards, as long as the best of those tried is an outer one
CHOSEN = {
    "adapted": 2e-3,
    "exits": 8e-3,
    "layerskip": 8e-3,
    "removed": 4e-3,
    "gated": 4e-3,
    "again": 2e-3,
}
TUNED = {  # the method that stands for its family
    "adapted": "adapted",
    "exits": "exits",
    "layerskip": "layerskip",
    "removed": "last_removed_70",
    "gated": "gated",
    "again": "again_hard",
}


def missing(losses: Mapping[float, float]) -> list[float]:
    """Rates that are still to be tried, where those of ``losses`` were: START, then the next one
    outside while the lowest loss is at an end. Empty when the search is over.
    """
    if begin := [rate for rate in START if rate not in losses]:
        return begin
    place = GRID.index(min(losses, key=losses.__getitem__))
    around = GRID[max(0, place - 1) : place + 2]
    return [rate for rate in around if rate not in losses]
