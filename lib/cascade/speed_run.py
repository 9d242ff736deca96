"""Wall clock of a routed stage behind its base, by the share of tokens it answers."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from lib.cascade.cost import relative_flops
from lib.cascade.material import MaterialHandle
from lib.cascade.query_stage import query_stage
from lib.runs.task import Outcome


@dataclass(frozen=True)
class SpeedRun:
    """Scoring of ``windows`` test windows at each of ``rates``, in turns with the base alone."""

    material: MaterialHandle
    layers: int
    rates: tuple[float, ...]
    windows: int = 4
    repeats: int = 3


@torch.inference_mode()
def run(config: SpeedRun, seed: int, folder: Path) -> Outcome:
    """Median milliseconds per token. The time does not depend on what the weights have learnt, so
    the stage is an untrained one; which tokens are routed is drawn. One row a rate in ``clock``."""
    material = config.material.open()
    base = material.base.model
    inputs = material.windows["test"].inputs[: config.windows]
    stage = query_stage(base, config.layers).eval()
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(inputs.shape, generator=generator)

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

    found: dict[float | None, list[float]] = {None: [], **{rate: [] for rate in config.rates}}
    alone()
    for _ in range(config.repeats):
        for rate in found:
            started = time.perf_counter()
            alone() if rate is None else routed(rate)
            found[rate].append(1000 * (time.perf_counter() - started) / inputs.numel())
    reference = statistics.median(found.pop(None))
    clock = [
        {
            "rate": rate,
            "milliseconds": statistics.median(values),
            "relative_time": statistics.median(values) / reference,
            "flops": relative_flops(base, stage, rate, "gate") if rate else 1.0,
        }
        for rate, values in found.items()
    ]
    row = {
        "corpus": material.corpus,
        "corpus_sha256": material.corpus_sha256,
        "base": material.base.name,
        "base_source": material.base.source,
        "base_sha256": material.base.sha256,
        "milliseconds": reference,
    }
    return Outcome(row, {"clock": clock})
