"""Wall clock of several jobs that take turns, so that all meet the same machine."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def now(device: torch.device) -> float:
    """The clock in seconds, after all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def in_turns(
    jobs: Sequence[Callable[[], object]], repeats: int, device: torch.device, warm: bool = True
) -> list[float]:
    """Median seconds of each job over ``repeats`` rounds, after one that is not counted (``warm``;
    not needed where the jobs have been run before)."""
    found: list[list[float]] = [[] for _ in jobs]
    if warm:
        for job in jobs:
            job()
    for _ in range(repeats):
        for job, seconds in zip(jobs, found, strict=True):
            started = now(device)
            job()
            seconds.append(now(device) - started)
    return [statistics.median(seconds) for seconds in found]
