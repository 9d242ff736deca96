"""Who computes the tasks of a sweep: this machine's processes, a Dask cluster, or Slurm.

An engine takes tasks and yields (task, record or Failure) as they end, in any order. All of them
leave their runs in the same folders, so that any may go on where another stopped.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

from lib.runs.key import described, digest
from lib.runs.task import CannotJoin, Diverged, Failure, Task, attempt, run_together

ENGINES = ("local",)
ATTEMPTS = 2  # of a run alone in its process: it may have been killed for others' memory


def submit(
    engine: str, tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """Run ``tasks`` with an engine. Raises ValueError for one that is not in ENGINES."""
    if engine != "local":
        raise ValueError(f"engine is {engine!r}; allowed: {', '.join(ENGINES)}")
    if device.type != "cpu":
        yield from _seeds_together(tasks, runs, device)
    elif workers > 1 and len(tasks) > 1:
        yield from _processes(tasks, workers, runs, device)
    else:
        for task in tasks:
            yield task, attempt(task, runs, device)


def _seeds_together(
    tasks: Sequence[Task], runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """On an accelerator the seeds of a variant are computed as one, where their function can."""
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        name = f"{task.function.run_name} {digest(described(task.config))} {task.side}"
        groups.setdefault(name, []).append(task)
    for group in groups.values():
        left = group
        if len(group) > 1 and hasattr(group[0].function, "together"):
            try:
                yield from zip(group, run_together(group, runs, device), strict=True)
                left = []
            except (CannotJoin, Diverged, torch.cuda.OutOfMemoryError) as reason:
                print(f"{group[0].name}: seeds one by one ({reason})", flush=True)
        for task in left:
            yield task, attempt(task, runs, device)


def _processes(
    tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """Processes of one thread each. One that dies breaks its pool, and with it the runs that were
    under way: each of them is tried again, alone, so that only the one that kills fails."""
    waiting, broken = deque(tasks), list[Task]()
    while waiting:
        with _pool(workers) as pool:
            running: dict[Future, Task] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        future = pool.submit(attempt, waiting[0], runs, device)
                        running[future] = waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        record = future.result()
                        yield running.pop(future), record
            except BrokenProcessPool:
                print(f"a worker was killed; tried again: {len(running)} runs", flush=True)
                broken += running.values()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    for task in broken:
        yield task, _alone(task, runs, device)


def _alone(task: Task, runs: Path, device: torch.device) -> dict[str, Any] | Failure:
    """Run a task in a process with nothing beside it, and once again if that is killed."""
    for _ in range(ATTEMPTS):
        with _pool(1) as pool, contextlib.suppress(BrokenProcessPool):
            return pool.submit(attempt, task, runs, device).result()
    return Failure("its worker process was killed (out of memory?)")


def _pool(workers: int) -> ProcessPoolExecutor:
    """Workers that end with this process. Spawned: a forked torch with live threads can hang."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, context, initializer=die_with_parent, initargs=(os.getpid(),)
    )


def die_with_parent(parent: int) -> None:
    """End this worker within seconds of the process that started it, however that one ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
