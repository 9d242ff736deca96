"""Phase 2 of R3: next-token training of TokenBlock and head on given contexts.

Contiguous batches in stream order, Adam with a constant rate, gradient clip 1.0, no dropout: the
report's recipe, with a fixed batch size instead of one derived from free memory.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lib.context.features import Features
from lib.context.head import NextTokenModel, adam_groups
from lib.training.loop import Diverged, Training, Work, perplexity
from lib.training.optimizers import Adam

EVALUATION_CHUNK = 1024
CARRIED = ("epoch", "updates", "total", "weight", "limited")  # of a Phase 2 that has a limit


def recipe(
    batch: int = 512,
    rate: float = 1e-3,
    epochs: int = 10,
    patience: int = 1,
    updates: int = 0,
) -> Training:
    """The numbers of a Phase 2; ``patience`` 0 never stops early, ``updates`` 0 sets no limit."""
    return Training(
        epochs=epochs,
        patience=patience,
        batch_size=batch,
        learning_rate=rate,
        shuffle=False,
        optimizer="adam",
        max_updates=updates,
    )


@torch.no_grad()
def evaluate(model: NextTokenModel, features: Features) -> dict[str, float]:
    """Mean cross-entropy (nats), perplexity and top-1 accuracy (0 to 1) over scored positions.

    Where all types are scored, also ``held_ppl``: over the types that the training text holds.
    Raises Diverged when the loss is not finite and ValueError when nothing is scored.
    """
    sums: dict[str, float] = {}
    for begin in range(0, features.positions, EVALUATION_CHUNK):
        end = min(begin + EVALUATION_CHUNK, features.positions)
        for name, value in model.sums(*features.batch(begin, end)).items():
            sums[name] = sums.get(name, 0.0) + value
    scored = sums["scored"]
    if not scored:
        raise ValueError(f"none of {features.positions} positions is of a type of the vocabulary")
    loss = sums["loss"] / scored
    if not math.isfinite(loss):
        raise Diverged(f"the loss over {scored:.0f} positions is {loss}")
    found = {"loss": loss, "ppl": perplexity(loss), "acc": sums["right"] / scored}
    if sums.get("held_scored"):
        found["held_ppl"] = perplexity(sums["held_loss"] / sums["held_scored"])
    return found


class NextTokenWork(Work):
    """Training for the next token, whatever else of the ``model`` is trained with the head."""

    def optimizer(self, training: Training) -> torch.optim.Optimizer:
        return Adam(adam_groups(self.model, training.learning_rate), fused=True)


class PhaseTwoWork(NextTokenWork):
    """Batches of consecutive positions. ``report`` names further features (test) that are
    evaluated each epoch and never used to choose.

    ``limit`` updates, where they end inside an epoch, leave in ``limited`` the row of the curve
    with which a run of so many would end, without its time. 0: none.
    """

    def __init__(
        self,
        model: NextTokenModel,
        train: Features,
        valid: Features,
        training: Training,
        report: dict[str, Features] | None = None,
        limit: int = 0,
    ):
        self.model, self.features, self.training = model, train, training
        self.parts = {"val": valid, **(report or {})}
        self.limit, self.limited = limit, None
        self.epoch = self.updates = 0
        self.total = self.weight = 0.0  # of the losses of this epoch

    def updates_an_epoch(self) -> int:
        return -(-self.features.positions // self.training.batch_size)

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.total, self.weight = epoch, 0.0, 0.0

    def batches(self, epoch: int) -> Iterator[tuple[int, int]]:
        positions, size = self.features.positions, self.training.batch_size
        for begin in range(0, positions, size):
            yield begin, min(begin + size, positions)

    def losses(self, batch: tuple[int, int]) -> Iterator[tuple[Tensor, float]]:
        loss, weight = self.model.loss(*self.features.batch(*batch)), float(batch[1] - batch[0])
        yield loss, weight
        self.updates += 1
        self.total, self.weight = self.total + loss.item() * weight, self.weight + weight
        if self.updates == self.limit and self.limit % self.updates_an_epoch():
            found, train_loss = self.validate(), self.total / self.weight
            row = {"epoch": self.epoch, "updates": self.updates, "train_loss": train_loss}
            loss = found.pop("valid_loss")
            self.limited = {**row, "valid_loss": loss, "val_ppl": perplexity(loss), **found}

    def size(self, batch: tuple[int, int]) -> int:
        return batch[1] - batch[0]

    def validate(self) -> dict[str, Any]:
        return evaluated(self.model, self.parts)

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        return {}, {name: getattr(self, name) for name in CARRIED} if self.limit else None

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        for name, value in (about or {}).items():
            setattr(self, name, value)


def evaluated(model: NextTokenModel, parts: dict[str, Features]) -> dict[str, Any]:
    """A row of the curve: loss, perplexity and accuracy of every part, val's loss to choose by."""
    found: dict[str, Any] = {}
    for name, features in parts.items():
        found |= {f"{name}_{key}": value for key, value in evaluate(model, features).items()}
    return {"valid_loss": found.pop("val_loss"), **found}
