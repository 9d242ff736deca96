"""Rows of notebook 20: a method that fits the depth of any base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.depth import speed_run
from lib.depth.methods import Again, Gated, Method
from lib.depth.network import DepthRun, settings
from lib.depth.parameters import DepthParameters
from lib.depth.run import run_depth
from lib.depth.speed_run import run_depth_speed
from lib.depth.texts import DepthText
from lib.experiment import Run

# The learning rate of each family, from results/20_tuning.csv (lib/depth/experiments/tuning.py).
CHOSEN = {
    "adapted": 2e-3,
    "exits": 8e-3,
    "layerskip": 8e-3,
    "removed": 4e-3,
    "gated": 4e-3,
    "again": 2e-3,
}
HEAD_LAYERS = 7.83  # layers of SmolLM2-135M that cost as much as its head over a window of 128


def part(layers: int, share: float) -> int:
    """A number of layers that is a share of all."""
    return round(share * layers)


def left(layers: int, cost: float) -> int:
    """Layers left of the base so that they and one read-out cost a share of the base.

    Of another base than SmolLM2-135M, whose head has another weight, they cost about that share.
    """
    return max(1, round(cost * (layers + HEAD_LAYERS) - HEAD_LAYERS))


@dataclass(frozen=True)
class Variant:
    """``make(layers)`` is the method for a base of so many layers; ``family`` is one of CHOSEN.

    ``once``: nothing in it is random, so one seed is all there is. ``timed``: its speed is measured
    beside that of the base, after all training.
    """

    label: str
    family: str
    make: Callable[[int], Method]
    factors: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False
    timed: bool = False

    def config(self, parameters: DepthParameters, text: DepthText) -> DepthRun:
        """What is trained on a text."""
        rate = CHOSEN[self.family] * parameters.rate_factor
        return DepthRun(
            parameters.base_name,
            text,
            self.make(parameters.layers),
            settings(rate, parameters.batch_size),
            parameters.rank,
        )

    def runs(self, parameters: DepthParameters, text: DepthText) -> Iterator[Run]:
        config = self.config(parameters, text)
        for seed in range(1 if self.once else parameters.seeds):
            yield Run(run_depth, config, seed)
            if self.timed:
                speed = speed_run.DepthSpeed(config)
                yield Run(run_depth_speed, speed, seed, side=True, turn=1)


def exits_of(layers: int) -> tuple[int, ...]:
    """After each fifth of the layers but the last: 6, 12, 18, 24 of 30."""
    return tuple(dict.fromkeys(max(1, part(layers, i / 5)) for i in range(1, 5)))


def removed(kind: Callable[[int, int], Method], cost: float) -> Callable[[int], Method]:
    """A base cut to a cost."""
    return lambda layers: kind(layers, left(layers, cost))


def again(first: float, last: float, which: str, rate: float = 1.0, trained: bool = True):
    """A second pass over the layers from one share of the depth to another."""

    def make(layers: int) -> Method:
        start = part(layers, first)
        block = Again(start, max(start + 1, part(layers, last)), which, rate)
        return Method(layers, again=block, trained=trained)

    return make


def gated(layers: int) -> Method:
    """A gate over the middle two thirds."""
    return Method(layers, gated=Gated(part(layers, 1 / 6), part(layers, 5 / 6)))
