"""The control of what Phase 1 could have found: the same cell trained for the task itself, by
truncated back-propagation through time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lib.context.block import ContextBlock
from lib.context.features import recurrent_features
from lib.context.head import NextTokenModel
from lib.context.phase_two import NextTokenWork, evaluated
from lib.context.token_stream import TokenStream


class EndToEnd(nn.Module):
    """ContextBlock, TokenBlock and head trained together by truncated back-propagation."""

    def __init__(self, block: ContextBlock, model: NextTokenModel) -> None:
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
        return self.model.loss(layers, x.flatten(0, 1), targets.flatten()), context.detach()


class TruncatedWork(NextTokenWork):
    """Equal lanes of the stream walked in order, `window` tokens an update, the state carried over.

    The state is set to zero when the lanes begin again, wherever the epoch ends: an epoch is
    `updates` updates between two validations. The last window of a lane is shorter where windows do
    not divide it; targets that equal lanes leave over, fewer than `lanes`, are not trained on.
    Raises ValueError when the stream is too short for one window per lane.
    """

    def __init__(
        self,
        model: EndToEnd,
        train: TokenStream,
        parts: dict[str, TokenStream],
        lanes: int,
        window: int,
        updates: int,
    ):
        self.model, self.parts, self.window, self.updates = model, parts, window, updates
        self.length = (len(train.outputs) - 1) // lanes
        if self.length < window:
            raise ValueError(
                f"{len(train.outputs)} tokens give lanes of {self.length}, shorter than the window "
                f"of {window}"
            )
        used, self.device = self.length * lanes, next(model.parameters()).device
        self.inputs = train.embedded[:used].view(lanes, self.length, -1)
        self.targets = train.outputs[1 : used + 1].view(lanes, self.length)
        self.zero = torch.zeros(lanes, model.block.context_dim, device=self.device)
        self.context = self.zero

    def updates_an_epoch(self) -> int:
        return self.updates

    def batches(self, epoch: int) -> Iterator[slice]:
        windows = -(-self.length // self.window)
        for update in range((epoch - 1) * self.updates, epoch * self.updates):
            begin = update % windows * self.window
            yield slice(begin, min(begin + self.window, self.length))

    def losses(self, batch: slice) -> Iterator[tuple[Tensor, float]]:
        context = self.context if batch.start else self.zero
        x, targets = self.inputs[:, batch], self.targets[:, batch]
        loss, self.context = self.model.loss(context, x.to(self.device), targets.to(self.device))
        yield loss, float(batch.stop - batch.start)

    def size(self, batch: slice) -> int:
        return (batch.stop - batch.start) * len(self.targets)

    def validate(self) -> dict[str, Any]:
        # the recurrence of a stream is computed on the CPU
        block = self.model.block.to("cpu")
        features = {
            name: recurrent_features(block, s.embedded, s.outputs, device=self.device)
            for name, s in self.parts.items()
        }
        found = evaluated(self.model.model, features)
        block.to(self.device)
        return found

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        return {"context": self.context}, None

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        # a tensor out of a file may lie unaligned, which changes the last digit of a product
        self.context = tensors["context"].clone().to(self.device)
