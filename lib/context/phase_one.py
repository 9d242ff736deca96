"""Phase 1 of R3: train a ContextBlock without labels, all tokens in parallel.

A table C [N, D] holds one context per token. Every iteration is one full-batch gradient step:
each token gets the neighbour's context of the previous iteration (with noise), and the loss is

    (1 - w) * mean (O - C)^2  +  w * dispersion(O),     dispersion(O) = -|O - mean(O)|_F / n

The outputs become the next table. Token 0 gets the last token's context, as in the report. Settings
and their defaults are those of the report's runs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.context.block import ContextBlock
from lib.training.loop import Training, Work, train

START_SCALE = 0.01  # of the normal numbers in the first table


@dataclass(frozen=True)
class PhaseOneSettings:
    """Phase 1 choices: `diversity` is the weight w of the loss, `chunk` the tokens of one pass."""

    diversity: float = 0.8
    noise: float = 0.1
    learning_rate: float = 0.002
    chunk: int = 8000
    threshold: float = 0.03
    stop_ratio: float = 0.99
    min_iterations: int = 5
    max_iterations: int = 40
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.diversity <= 1.0:
            raise ValueError(f"diversity is {self.diversity}; allowed: 0 to 1")
        if self.chunk < 1 or self.max_iterations < 2:
            raise ValueError("allowed: chunk of at least 1, max_iterations of at least 2")


@dataclass(frozen=True)
class PhaseOneResult:
    """Last table [N, D], the context [D] that token 0 saw last, and a row for each iteration.

    ``seconds``: the time of all iterations.
    """

    table: Tensor
    start: Tensor
    curve: list[dict[str, Any]]
    iterations: int
    converged: bool
    seconds: float


def dispersion(outputs: Tensor) -> Tensor:
    """-|O - mean over tokens|_F / n for O [n, D]; at least -sqrt(D/n) for unit-variance rows."""
    return -(outputs - outputs.mean(0)).norm() / outputs.shape[0]


def phase_one_loss(outputs: Tensor, target: Tensor, settings: PhaseOneSettings) -> Tensor:
    """Loss of one chunk: outputs [n, D] with gradient, target [n, D] the previous table's rows."""
    fixed_point = (outputs - target).square().mean()
    return (1 - settings.diversity) * fixed_point + settings.diversity * dispersion(outputs)


class PhaseOneWork(Work):
    """An epoch of the loop is an iteration: one update, whose gradient is made chunk by chunk.

    Iteration 1 fills the table with 0.01 N(0, I) and learns nothing, so epoch k is iteration k + 1.
    """

    mid_epoch = False  # the gradient of a part of the chunks is not kept

    def __init__(self, block: ContextBlock, x: Tensor, settings: PhaseOneSettings, seed: int):
        self.model, self.x, self.settings = block, x, settings
        self.generator = torch.Generator().manual_seed(seed)
        shape = (x.shape[0], block.context_dim)
        self.table = START_SCALE * torch.randn(shape, generator=self.generator)
        self.start = self.table[-1].clone()
        self.found: dict[str, float] = {}

    def batches(self, epoch: int) -> list[int]:
        return [epoch + 1]

    def losses(self, batch: int) -> Iterator[tuple[float, float]]:
        yield self._gradient(batch), 1.0

    def size(self, batch: int) -> int:
        return self.x.shape[0]

    def _gradient(self, iteration: int) -> float:
        """Add the gradient of the mean loss over chunks; the loss. The outputs become the table."""
        table, x, s = self.table, self.x, self.settings
        device = next(self.model.parameters()).device
        inputs = torch.zeros_like(table)
        if s.noise:
            inputs = torch.randn(table.shape, generator=self.generator).mul_(s.noise)
        inputs[0] += table[-1]  # the neighbour before; token 0 gets the last one's
        inputs[1:] += table[:-1]
        self.start = table[-1].clone()
        moved = torch.empty(x.shape[0])
        pieces = range(0, x.shape[0], s.chunk)
        total = first = 0.0
        for begin in pieces:
            rows = slice(begin, begin + s.chunk)
            outputs = self.model(inputs[rows].to(device), x[rows].to(device))[-1]
            target = table[rows].to(device)
            loss = phase_one_loss(outputs, target, s)
            (loss / len(pieces)).backward()
            total += loss.item() / len(pieces)
            outputs = outputs.detach()
            first = first if begin else dispersion(outputs).item()
            moved[rows] = (outputs - target).square().mean(1).cpu()
            # a chunk's inputs are not read again: its outputs take their place
            inputs[rows] = outputs.cpu()
        self.table = inputs
        gradients = [p.grad for p in self.model.parameters()]
        self.found = {
            "iteration": iteration,
            "loss": total,
            "fixed_point": moved.mean().item(),
            "dispersion": first,
            "converged_ratio": (moved < s.threshold).float().mean().item(),
            "gradient_norm": torch.nn.utils.get_total_norm(gradients).item(),
        }
        return total

    @property
    def converged(self) -> bool:
        """The stopping rule: enough iterations, and enough tokens that hardly move."""
        s, found = self.settings, self.found
        enough = found["converged_ratio"] >= s.stop_ratio
        return found["iteration"] >= s.min_iterations and enough

    def validate(self) -> dict[str, Any]:
        return {"valid_loss": self.found["loss"], "stop": self.converged, **self.found}

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        state = {"table": self.table, "start": self.start}
        return state | {"generator": self.generator.get_state()}, self.found

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        # a tensor out of a file may lie unaligned, which changes the last digit of a product
        self.table, self.start = tensors["table"].clone(), tensors["start"].clone()
        self.found = about
        self.generator.set_state(tensors["generator"])


def run_phase_one(
    block: ContextBlock,
    x: Tensor,
    settings: PhaseOneSettings,
    seed: int = 0,
    path: Path | None = None,
    identity: str = "",
) -> PhaseOneResult:
    """Train `block` in place on the token stream x [N, m*d]; `path` is its checkpoint file.

    An early stop at iteration k means k - 1 updates. Raises Diverged when the loss is not finite.
    """
    work = PhaseOneWork(block, x, settings, seed)
    training = Training(
        epochs=settings.max_iterations - 1,
        patience=0,
        learning_rate=settings.learning_rate,
        clip=settings.clip,
        restore="last",
        optimizer="adam",
    )
    fit = train(work, training, path=path, identity=f"{settings} {seed} {identity}")
    curve = [{name: row[name] for name in work.found} for row in fit.curve]
    seconds = math.fsum(row["epoch_seconds"] for row in fit.curve)
    iterations = curve[-1]["iteration"]
    return PhaseOneResult(work.table, work.start, curve, iterations, work.converged, seconds)
