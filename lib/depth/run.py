"""One run: the adapters of one method with one random seed, and everything the network is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from lib.depth.adapters import Adapters, for_use, frozen
from lib.depth.evaluation import Evaluation, Pieces, Row
from lib.depth.exit_gate import ExitGate
from lib.depth.flops import Costs
from lib.depth.llama import Llama
from lib.depth.methods import Method
from lib.depth.texts import LENGTH, BaseName, DepthText, Windows
from lib.depth.work import DepthWork
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.loop import Fit, Training, perplexity, train
from lib.training.seeding import seed_weights

KEPT = "network.safetensors"
WATCHED = 16  # windows of each text's valid that are looked at during training
CONTEXT = (LENGTH + 1) / 2  # tokens that a token attends to in the mean


@dataclass(frozen=True)
class DepthRun:
    """A method on a base and a text. ``rank``: of the adapters of a network of all layers.

    ``keep`` leaves adapters and gates in the run's folder.
    """

    base: BaseName
    text: DepthText
    method: Method
    training: Training
    rank: int = 8
    keep: bool = field(default=False, metadata={"place": True}, compare=False)
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)

    def watched(self) -> Windows:
        """The part of valid that the curve is made of."""
        parts = (self.text.parts[name]["valid"].ids[:WATCHED] for name in self.text.texts)
        return Windows(torch.cat(list(parts)))


def fitted(config: DepthRun, seed: int, place: Place):
    """Frozen network, trained adapters and the record of training (None: nothing was trained)."""
    seed_weights(seed)
    llama = frozen(config.base.load().model.to(place.device), config.method)
    adapters = Adapters(llama, config.method, config.rank).to(place.device)
    if not config.method.trained:
        return llama, adapters, None
    windows = config.text.joined("train"), config.watched()
    work = DepthWork(llama, adapters, config.method, windows, config.training, seed)
    fit = train(
        work,
        config.training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{config.method} {seed} {config.text.sha256}",
    )
    return llama, adapters, fit


@run_function("depth")
def run(config: DepthRun, seed: int, place: Place) -> Outcome:
    """Train the adapters, then measure the network at every cost it can be run at."""
    llama, adapters, fit = fitted(config, seed, place)
    if fit is not None:
        llama = for_use(llama, adapters)
    costs = Costs.of(llama, config.method.layers, CONTEXT)
    pieces = Pieces(place.folder / "checkpoint-points.json")
    with torch.inference_mode():
        evaluation = Evaluation(llama, config.method, costs, config.text, pieces, seed)
        points = evaluation.points()
        kept = {f"adapters/{name}": value for name, value in adapters.state_dict().items()}
        if config.method.exits:
            kept |= {"gate/weight": evaluation.gate.weight, "gate/bias": evaluation.gate.bias}
    if config.keep:
        save_tensors(place.folder / KEPT, kept)
    found = {"points": points} | ({"curve": fit.curve} if fit is not None else {})
    return Outcome(row_of(config, adapters, fit, points), found)


@run_function("depth-tuning")
def tune(config: DepthRun, seed: int, place: Place) -> Outcome:
    """Train only; what counts is the mean over read-outs of the loss on the watched valid."""
    _, adapters, fit = fitted(config, seed, place)
    last = fit.curve[-1]
    losses = [last[name] for name in last if name == "valid_loss" or name.startswith("loss_exit")]
    row = {
        "corpus": config.text.name,
        "corpus_sha256": config.text.sha256,
        "learning_rate": config.training.learning_rate,
        "params": adapters.count(),
        "valid_loss": sum(losses) / len(losses),
    }
    return Outcome(row, {"curve": fit.curve})


def row_of(config: DepthRun, adapters: Adapters, fit: Fit | None, points: list[Row]) -> Row:
    """The main row: the network at the point it was made for."""
    own = main_points(config.method, points)
    tests = [row for row in own if row["split"] == "test"]
    valid = next(row for row in own if row["split"] == "valid")
    return {
        "corpus": config.text.name,
        "corpus_sha256": config.text.sha256,
        "base": config.base.name,
        "params": adapters.count() if fit is not None else 0,
        "best_epoch": fit.epoch if fit is not None else None,
        "updates": fit.updates if fit is not None else 0,
        "tokens": fit.symbols if fit is not None else 0,
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


def load_network(config: DepthRun, place: Place) -> tuple[Llama, ExitGate | None]:
    """The network of a finished run, merged, and the gates of its exits.

    Raises FileNotFoundError or Damaged as ``load_tensors``.
    """
    tensors, _ = load_tensors(place.folder / KEPT)
    llama = frozen(config.base.load().model.to(place.device), config.method)
    adapters = Adapters(llama, config.method, config.rank).to(place.device)
    adapters.load_state_dict({n: tensors[f"adapters/{n}"] for n in adapters.state_dict()})
    gate = None
    if config.method.exits:
        gate = ExitGate(*(tensors[f"gate/{n}"].to(place.device) for n in ("weight", "bias")))
    return for_use(llama, adapters), gate


def settings(learning_rate: float, batch_size: int) -> Training:
    """The numbers of training that all methods share: one pass, the rate falling to 0."""
    return Training(
        epochs=1,
        patience=0,
        batch_size=batch_size,
        learning_rate=learning_rate,
        restore="last",
        schedule="linear",
        validations=4,
    )
