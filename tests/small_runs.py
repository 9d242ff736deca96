"""Small things to train and to run: a regression that takes milliseconds, and runs that misbehave.

They live in a module of their own, because worker processes import them by name.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.experiment import Experiment, Run
from lib.parameters import Parameters, real, whole
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place, Task
from lib.training.loop import Diverged, Training, Work, train


class Network(nn.Module):
    """Two layers with dropout between them, and a third that only some batches pass through."""

    def __init__(self, dropout: float = 0.0, tied: bool = False):
        super().__init__()
        self.first, self.second, self.side = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.out, self.dropout = nn.Linear(4, 1), nn.Dropout(dropout)
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor, side: bool = False) -> Tensor:
        hidden = torch.tanh(self.second(self.dropout(torch.tanh(self.first(x)))))  # (n, 4)
        return self.out(self.side(hidden) if side else hidden)


class Regression(Work):
    """Points on a curve in ``count`` batches of 8; every third batch passes through the side."""

    def __init__(
        self, seed: int = 0, count: int = 5, dropout: float = 0.0, side: bool = False,
        tied: bool = False, steps: int = 1,
    ):  # fmt: skip
        torch.manual_seed(seed)
        self.model = Network(dropout, tied)
        points = torch.Generator().manual_seed(7)
        self.x = torch.randn(count, 8, 4, generator=points)
        self.y = self.x.sum(-1, keepdim=True).sin()
        self.side, self.steps, self.seen = side, steps, 0

    def updates_an_epoch(self) -> int:
        return len(self.x) * self.steps

    def batches(self, epoch: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(epoch))
        for number in order.tolist():
            yield number, self.x[number], self.y[number]

    def losses(self, batch: Any) -> Iterator[tuple[Tensor, float]]:
        number, x, y = batch
        for _ in range(self.steps):
            found = self.model(x, self.side and number % 3 == 0)
            yield nn.functional.mse_loss(found, y), len(x)
        self.seen += 1

    def size(self, batch: Any) -> int:
        return len(batch[1])

    def validate(self) -> dict[str, Any]:
        with torch.no_grad():
            return {"valid_loss": nn.functional.mse_loss(self.model(self.x), self.y).item()}

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        return {"seen": torch.tensor(self.seen)}, {"seen": self.seen}

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        assert int(tensors["seen"]) == about["seen"]
        self.seen = about["seen"]


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
    if config.fate == "slow":
        time.sleep(0.3)
    if config.fate == "waits":
        time.sleep(600)
    torch.manual_seed(seed)
    fit = train(Regression(seed), config.training, path=place.folder / "checkpoint.safetensors")
    lost = config.fate == "lost"
    row = {
        "corpus": config.text.name,
        "corpus_sha256": config.text.sha256,
        "params": 65,
        "status": "diverged" if lost else "ok",
        "val_ppl": 1e9 if lost else config.value + fit.val_ppl + seed / 100,
        "test_ppl": 1e9 if lost else config.value + fit.val_ppl + seed / 50,
        "operations": 2**60 + seed,
    }
    return Outcome(row, {"curve": [{"epoch": r["epoch"], "val_ppl": r["val_ppl"]} for r in fit.curve]})


@run_function("beside")
def beside(config: Small, seed: int, place: Place) -> Outcome:
    """A side run that builds on the main one."""
    held = place.need(run, config, seed).record()["row"]
    row = {"corpus": config.text.name, "corpus_sha256": config.text.sha256}
    return Outcome(row, {"side": [{"twice": 2 * held["val_ppl"]}]})


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


class Smalls(Parameters):
    """Three seeds, and numbers of the loop."""

    seeds: int = whole(3, 1, 100)
    epochs: int = whole(3, 1, 100)
    learning_rate: float = real(1e-3, 0.0, above=True)

    QUICK = {"seeds": 2}
    TINY = {"seeds": 1, "workers": 1}
    LADDER = {"third": {"epochs": 2}}


@dataclass(frozen=True)
class SmallVariant:
    """A value that is added to every perplexity; ``side`` adds the run beside."""

    value: float = 1.0
    label: str = ""
    fate: str = ""
    side: bool = False
    mark: str = ""
    factors: dict = field(default_factory=dict)

    def runs(self, parameters: Smalls, text: Text) -> Iterator[Run]:
        training = Training(epochs=parameters.epochs, learning_rate=parameters.learning_rate)
        config = Small(self.value, self.fate, training, text, self.mark)
        for seed in range(parameters.seeds):
            yield Run(run, config, seed)
            if self.side:
                yield Run(beside, config, seed, side=True)


def experiment(mark: str = "", **variants: SmallVariant) -> Experiment:
    """An experiment of small runs; by default a baseline and a variant that is worse."""
    given = variants or {
        "base": SmallVariant(1.0, "Base", mark=mark),
        "worse": SmallVariant(2.0, "Worse", side=True, mark=mark, factors={"layers": 2}),
    }
    return Experiment(
        slug="98_small",
        question="Does it work?",
        parameters=Smalls,
        texts=lambda parameters: [Text()],
        variants=dict(given),
        baseline="base",
    )
