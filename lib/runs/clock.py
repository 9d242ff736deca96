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
    jobs: Sequence[Callable[[], object]], repeats: int, device: torch.device
) -> list[float]:
    """Median seconds of each job over ``repeats`` rounds, after a first one that is not counted."""
    found: list[list[float]] = [[] for _ in jobs]
    for number in range(repeats + 1):
        for job, seconds in zip(jobs, found, strict=True):
            started = now(device)
            job()
            if number:
                seconds.append(now(device) - started)
    return [statistics.median(seconds) for seconds in found]
