"""Find the learning rate of every family of methods of notebook 20, on validation text only.

python -m lib.depth.experiments.tuning                    all families, size third
python -m lib.depth.experiments.tuning --only exits,gated --size tenth

Each family is trained with random seed 0; what counts is the loss on the watched part of valid. A
finished run is read, not made again. After each step outward ``results/20_tuning.csv`` is written.
CHOSEN in ``lib.depth.variants`` follows from its rows of SIZE (65 updates; the 20 of ``tenth``
favour the largest rates), and a test sees that it does.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from lib.depth.experiments.e20_adaptive_or_fixed_depth import E20
from lib.depth.network import run_tuning
from lib.depth.texts import DepthText
from lib.parameters import listed
from lib.refusals import told
from lib.runs import devices, files
from lib.runs.places import ROOT
from lib.runs.sweep import sweep
from lib.runs.task import Task

TABLE = ROOT / "results" / "20_tuning.csv"
SIZE = "third"
GRID = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
START = GRID[1:4]  # tried first; then outwards, as long as the best of those tried is an outer one
TUNED = {  # the method that stands for its family
    "adapted": "adapted",
    "exits": "exits",
    "layerskip": "layerskip",
    "removed": "last_removed_70",
    "gated": "gated",
    "again": "again_hard",
}
SIZES = ("full", *E20.parameters.LADDER)  # those of the real base
KEYS = ["size", "corpus", "family", "learning_rate", "seed"]


def missing(losses: Mapping[float, float]) -> list[float]:
    """Rates that are still to be tried, where those of ``losses`` were: START, then the next one
    outside while the lowest loss is at an end. Empty when the search is over.
    """
    if begin := [rate for rate in START if rate not in losses]:
        return begin
    place = GRID.index(min(losses, key=losses.__getitem__))
    around = GRID[max(0, place - 1) : place + 2]
    return [rate for rate in around if rate not in losses]


def tasks_of(family: str, parameters: Any, text: DepthText, rates: Sequence[float]) -> list[Task]:
    """A run a rate: the method that stands for the family, without its measurements."""
    config, found = E20.variants[TUNED[family]].config(parameters, text), []
    for rate in rates:
        training = replace(config.training, learning_rate=rate, validations=1)
        label = {"variant": f"{family}, rate {rate:g}"}
        found.append(Task(run_tuning, replace(config, training=training), 0, label))
    return found


def row_of(family: str, size: str, record: dict[str, Any]) -> dict[str, Any]:
    """A row of the table from the record of a run."""
    row = record["row"]
    return {
        "size": size,
        "corpus": row["corpus"],
        "corpus_sha256": row["corpus_sha256"],
        "family": family,
        "variant": TUNED[family],
        "learning_rate": row["learning_rate"],
        "seed": 0,
        "params": row["params"],
        "valid_loss": row["valid_loss"],
        "seconds": row["seconds"],
        "device": row["device"],
        "run_id": record["key"],
    }


def keep(rows: list[dict[str, Any]]) -> None:
    """Merge rows into the table; the same run again takes its own place."""
    with files.locked(TABLE.with_name(f".{TABLE.stem}.lock")):
        old = pd.read_csv(TABLE) if TABLE.is_file() else pd.DataFrame()
        both = pd.concat([old, pd.DataFrame(rows)], ignore_index=True)
        both = both.drop_duplicates(KEYS, keep="last").sort_values(KEYS, ignore_index=True)
        files.write_text(TABLE, both.to_csv(index=False, float_format="%.6g"))


def search(family: str, size: str, parameters: Any, text: DepthText) -> float:
    """Try rates until the best lies between two others; returns it."""
    losses: dict[float, float] = {}
    while rates := missing(losses):
        tasks = tasks_of(family, parameters, text, rates)
        rows = [
            row_of(family, size, record)
            for _, record in sweep(tasks, parameters.workers, devices.choose(parameters.device))
        ]
        keep(rows)
        losses |= {row["learning_rate"]: row["valid_loss"] for row in rows}
    best = min(losses, key=losses.__getitem__)
    tried = ", ".join(f"{rate:g} {loss:.3f}" for rate, loss in sorted(losses.items()))
    print(f"{family}: {best:g} (nats: {tried})", flush=True)
    return best


@told()
def main(arguments: Sequence[str] | None = None) -> None:
    """Search for each family in turn."""
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--only", default="", help="families, such as exits,gated")
    parser.add_argument("--size", choices=SIZES, default=SIZE)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    families = listed(given.only) or list(TUNED)
    if unknown := [name for name in families if name not in TUNED]:
        sys.exit(f"no family {', '.join(unknown)}; allowed: {', '.join(TUNED)}")
    parameters = E20.parameters.at(given.size)
    (text,) = parameters.texts()
    for family in families:
        search(family, given.size, parameters, text)


if __name__ == "__main__":
    main()
