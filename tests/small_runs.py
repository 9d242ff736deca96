"""Runs that take milliseconds, and runs that misbehave.

They live in a module of their own, because worker processes import them by name.
"""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from small_work import Regression

from lib.runs.key import run_function
from lib.runs.task import Outcome, Place, Task
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.loop import Diverged, Training, train


@dataclass(frozen=True)
class Text:
    """What a run is about: a name that results accept, and a hash."""

    name: str = "embedded"
    sha256: str = "a" * 64


@dataclass(frozen=True)
class Small:
    """``fate``: what becomes of the run; ``mark``: a folder where it leaves a line a start."""

    value: float = 1.0
    fate: str = ""
    training: Training = Training(epochs=3)
    text: Text = Text()
    mark: str = field(default="", metadata={"place": True}, compare=False)


@run_function("small")
def run(config: Small, seed: int, place: Place) -> Outcome:
    """Fit the small regression, or do what ``fate`` says."""
    begun(config, seed)
    if config.fate == "fails":
        raise ValueError("it cannot be done\nsecond line")
    if config.fate == "kills" or (config.fate == "kills once" and begun(config, seed, 0) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fate == "diverges":
        raise Diverged("training loss nan in epoch 1, update 2")
    if config.fate == "no test":
        return Outcome({"corpus": "embedded", "val_ppl": 5.0, "test_ppl": float("nan")})
    if config.fate == "slow":
        time.sleep(0.3)
    if config.fate == "draws":
        torch.manual_seed(seed)
        time.sleep(0.1)
        return Outcome({"corpus": "embedded", "val_ppl": 3.0 + torch.rand(1).item()})
    if config.fate == "waits":
        time.sleep(600)
    found, curve = 0.5, []
    if not config.fate:
        fit = train(Regression(seed), config.training, path=place.folder / "checkpoint.safetensors")
        found = fit.val_ppl
        curve = [{"epoch": row["epoch"], "val_ppl": row["val_ppl"]} for row in fit.curve]
    lost = config.fate == "lost"
    row = {
        "corpus": config.text.name,
        "corpus_sha256": config.text.sha256,
        "params": 65,
        "status": "diverged" if lost else "ok",
        "val_ppl": 1e9 if lost else config.value + found + seed / 100,
        "test_ppl": 1e9 if lost else config.value + found + seed / 50,
        "operations": 2**60 + seed,
    }
    return Outcome(row, {"curve": curve})


@run_function("clocked", starts_from=lambda config, seed: [(keeps, config, seed)], clock=True)
def clocked(config: Small, seed: int, place: Place) -> Outcome:
    """A run that reads the clock, of what another one has kept."""
    begun(config, seed)
    place.need(keeps, config, seed, "best.safetensors")
    return Outcome({"corpus": "embedded", "val_ppl": 3.0})


@run_function(
    "clock of clocks", starts_from=lambda config, seed: [(clocked, config, seed)], clock=True
)
def of_clocks(config: Small, seed: int, place: Place) -> Outcome:
    """A run that tells what another one has timed."""
    return Outcome(place.need(clocked, config, seed).record()["row"])


@run_function("beside")
def beside(config: Small, seed: int, place: Place) -> Outcome:
    """A side run that builds on the main one."""
    held = place.need(run, config, seed).record()["row"]
    row = {"corpus": config.text.name, "corpus_sha256": config.text.sha256}
    return Outcome(row, {"side": [{"twice": 2 * held["val_ppl"]}]})


def earlier(config: Small, seed: int) -> list[tuple]:
    """The run that another notebook has as a row."""
    return [(keeps, config, seed, "best.safetensors")]


@run_function("later", starts_from=earlier)
def later(config: Small, seed: int, place: Place) -> Outcome:
    """A run that starts from what another one has kept."""
    return Outcome(place.starts(earlier, config, seed)[0].record()["row"])


@run_function("keeps")
def keeps(config: Small, seed: int, place: Place) -> Outcome:
    """A run that keeps weights."""
    save_tensors(place.folder / "best.safetensors", {"weight": torch.tensor([1.0, seed])})
    return Outcome({"val_ppl": 2.0})


@run_function("on_kept")
def on_kept(config: Small, seed: int, place: Place) -> Outcome:
    """A run that reads what another one keeps."""
    there = place.need(keeps, config, seed, "best.safetensors")
    weights, _ = load_tensors(there.folder / "best.safetensors")
    return Outcome({"val_ppl": 3.0 + weights["weight"].sum().item()})


def begun(config: Small, seed: int, more: int = 1) -> int:
    """Note a start of a run, if it has a place for that; how many there have been."""
    if not config.mark:
        return 1
    path = Path(config.mark) / f"{config.value}-{config.fate}-{seed}"
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n" * more)
    return len(path.read_text().splitlines())


def task(variant: str = "a", seed: int = 0, **config: Any) -> Task:
    """A task of the small run."""
    labels = {"experiment": "exp98", "variant": variant, "label": variant.upper()}
    return Task(run, Small(**config), seed, labels)
