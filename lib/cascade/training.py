"""Train one stage on cached features. Runs alone, or unchanged under ``accelerate launch``.

The base is not needed: inputs are its final states (or the outputs of the stage before). The global
batch does not depend on the number of processes; each takes its share of every batch and the loss
is the mean over all counted tokens of the whole batch. An interrupted training goes on from its
last checkpoint and ends with the same numbers. Under FSDP2 weights, gradients and moments are split
over the processes; the checkpoint is the same file of whole tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.cascade.linear_cross_entropy import head_statistics, summed_loss
from lib.cascade.packing import Packs
from lib.cascade.sharding import gathered, prepared, scattered, whole_stage
from lib.cascade.stage import Stage
from lib.training.seeding import data_order


@dataclass(frozen=True)
class StageTraining:
    """Numbers of the loop: ``steps`` optimiser steps of ``batch`` sequences each.

    ``schedule``: linear (to 0, seed 002) or constant (seeds 000, 001). ``clip`` 0 = none.
    """

    steps: int
    batch: int
    learning_rate: float
    schedule: str = "constant"
    weight_decay: float = 0.0
    clip: float = 0.0
    checkpoint_steps: int = 50
    report_steps: int = 0

    def __post_init__(self):
        if self.schedule not in ("linear", "constant"):
            raise ValueError(f"schedule {self.schedule!r} is not known; allowed: linear, constant")

    def rate(self, step: int) -> float:
        """Learning rate of step 0 .. steps - 1."""
        left = 1 - step / self.steps if self.schedule == "linear" else 1.0
        return self.learning_rate * left


class StageLoss(nn.Module):
    """A stage and its loss in one forward pass, which is what DDP and FSDP wrap."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.stage = stage

    def forward(
        self, hidden: Tensor, labels: Tensor, counted: Tensor, base_head: Tensor | None = None
    ) -> Tensor:
        """hidden [B, L, width], labels and counted [B, L] -> summed loss of the counted tokens."""
        out = self.stage(hidden)[counted]
        return summed_loss(out, self.stage.head_weight(base_head), labels[counted])


def train(
    stage: Stage,
    inputs: Tensor,
    labels: Tensor,
    packs: Packs,
    settings: StageTraining,
    seed: int,
    base_head: Tensor | None = None,
    path: Path | None = None,
    accelerator=None,
    identity: str = "",
    report: Callable[[Stage, int], dict] | None = None,
) -> list[dict]:
    """Train ``stage`` in place; returns the curve, one dict every ``report_steps``.

    inputs [N, width], labels [N]; ``packs`` index into both. ``base_head`` for a stage that shares
    the base's. ``path``: checkpoint file; ``identity`` says what else it belongs to (the base, the
    stage's start), beside settings, seed, data and the stage's sizes. ``accelerator``: an
    ``accelerate.Accelerator``.
    ``report(stage, step)`` adds its numbers to the curve; every process calls it, with the whole
    stage. Under FSDP2 ``stage`` stays sharded; ``whole_stage`` gathers it. Raises
    ``FloatingPointError`` as soon as a loss is not finite, and ``ValueError`` for FSDP version 1
    and other wrappings that ``prepared`` does not allow.
    """
    sizes = {name: tuple(p.shape) for name, p in stage.named_parameters()}
    loop = _Loop(stage, settings, accelerator)
    loop.identity = f"{settings} {seed} {_digest(labels, packs)} {sizes} {identity}"
    curve = loop.resume(path)
    per_epoch = -(-len(packs) // settings.batch)
    order_of, order = -1, None
    total, seen = loop.carried
    for step in range(loop.step, settings.steps):
        epoch, place = divmod(step, per_epoch)
        if epoch != order_of:
            order_of = epoch
            order = torch.randperm(len(packs), generator=data_order(seed, epoch))
        rows = order[place * settings.batch : (place + 1) * settings.batch]
        loss, counted = loop.advance(inputs, labels, packs, rows, step, base_head)
        total, seen = total + loss, seen + counted
        last = step + 1 == settings.steps
        if last or (settings.report_steps and (step + 1) % settings.report_steps == 0):
            entry = {"step": step + 1, "epoch": epoch + 1, "train_loss": total / seen}
            entry["tokens"] = seen
            curve.append({**entry, **(report(whole_stage(stage), step + 1) if report else {})})
            total = seen = 0
        loop.step, loop.carried = step + 1, (total, seen)
        if path and not last and (step + 1) % settings.checkpoint_steps == 0:
            loop.save(path, curve)
    return curve


def _digest(labels: Tensor, packs: Packs) -> str:
    """Which tokens are learnt in which sequences: SHA-256, 16 hexadecimal digits."""
    found = hashlib.sha256()
    for part in (packs.index, packs.counted, labels[packs.index]):
        found.update(part.contiguous().numpy(force=True).tobytes())
    return found.hexdigest()[:16]


class _Loop:
    """Model, optimiser and their place in the schedule."""

    def __init__(self, stage: Stage, settings: StageTraining, accelerator):
        self.plain, self.settings, self.accelerator = stage, settings, accelerator
        self.model = StageLoss(stage)
        # fused: one pass over parameters; the loop form costs five times as much on CPUs
        self.optimizer = torch.optim.AdamW(
            stage.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.rank, self.world = 0, 1
        if accelerator:
            wrapped = prepared(accelerator, stage, self.model, self.optimizer)
            self.model, self.optimizer = wrapped
            self.rank, self.world = accelerator.process_index, accelerator.num_processes
        # sharded weights may be kept in host memory: the device is where they are computed with
        own = next(self.model.parameters()).device
        self.device = accelerator.device if accelerator else own
        self.step, self.carried, self.identity = 0, (0.0, 0), ""

    def advance(self, inputs, labels, packs, rows, step, base_head) -> tuple[float, int]:
        """One optimiser step on the global batch ``rows``; its summed loss and counted tokens."""
        everything = int(packs.counted[rows].sum())
        own = rows[self.rank :: self.world]
        index, counted = packs.index[own], packs.counted[own]
        if len(own) == 0:  # a process without a share still takes part, with no counted token
            index, counted = packs.index[:1], torch.zeros_like(packs.counted[:1])
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step)
        summed = self.model(
            inputs[index].to(self.device),
            labels[index].to(self.device),
            counted.to(self.device),
            base_head,
        )
        # DDP and FSDP average gradients over processes: each gives world times its part of the mean
        loss = summed * (self.world / everything)
        (self.accelerator.backward if self.accelerator else torch.Tensor.backward)(loss)
        if self.settings.clip:
            clip = (
                self.accelerator.clip_grad_norm_ if self.accelerator else nn.utils.clip_grad_norm_
            )
            clip(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        found = summed.detach()
        if self.world > 1:
            found = self.accelerator.reduce(found, "sum")
        if not torch.isfinite(found):
            raise FloatingPointError(f"the loss is {found.item()} at step {step + 1}")
        return found.item(), everything

    def save(self, path: Path, curve: list[dict]) -> None:
        """One safetensors file: weights, both moments, place and curve; replaced at once.

        Collective: the shares of a sharded stage are gathered one tensor at a time.
        """
        tensors = {}
        for name, p in self.plain.named_parameters():
            state = self.optimizer.state[p]
            held = {"weight": p, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
            for key, tensor in held.items():
                whole = gathered(tensor)
                if self.rank == 0:
                    tensors[f"{key}/{name}"] = whole.cpu()
        if self.rank == 0:
            place = {
                "step": self.step,
                "carried": self.carried,
                "curve": curve,
                "identity": self.identity,
            }
            partial = path.with_name(path.name + ".partial")
            save_file(
                {name: t.contiguous() for name, t in tensors.items()},
                partial,
                metadata={"place": json.dumps(place)},
            )
            os.replace(partial, path)
        if self.accelerator:
            self.accelerator.wait_for_everyone()

    def resume(self, path: Path | None) -> list[dict]:
        """Load the checkpoint if there is one; returns its curve.

        Raises ``ValueError`` for one of another training.
        """
        if path is None or not path.exists():
            return []
        with safe_open(path, "pt") as file:
            place = json.loads(file.metadata()["place"])
            if place["identity"] != self.identity:
                raise ValueError(
                    f"the checkpoint {path} is of other settings, another seed, stage or other "
                    "data; delete it"
                )
            with torch.no_grad():
                for name, p in self.plain.named_parameters():
                    p.copy_(scattered(file.get_tensor(f"weight/{name}"), p))
                    state = {
                        key: scattered(file.get_tensor(f"{key}/{name}"), p)
                        for key in ("exp_avg", "exp_avg_sq")
                    }
                    # the fused step wants its count where the weights are
                    state["step"] = torch.tensor(float(place["step"]), device=p.device)
                    self.optimizer.state[p] = state
        self.step, self.carried = place["step"], tuple(place["carried"])
        return place["curve"]


@torch.no_grad()
def stage_scores(
    stage: Stage,
    inputs: Tensor,
    labels: Tensor,
    packs: list[Packs],
    base_head: Tensor | None = None,
    batch_tokens: int = 2048,
) -> tuple[dict[str, Tensor], Tensor]:
    """What the stage says of the counted tokens of ``packs``, by stream position.

    Returns the statistics of ``head_statistics`` for the counted tokens in ascending order of
    position, with ``position`` int64 [n] itself, and the stage's outputs [n, width].
    """
    stage.eval()
    positions, outputs = [], []
    for pack in packs:
        size = max(1, batch_tokens // pack.index.shape[1])
        for start in range(0, len(pack), size):
            index, counted = (t[start : start + size] for t in (pack.index, pack.counted))
            outputs.append(stage(inputs[index])[counted])
            positions.append(index[counted])
    if not positions:
        outputs, positions = [inputs[:0]], [labels.new_zeros(0)]
    position, order = torch.cat(positions).sort()
    output = torch.cat(outputs)[order]
    scores = head_statistics(output, stage.head_weight(base_head), labels[position])
    return {**scores, "position": position}, output
