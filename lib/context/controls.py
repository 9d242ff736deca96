"""The controls that decide seed 003's claims: a fixed window of tokens, and end-to-end training.

* A k-token MLP is the same TokenBlock with the contexts replaced by the k - 1 previous embeddings:
  if it does as well as the recurrence, the context vector is a short window in disguise.
* Truncated back-propagation through time trains the same cell for the task itself: the upper bound
  of what Phase 1 could have found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.context.block import ContextBlock, stack_tokens
from lib.context.contexts import layer_outputs, sequential
from lib.context.phase_two import Features


def window_features(embedded: Tensor, outputs: Tensor, count: int, layers: int) -> Features:
    """Features of a k-token MLP: the `count` - 1 embeddings before the token at every layer.

    embedded [N, d]; contexts are [N, (count - 1) d] (zero wide for count 1), one shared tensor.
    """
    if count < 1:
        raise ValueError(f"count is {count}; a window holds at least the token itself")
    d = embedded.shape[1]
    history = stack_tokens(embedded, count)[:, : (count - 1) * d].contiguous()
    return Features([history] * layers, embedded, outputs)


def recurrent_features(
    block: ContextBlock, x: Tensor, outputs: Tensor, final: Tensor | None = None
) -> Features:
    """Features from a context block over x [N, m*d]; `final` default: the exact recurrence."""
    final = sequential(block, x) if final is None else final
    return Features(layer_outputs(block, final, x), x, outputs)


class EndToEnd(nn.Module):
    """ContextBlock, TokenBlock and head trained together by truncated back-propagation."""

    def __init__(self, block: ContextBlock, model: nn.Module) -> None:
        super().__init__()
        self.block, self.model = block, model

    def loss(self, context: Tensor, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, T, m*d], targets [B, T], context [B, D] -> mean loss, detached last state."""
        halves = [
            half.view(*x.shape[:2], -1) if half.dim() == 2 else half
            for half in self.block.token_halves(x.flatten(0, 1))
        ]
        steps: list[list[Tensor]] = []
        for t in range(x.shape[1]):
            here = [half[:, t] if half.dim() == 3 else half for half in halves]
            steps.append(self.block.step(context, here))
            context = steps[-1][-1]
        layers = [torch.stack(rows, 1).flatten(0, 1) for rows in zip(*steps, strict=True)]
        logits = self.model(layers, x.flatten(0, 1))
        return nn.functional.cross_entropy(logits, targets.flatten()), context.detach()


@dataclass(frozen=True)
class BpttSettings:
    """`lanes` streams advance together, `window` tokens per update: lanes * window = batch."""

    lanes: int = 32
    window: int = 16
    learning_rate: float = 1e-3
    updates: int = 200
    clip: float = 1.0


def train_end_to_end(
    model: EndToEnd, x: Tensor, outputs: Tensor, settings: BpttSettings, every: int, callback
) -> int:
    """Train in place for `settings.updates` updates; `callback(update, train_ppl)` every `every`.

    The stream x [N, m*d] is cut into equal lanes, each walked in order with its state carried over
    and set to zero when the lanes begin again. The last window of a lane is shorter where windows
    do not divide it; targets that equal lanes leave over, fewer than `lanes`, are not trained on.
    Returns the number of updates. Raises FloatingPointError when a training loss is not finite.
    Raises ValueError when the stream is too short for one window per lane.
    """
    length = (len(outputs) - 1) // settings.lanes
    if length < settings.window:
        raise ValueError(
            f"{len(outputs)} tokens give lanes of {length}, shorter than the window "
            f"of {settings.window}"
        )
    used = length * settings.lanes
    inputs = x[:used].view(settings.lanes, length, -1)
    targets = outputs[1 : used + 1].view(settings.lanes, length)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    zero = x.new_zeros(settings.lanes, model.block.context_dim)
    context, place, total, seen = zero, 0, 0.0, 0
    for update in range(1, settings.updates + 1):
        if place == length:
            context, place = zero, 0
        rows = slice(place, min(place + settings.window, length))
        loss, context = model.loss(context, inputs[:, rows], targets[:, rows])
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the training loss is {loss.item()} at update {update}")
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        trained = rows.stop - rows.start
        place, total, seen = rows.stop, total + loss.item() * trained, seen + trained
        if update % every == 0 or update == settings.updates:
            callback(update, math.exp(total / seen))
            total, seen = 0.0, 0
    return settings.updates
