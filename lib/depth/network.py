"""One trained network: the adapters of a method with one random seed, and the gates of its exits.

It is a run of its own, so that whatever measures it (losses, speed, drafts) trains it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lib.depth import exit_gate, forward
from lib.depth.adapters import Adapters, for_use, frozen
from lib.depth.exit_gate import ExitGate
from lib.depth.llama import Llama
from lib.depth.methods import Method
from lib.depth.reading import token_losses
from lib.depth.texts import BaseName, DepthText, Windows
from lib.depth.work import DepthWork
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.loop import Fit, Training, train
from lib.training.seeding import seed_weights

KEPT = "network.safetensors"
WATCHED = 16  # windows of each text's valid that are looked at during training


@dataclass(frozen=True)
class DepthRun:
    """A method on a base and a text. ``rank``: of the adapters of a network of all layers."""

    base: BaseName
    text: DepthText
    method: Method
    training: Training
    rank: int = 8
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)

    def watched(self) -> Windows:
        """The part of valid that the curve is made of."""
        parts = (self.text.parts[name]["valid"].ids[:WATCHED] for name in self.text.texts)
        return Windows(torch.cat(list(parts)))


@run_function("depth-network")
def run_learning(config: DepthRun, seed: int, place: Place) -> Outcome:
    """Train the adapters, fit the gates, and leave both in the run's folder as KEPT."""
    llama, adapters, fit = _fitted(config, seed, place)
    kept = {f"adapters/{name}": value for name, value in adapters.state_dict().items()}
    if config.method.exits:
        gate = _gates(for_use(llama, adapters), config.method, config.text.joined("gate"))
        kept |= {"gate/weight": gate.weight, "gate/bias": gate.bias}
    save_tensors(place.folder / KEPT, kept)
    row = {
        "corpus": config.text.name,
        "corpus_sha256": config.text.sha256,
        "params": adapters.count() if fit is not None else 0,
        "best_epoch": fit.epoch if fit is not None else None,
        "updates": fit.updates if fit is not None else 0,
        "tokens": fit.symbols if fit is not None else 0,
    }
    return Outcome(row, {"curve": fit.curve} if fit is not None else {})


@run_function("depth-tuning")
def run_tuning(config: DepthRun, seed: int, place: Place) -> Outcome:
    """Train only; what counts is the mean over read-outs of the loss on the watched valid."""
    _, adapters, fit = _fitted(config, seed, place)
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


def _fitted(config: DepthRun, seed: int, place: Place) -> tuple[Llama, Adapters, Fit | None]:
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


@torch.inference_mode()
def _gates(llama: Llama, method: Method, windows: Windows) -> ExitGate:
    """Ridge gates of all exits, fitted on text that neither training nor thresholds see."""
    reads: list[list[Tensor]] = [[] for _ in method.exits]
    gains: list[list[Tensor]] = [[] for _ in method.exits]
    for ids, labels in windows.batches(llama.embedding.device):
        states = forward.through(llama, ids)
        last = token_losses(llama, states[-1], labels)
        for i, e in enumerate(method.exits):
            reads[i].append(llama.read(states[e]).flatten(0, 1))
            gains[i].append((token_losses(llama, states[e], labels) - last).flatten())
    return exit_gate.fit([torch.cat(x) for x in reads], [torch.cat(y) for y in gains])


def network_of(
    config: DepthRun, seed: int, place: Place
) -> tuple[Llama, ExitGate | None, dict[str, Any]]:
    """``load_network`` of the run that trains it, made now if it is not finished; its record."""
    there = place.need(run_learning, config, seed, KEPT)
    return *load_network(config, there), there.record()


def load_network(config: DepthRun, place: Place) -> tuple[Llama, ExitGate | None]:
    """The network of a finished run of ``learn``, merged, and the gates of its exits; the frozen
    base's own layers of a method that trains nothing.

    Raises FileNotFoundError or Damaged as ``load_tensors``.
    """
    tensors, _ = load_tensors(place.folder / KEPT)
    llama = frozen(config.base.load().model.to(place.device), config.method)
    if not config.method.trained:
        return llama, None
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
