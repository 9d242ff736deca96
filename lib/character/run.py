"""One run of a character experiment: build, train, evaluate, from a description alone.

A variant is a model configuration, an objective and a ``Training``; text and random seed are shared
between variants. This is the function that most character experiments hand to the sweep.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.character.objectives import Objective
from lib.results.schema import status
from lib.runs import files
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.text.corpus import Corpus
from lib.text.windows import Windows
from lib.training.loop import Fit, Training, Work, perplexity, train
from lib.training.seeding import data_order, seed_weights

STATES = ("best", "last")
KEPT = tuple(f"{state}.safetensors" for state in STATES)


@dataclass(frozen=True)
class CharacterRun:
    """A variant on a corpus. ``model`` is a configuration with ``build(vocabulary)``.

    ``whole_batches`` drops windows that do not fill a batch (R4, Experiments 5-11). ``keep`` leaves
    the weights of the best and the last validation in the run's folder.
    """

    corpus: Corpus
    model: Any
    objective: Objective
    training: Training = Training()
    length: int = 64
    whole_batches: bool = False
    keep: bool = field(default=False, metadata={"place": True}, compare=False)

    def windows(self, split: str) -> Windows:
        """The windows of train, valid or test."""
        symbols = self.corpus.alphabet.encode(getattr(self.corpus, split))
        windows = Windows.cut(symbols, self.length)
        return windows.whole_batches(self.training.batch_size) if self.whole_batches else windows

    def build(self) -> nn.Module:
        """The network, its weights drawn from the global generator."""
        return self.model.build(len(self.corpus.alphabet))


class WindowWork(Work):
    """Windows of symbols under an objective. ``groups`` as in Work; default: all that may move."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        windows: tuple[Windows, Windows],
        training: Training,
        seed: int,
        groups: list[tuple[Iterable[nn.Parameter], float]] | None = None,
    ):
        self.model, self.objective, self.training, self.seed = model, objective, training, seed
        self.train_windows, self.valid_windows = windows
        self.own_groups = groups
        self.seen = 0  # batches of the epoch, over which measures are averaged
        # what is carried from batch to batch is not kept: such a run goes on from its last epoch
        self.mid_epoch = not getattr(objective, "carry", False)

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        if self.own_groups is None:
            return super().groups()
        split = ((list(params), rate) for params, rate in self.own_groups)
        return [([p for p in params if p.requires_grad], rate) for params, rate in split]

    def updates_an_epoch(self) -> int:
        return -(-len(self.train_windows) // self.training.batch_size) * self.objective.steps

    def begin_epoch(self, epoch: int) -> None:
        self.objective.begin_epoch()
        self.seen = 0

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = data_order(self.seed, epoch) if self.training.shuffle else None
        device = next(self.model.parameters()).device
        for symbols, targets in self.train_windows.batches(self.training.batch_size, order):
            yield symbols.to(device), targets.to(device)

    def losses(self, batch: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, float]]:
        for loss in self.objective.losses(self.model, *batch):
            yield loss, 1.0
        self.seen += 1

    def size(self, batch: tuple[Tensor, Tensor]) -> int:
        return batch[0].numel()

    def validate(self) -> dict[str, Any]:
        return {"valid_loss": held_out_loss(self.model, self.objective, self.valid_windows)}

    def measures(self) -> dict[str, float]:
        batches = max(self.seen, 1)  # a run may end within its first batch
        return {name: value / batches for name, value in self.objective.measures.items()}

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        return {}, {"seen": self.seen, "measures": self.objective.measures}

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        self.seen = about["seen"]
        self.objective.begin_epoch()
        self.objective.measures = dict(about["measures"])


@run_function("character")
def run_character(config: CharacterRun, seed: int, place: Place) -> Outcome:
    """Train one variant with one seed; curve and checkpoint live in the place as it goes."""
    seed_weights(seed)
    return trained(config, config.build(), seed, place)


def trained(config: CharacterRun, model: nn.Module, seed: int, place: Place) -> Outcome:
    """Train a network that is there already, as ``run_character`` does."""
    model = model.to(place.device)
    windows = config.windows("train"), config.windows("valid")
    work = WindowWork(model, config.objective, windows, config.training, seed)
    fit = train(
        work,
        config.training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.corpus.sha256}",
        report=CurveFile(place.folder / "curve.csv"),
    )
    if config.keep:
        for state in STATES:
            save_tensors(place.folder / f"{state}.safetensors", getattr(fit, state))
    return outcome(config, model, fit)


def outcome(config: CharacterRun, model: nn.Module, fit: Fit) -> Outcome:
    """The row and curve of a trained variant, its test perplexity included where a test exists."""
    row = {
        "corpus": config.corpus.name,
        "corpus_sha256": config.corpus.sha256,
        "train_chars": len(config.corpus.train),
        "params": sum(p.numel() for p in model.parameters()),
        "best_epoch": fit.best_epoch,
        "epochs": len(fit.curve),
        "updates": fit.updates,
        "best_updates": fit.best_updates,
        "symbols": fit.symbols,
        "val_ppl": fit.val_ppl,
        "last_val_ppl": fit.curve[-1]["val_ppl"],
        "test_ppl": None,
        "status": status(fit.val_ppl, len(config.corpus.alphabet)),
    }
    if config.corpus.test:
        loss = held_out_loss(model, config.objective, config.windows("test"))
        row["test_ppl"] = perplexity(loss)
    return Outcome(row, {"curve": fit.curve})


def own_seconds(curve: list[dict[str, Any]]) -> float:
    """Seconds of a training that may have waited for another one, which has seconds of its own."""
    return round(sum(epoch["epoch_seconds"] for epoch in curve), 2)


@torch.no_grad()
def symbol_losses(
    predict: Callable[[Tensor], Tensor], windows: Windows, batch_size: int = 64
) -> Tensor:
    """Cross-entropy of every symbol, (n, T) in nats.

    ``predict`` maps symbols (B, T) to logits (B, T, V), on any device.
    """
    losses = []
    for inputs, targets in windows.batches(batch_size):
        logits = predict(inputs).cpu()
        losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none"))
    return torch.cat(losses).view(windows.targets.shape)


def mean_loss(predict: Callable[[Tensor], Tensor], windows: Windows, batch_size: int = 64) -> float:
    """Mean cross-entropy per symbol in nats, every symbol counting once."""
    return symbol_losses(predict, windows, batch_size).double().mean().item()


def held_out_loss(model: nn.Module, objective: Objective, windows: Windows) -> float:
    """Mean loss in nats of a model as its objective uses it."""
    device = next(model.parameters()).device
    return mean_loss(lambda x: objective.predict(model, x.to(device)), windows)


def load_state(config: CharacterRun, place: Place, state: str) -> nn.Module:
    """The kept model in evaluation mode.

    Raises ValueError for a state other than best or last, Damaged for a file that was changed.
    """
    if state not in STATES:
        raise ValueError(f"state is {state!r}; allowed: {', '.join(STATES)}")
    model = config.build().to(place.device)
    model.load_state_dict(load_tensors(place.folder / f"{state}.safetensors")[0])
    return model.eval()


class CurveFile:
    """Writes the curve to a CSV file as it grows, so that a long run can be watched."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, curve: list[dict[str, Any]]) -> None:
        """Replace the file by the whole curve so far."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(k for row in curve for k in row)))
        writer.writeheader()
        writer.writerows(curve)
        files.write_text(self.path, text.getvalue())
