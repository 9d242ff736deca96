"""Stages and adaptations as work for the training loop: batches of sequences, token losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib.base.head import summed_loss
from lib.cascade.packing import Packs
from lib.cascade.stage import StageModel
from lib.training.loop import Work
from lib.training.seeding import data_order


class SequenceWork(Work):
    """``count`` sequences, ``batch`` of them an update, shuffled every epoch.

    ``loss_of(rows)``: summed loss (nats) of the sequences ``rows`` and how many tokens it is of.
    ``valid()``: as ``Work.validate``. Raises ValueError for no sequence.
    """

    in_order = False

    def __init__(
        self,
        model: nn.Module,
        count: int,
        batch: int,
        seed: int,
        loss_of: Callable[[Tensor], tuple[Tensor, int]],
        valid: Callable[[], dict[str, Any]],
    ):
        if count < 1:
            raise ValueError(
                "there is no sequence to learn from; allowed: more text or a larger rate"
            )
        self.model, self.count, self.batch, self.seed = model, count, batch, seed
        self.loss_of, self.valid = loss_of, valid
        self.tokens = 0  # of the last batch

    def updates_an_epoch(self) -> int:
        return -(-self.count // self.batch)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(self.count, generator=data_order(self.seed, epoch - 1))
        yield from order.split(self.batch)

    def losses(self, batch: Tensor) -> Iterator[tuple[Tensor | float, float]]:
        total, self.tokens = self.loss_of(batch)
        yield total / max(self.tokens, 1), self.tokens

    def size(self, batch: Tensor) -> int:
        return self.tokens

    def validate(self) -> dict[str, Any]:
        return self.valid()


class StageWork(SequenceWork):
    """A stage over packs of cached states.

    inputs [N, width] and labels [N]; ``packs`` index into both. ``base_head`` for a stage that
    shares the base's.
    """

    def __init__(
        self,
        stage: StageModel,
        inputs: Tensor,
        labels: Tensor,
        packs: Packs,
        batch: int,
        seed: int,
        base_head: Tensor | None,
        valid: Callable[[], dict[str, Any]],
    ):
        # no method of its own: a work that holds one is a cycle, and its stage stays in memory
        loss_of = partial(_loss_of, stage, inputs, labels, packs, base_head)
        super().__init__(stage, len(packs), batch, seed, loss_of, valid)
        self.inputs, self.labels, self.packs, self.base_head = inputs, labels, packs, base_head
        self.device = next(stage.parameters()).device


def _loss_of(
    stage: StageModel,
    inputs: Tensor,
    labels: Tensor,
    packs: Packs,
    base_head: Tensor | None,
    rows: Tensor,
) -> tuple[Tensor, int]:
    """Summed loss of some sequences, and of how many tokens."""
    device = next(stage.parameters()).device
    index, counted = packs.index[rows], packs.counted[rows]
    own = counted.to(device)
    out = stage(inputs[index].to(device))[own]
    wanted = labels[index].to(device)[own]
    return summed_loss(out, stage.head_weight(base_head), wanted), int(counted.sum())
