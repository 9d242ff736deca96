"""One run of notebook 20: everything that a trained network is worth, at every cost."""

from __future__ import annotations

from typing import Any

import torch

from lib.depth.evaluation import Evaluation, Pieces, Row
from lib.depth.flops import Costs
from lib.depth.methods import Method
from lib.depth.network import DepthRun, network_of
from lib.depth.texts import LENGTH
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.training.loop import perplexity

CONTEXT = (LENGTH + 1) / 2  # tokens that a token attends to in the mean


@run_function("depth")
def run_depth(config: DepthRun, seed: int, place: Place) -> Outcome:
    """Train the network, then measure it at every cost it can be run at."""
    llama, gate, trained = network_of(config, seed, place)
    costs = Costs.of(llama, config.method.layers, CONTEXT)
    pieces = Pieces(place.folder / "checkpoint-points.json")
    with torch.inference_mode():
        points = Evaluation(llama, config.method, costs, config.text, pieces, seed, gate).points()
    return Outcome(row_of(config, trained["row"], points), {"points": points} | trained["tables"])


def row_of(config: DepthRun, trained: dict[str, Any], points: list[Row]) -> Row:
    """The main row: the network at the point it was made for. ``trained``: the row of ``learn``."""
    own = main_points(config.method, points)
    tests = [row for row in own if row["split"] == "test"]
    valid = next(row for row in own if row["split"] == "valid")
    return {
        "corpus": config.text.name,
        "corpus_sha256": config.text.sha256,
        "base": config.base.name,
        **{name: trained[name] for name in ("params", "best_epoch", "updates", "tokens")},
        "layers": config.method.depth,
        "flops": sum(row["flops"] for row in tests) / len(tests),
        "val_ppl": perplexity(valid["loss"]),
        "test_ppl": perplexity(sum(row["loss"] for row in tests) / len(tests)),
        **{f"test_loss_{row['text'].replace('-', '_')}": row["loss"] for row in tests},
    }


def main_points(method: Method, points: list[Row]) -> list[Row]:
    """Of a network that can be run at many costs: all layers, or the share it was trained at."""
    if method.exits:
        return [r for r in points if r["rule"] == "static" and r["depth"] == method.depth]
    if method.gated is not None:
        return _nearest(points, "rate", method.gated.rate)
    if method.again is not None and not method.trained:
        valid = [r for r in points if r["split"] == "valid"]
        best = min(valid, key=lambda r: r["loss"])
        return [r for r in points if r["mix"] == best["mix"]]
    if method.again is not None:
        return _nearest(points, "target", method.again.rate)
    return points


def _nearest(points: list[Row], name: str, wanted: float) -> list[Row]:
    """The points of the target whose value on valid is nearest to the wanted one."""
    valid = [r for r in points if r["split"] == "valid"]
    best = min(valid, key=lambda r: abs(r[name] - wanted))
    return [r for r in points if r["target"] == best["target"]]
