"""The training loop that the routed stage and its rivals share: same steps, order and stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.training.seeding import data_order


@dataclass(frozen=True)
class Adaptation:
    """``epochs`` passes of ``batch`` sequences a step at ``learning_rate``, linearly to 0.

    ``looks``: how often validation is scored on the way; the best weights are kept (early
    stopping), unless ``keep_last``.
    """

    learning_rate: float
    batch: int = 2
    epochs: int = 1
    looks: int = 2
    clip: float = 1.0
    weight_decay: float = 0.0
    keep_last: bool = False

    def __post_init__(self):
        if min(self.batch, self.epochs, self.looks) < 1:
            raise ValueError("batch, epochs and looks must be at least 1")


def adapt(
    weights: Iterable[nn.Parameter],
    loss_of: Callable[[Tensor], tuple[Tensor, int]],
    count: int,
    settings: Adaptation,
    seed: int,
    valid: Callable[[], float],
) -> list[dict]:
    """Train ``weights`` in place; returns the curve, whose rows hold step, train_loss, val_ppl.

    ``loss_of(rows)``: summed loss of the sequences ``rows`` of ``count`` and how many tokens it is
    of. ``valid()``: validation perplexity. Raises ``FloatingPointError`` for a loss or perplexity
    that is not finite, ``ValueError`` for no sequence.
    """
    if count < 1:
        raise ValueError("there is no sequence to learn from; allowed: more text or a larger rate")
    weights = [p for p in weights if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    per_epoch = -(-count // settings.batch)
    steps = per_epoch * settings.epochs
    looks = {round(steps * (i + 1) / settings.looks) for i in range(settings.looks)}
    best, kept, curve, total, seen = valid(), [p.detach().clone() for p in weights], [], 0.0, 0
    curve.append({"step": 0, "train_loss": None, "val_ppl": best})
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = torch.randperm(count, generator=data_order(seed, epoch))
        rows = order[place * settings.batch : (place + 1) * settings.batch]
        loss, tokens = loss_of(rows)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step + 1}")
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / steps)
        (loss / max(tokens, 1)).backward()
        nn.utils.clip_grad_norm_(weights, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total, seen = total + loss.item(), seen + tokens
        if step + 1 in looks:
            found = valid()
            if not math.isfinite(found):
                raise FloatingPointError(f"validation perplexity is {found} at step {step + 1}")
            curve.append({"step": step + 1, "train_loss": total / max(seen, 1), "val_ppl": found})
            total, seen = 0.0, 0
            if found < best:
                best, kept = found, [p.detach().clone() for p in weights]
    if not settings.keep_last:
        with torch.no_grad():
            for p, value in zip(weights, kept, strict=True):
                p.copy_(value)
    return curve
