"""Wall clock of a routed stage behind its base, by the share of tokens it answers."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from lib.cascade.cost import relative_flops
from lib.cascade.dataset import TokenDataset
from lib.cascade.query_stage import query_stage
from lib.runs.clock import in_turns
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place


@dataclass(frozen=True)
class SpeedRun:
    """Scoring of ``windows`` test windows at each of ``rates``, in turns with the base alone."""

    dataset: TokenDataset
    layers: int
    rates: tuple[float, ...]
    windows: int = 4
    repeats: int = 3


@run_function("routed-speed", clock=True)
@torch.inference_mode()
def run_route_speed(config: SpeedRun, seed: int, place: Place) -> Outcome:
    """Median milliseconds per token. The time does not depend on what the weights have learnt, so
    the stage is an untrained one; which tokens are routed is drawn. One row a rate in ``clock``."""
    data = config.dataset.open(place.device)
    base = data.base.model
    inputs = data.windows["test"].inputs[: config.windows].to(place.device)
    stage = query_stage(base, config.layers).to(place.device).eval()
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(inputs.shape, generator=generator).to(place.device)

    def alone() -> None:
        base.lm_head(base.model(inputs, use_cache=False).last_hidden_state)

    def routed(rate: float) -> None:
        final = base.model(inputs, use_cache=False).last_hidden_state
        wanted = draw < rate
        if wanted.any():
            states = final.clone()
            states[wanted] = stage(final, wanted)
            final = states
        base.lm_head(final)

    jobs = [alone, *(functools.partial(routed, rate) for rate in config.rates)]
    seconds = in_turns(jobs, config.repeats, place.device)
    reference, *found = (1000 * value / inputs.numel() for value in seconds)
    clock = [
        {
            "rate": rate,
            "milliseconds": value,
            "relative_time": value / reference,
            "flops": relative_flops(base, stage, rate, "gate") if rate else 1.0,
        }
        for rate, value in zip(config.rates, found, strict=True)
    ]
    return Outcome(data.identity() | {"milliseconds": reference}, {"clock": clock})
