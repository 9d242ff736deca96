"""Phase 1 of seed 003: train a ContextBlock without labels, all tokens in parallel.

A table C [N, D] holds one context per token. Every iteration is one full-batch gradient step:
each token gets the neighbour's context of the previous iteration (with noise), and the loss is

    (1 - w) * mean (O - C)^2  +  w * dispersion(O),     dispersion(O) = -|O - mean(O)|_F / n

("fixed_point"), or origin-anchored centroid dispersion, -|O - mean|_F / n + 0.1 |mean|^2 ("oacd").
The outputs become the next table. Settings and their defaults are those of the seed's runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.contexts import sequential

OBJECTIVES = ("fixed_point", "oacd")
STARTS = ("random", "sequential")
START_SCALE = 0.01


@dataclass(frozen=True)
class PhaseOneSettings:
    """Phase 1 choices; `wrap_around` gives token 0 the last token's context as the seed does."""

    objective: str = "fixed_point"
    diversity: float = 0.8
    noise: float = 0.1
    learning_rate: float = 0.002
    chunk: int = 8000
    threshold: float = 0.03
    stop_ratio: float = 0.99
    min_iterations: int = 5
    max_iterations: int = 40
    start: str = "random"
    wrap_around: bool = True
    clip: float = 1.0
    centroid: float = 0.1

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; allowed: {', '.join(OBJECTIVES)}")
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}; allowed: {', '.join(STARTS)}")
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
    if settings.objective == "oacd":
        return dispersion(outputs) + settings.centroid * outputs.mean(0).square().sum()
    fixed_point = (outputs - target).square().mean()
    return (1 - settings.diversity) * fixed_point + settings.diversity * dispersion(outputs)


def neighbours(table: Tensor, wrap_around: bool) -> Tensor:
    """Previous-token contexts; row 0 gets the last row (seed) or zeros (causal variant)."""
    first = table[-1:] if wrap_around else torch.zeros_like(table[:1])
    return torch.cat([first, table[:-1]])


def start_table(
    block: ContextBlock, x: Tensor, settings: PhaseOneSettings, generator: torch.Generator
) -> Tensor:
    """Iteration 1: contexts [N, D] of the untrained block, or 0.01 N(0, I) as in the seed."""
    if settings.start == "sequential":
        return sequential(block, x)
    noise = torch.randn(x.shape[0], block.context_dim, generator=generator)
    return START_SCALE * noise


def run_phase_one(
    block: ContextBlock, x: Tensor, settings: PhaseOneSettings, seed: int = 0
) -> PhaseOneResult:
    """Train `block` in place on the token stream x [N, m*d].

    Iteration 1 fills the table without learning, so an early stop at iteration k means k - 1 Adam
    steps. Raises FloatingPointError when the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(block.parameters(), lr=settings.learning_rate)
    table = start_table(block, x, settings, generator)
    curve: list[dict] = []
    converged, iteration, previous = False, 1, table
    while iteration < settings.max_iterations and not converged:
        iteration += 1
        previous = table
        inputs = neighbours(table, settings.wrap_around)
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
