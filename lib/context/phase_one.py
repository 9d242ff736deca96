"""Phase 1 of seed 003: train a ContextBlock without labels, all tokens in parallel.

A table C [N, D] holds one context per token. Every iteration is one full-batch gradient step:
each token gets the neighbour's context of the previous iteration (with noise), and the loss is

    (1 - w) * mean (O - C)^2  +  w * dispersion(O),     dispersion(O) = -|O - mean(O)|_F / n

The outputs become the next table. Token 0 gets the last token's context, as in the seed. Settings
and their defaults are those of the seed's runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.context.block import ContextBlock

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
        if self.chunk < 1 or self.max_iterations < 1:
            raise ValueError("chunk and max_iterations must be at least 1")


@dataclass(frozen=True)
class PhaseOneResult:
    """Last table, the one before it, and one row per iteration with a gradient step."""

    table: Tensor
    previous: Tensor
    curve: list[dict]
    iterations: int
    converged: bool


def dispersion(outputs: Tensor) -> Tensor:
    """-|O - mean over tokens|_F / n for O [n, D]; at least -sqrt(D/n) for unit-variance rows."""
    return -(outputs - outputs.mean(0)).norm() / outputs.shape[0]


def phase_one_loss(outputs: Tensor, target: Tensor, settings: PhaseOneSettings) -> Tensor:
    """Loss of one chunk: outputs [n, D] with gradient, target [n, D] the previous table's rows."""
    fixed_point = (outputs - target).square().mean()
    return (1 - settings.diversity) * fixed_point + settings.diversity * dispersion(outputs)


def neighbours(table: Tensor) -> Tensor:
    """Previous-token contexts [N, D]; row 0 gets the last row, as in the seed."""
    return torch.cat([table[-1:], table[:-1]])


def run_phase_one(
    block: ContextBlock, x: Tensor, settings: PhaseOneSettings, seed: int = 0
) -> PhaseOneResult:
    """Train `block` in place on the token stream x [N, m*d].

    Iteration 1 fills the table with 0.01 N(0, I) and learns nothing, so an early stop at iteration
    k means k - 1 Adam steps. Raises FloatingPointError when the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(block.parameters(), lr=settings.learning_rate)
    table = START_SCALE * torch.randn(x.shape[0], block.context_dim, generator=generator)
    curve: list[dict] = []
    converged, iteration, previous = False, 1, table
    while iteration < settings.max_iterations and not converged:
        iteration += 1
        previous = table
        inputs = neighbours(table)
        if settings.noise:
            inputs = inputs + settings.noise * torch.randn(inputs.shape, generator=generator)
        pieces = list(range(0, x.shape[0], settings.chunk))
        optimiser.zero_grad()
        new = torch.empty_like(table)
        total = 0.0
        for begin in pieces:
            rows = slice(begin, begin + settings.chunk)
            outputs = block(inputs[rows], x[rows])[-1]
            loss = phase_one_loss(outputs, table[rows], settings)
            (loss / len(pieces)).backward()
            total += loss.item() / len(pieces)
            new[rows] = outputs.detach()
        if not torch.isfinite(torch.tensor(total)):
            raise FloatingPointError(f"the Phase 1 loss is {total} at iteration {iteration}")
        gradient = torch.nn.utils.clip_grad_norm_(block.parameters(), settings.clip).item()
        optimiser.step()
        moved = (new - table).square().mean(1)
        ratio = (moved < settings.threshold).float().mean().item()
        curve.append(
            {
                "iteration": iteration,
                "loss": total,
                "fixed_point": moved.mean().item(),
                "dispersion": dispersion(new[: settings.chunk]).item(),
                "converged_ratio": ratio,
                "gradient_norm": gradient,
            }
        )
        table = new
        converged = iteration >= settings.min_iterations and ratio >= settings.stop_ratio
    return PhaseOneResult(table, previous, curve, iteration, converged)
