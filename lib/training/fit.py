"""The training loop. One for every character model and every training method.

AdamW, gradient clipping, early stopping on validation perplexity, the best epoch's weights put
back at the end, a curve recorded as it comes, and a checkpoint from which a killed run goes on
with the same bits.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.text.windows import Windows
from lib.training import checkpoint
from lib.training.evaluation import mean_loss, perplexity
from lib.training.objectives import Objective
from lib.training.seeding import data_order

CHECKPOINT_SECONDS = 5.0  # the least time between two checkpoints


@dataclass(frozen=True)
class Training:
    """Numbers of the loop; defaults are those of seed 004, Exp 3.

    ``restore``: ``best`` puts back the weights of the best epoch, ``last`` keeps the last ones
    (``Fit`` describes the best epoch all the same). ``shuffle=False`` visits batches in the same
    order every epoch. ``clip`` bounds the norm of the whole gradient.
    """

    epochs: int = 30
    patience: int = 5
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    shuffle: bool = True
    restore: str = "best"

    def __post_init__(self):
        if self.restore not in ("best", "last"):
            raise ValueError(f"restore is {self.restore!r}; allowed: best, last")


@dataclass(frozen=True)
class Fit:
    """What training found: the best epoch, its validation loss, the budget and the curve.

    ``updates`` and ``symbols`` count the whole run, ``best_updates`` up to the best epoch.
    """

    best_epoch: int
    valid_loss: float
    updates: int
    best_updates: int
    symbols: int
    curve: list[dict[str, Any]]

    @property
    def val_ppl(self) -> float:
        return perplexity(self.valid_loss)


class Diverged(RuntimeError):
    """A loss that is not a finite number."""


def fit(
    model: nn.Module,
    objective: Objective,
    train: Windows,
    valid: Windows,
    training: Training,
    seed: int,
    *,
    path: Path | None = None,
    trained: Iterable[nn.Parameter] | None = None,
    report: Callable[[list[dict[str, Any]], int], None] | None = None,
) -> Fit:
    """Train ``model`` in place and return the record.

    ``path`` is the checkpoint file: if it exists the run goes on from it. ``trained`` limits which
    parameters move (default: all that want a gradient). ``report(curve, epochs)`` is called
    after every epoch with all rows so far.
    Raises Diverged at the first loss that is not finite.
    """
    parameters = [p for p in (model.parameters() if trained is None else trained)]
    parameters = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    state = _State()
    if path is not None and (saved := checkpoint.load(path)) is not None:
        state = _State.resume(saved, model, optimizer)
    last_save = time.monotonic()
    while state.epoch < training.epochs and state.stale < training.patience:
        started = time.perf_counter()
        state.epoch += 1
        train_loss, updates, symbols = _epoch(
            model, objective, train, training, seed, state.epoch, optimizer, parameters
        )
        state.updates, state.symbols = state.updates + updates, state.symbols + symbols
        model.eval()
        valid_loss = mean_loss(lambda x: objective.predict(model, x), valid)
        if not math.isfinite(valid_loss):
            raise Diverged(f"validation loss {valid_loss} in epoch {state.epoch}")
        state.note(model, valid_loss)
        row = {
            "epoch": state.epoch,
            "updates": state.updates,
            "train_loss": train_loss,
            "valid_loss": valid_loss,
            "val_ppl": perplexity(valid_loss),
            **objective.measures,
            "epoch_seconds": round(time.perf_counter() - started, 3),
        }
        state.curve.append(row)
        if report is not None:
            report(state.curve, training.epochs)
        stopping = state.epoch == training.epochs or state.stale >= training.patience
        if path is not None and (stopping or time.monotonic() - last_save > CHECKPOINT_SECONDS):
            checkpoint.save(path, state.content(model, optimizer))
            last_save = time.monotonic()
    if training.restore == "best":
        model.load_state_dict(state.best)
    model.eval()
    return Fit(
        state.best_epoch,
        state.best_loss,
        state.updates,
        state.best_updates,
        state.symbols,
        state.curve,
    )


def _epoch(
    model: nn.Module,
    objective: Objective,
    train: Windows,
    training: Training,
    seed: int,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> tuple[float, int, int]:
    """One pass over the data: mean training loss, optimiser updates, symbols seen."""
    model.train()
    objective.begin_epoch()
    order = data_order(seed, epoch) if training.shuffle else None
    total, updates, symbols, batches = 0.0, 0, 0, 0
    for inputs, targets in train.batches(training.batch_size, order):
        for loss in objective.losses(model, inputs, targets):
            _step(loss, optimizer, parameters, training.clip, epoch)
            total, updates = total + loss.item(), updates + 1
        symbols, batches = symbols + inputs.numel(), batches + 1
    objective.measures = {name: value / batches for name, value in objective.measures.items()}
    return total / updates, updates, symbols


def _step(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    clip: float,
    epoch: int,
) -> None:
    if not torch.isfinite(loss):
        raise Diverged(f"training loss {loss.item()} in epoch {epoch}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()


class _State:
    """Where a run stands at the end of an epoch; everything a resume needs."""

    COUNTS = ("epoch", "stale", "updates", "symbols", "best_epoch", "best_updates", "best_loss")

    def __init__(self) -> None:
        self.epoch = self.stale = self.updates = self.symbols = 0
        self.best_epoch = self.best_updates = 0
        self.best_loss = math.inf
        self.best: dict[str, Tensor] = {}
        self.curve: list[dict[str, Any]] = []

    def note(self, model: nn.Module, valid_loss: float) -> None:
        """Count an epoch without improvement, or keep this one as the best so far."""
        if valid_loss < self.best_loss:
            self.stale, self.best_loss = 0, valid_loss
            self.best_epoch, self.best_updates = self.epoch, self.updates
            self.best = copy.deepcopy(model.state_dict())
        else:
            self.stale += 1

    def content(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in self.COUNTS}
        return {
            **counts,
            "best": self.best,
            "curve": self.curve,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    @classmethod
    def resume(
        cls, saved: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> "_State":
        state = cls()
        for name in (*cls.COUNTS, "best", "curve"):
            setattr(state, name, saved[name])
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        return state
