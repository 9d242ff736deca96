"""Run many independent tasks -- variants times seeds -- in parallel, each exactly once.

A finished run lies in ``results/runs/<key>/`` and is read, not run, the next time. A task that
fails does not stop the others: what can be run is run and kept, and the end names the failures.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from lib.runs import engines, places
from lib.runs.task import CPU, Failure, Task, finished

TOLD_SHARE = 0.05  # of the time, the most that telling takes while runs train


class SweepFailed(RuntimeError):
    """Some runs failed; the message lists them, a sentence each. The others are kept."""


def sweep(
    tasks: Sequence[Task],
    workers: int = 1,
    device: torch.device = CPU,
    engine: str = "local",
    recorded: Mapping[str, dict] | None = None,
    told: Callable[[list[tuple[Task, dict]]], None] | None = None,
) -> list[tuple[Task, dict]]:
    """The records of all tasks in the given order, running those that are not finished.

    ``recorded`` are finished runs by key that lie elsewhere (committed tables). ``told`` is called
    with all finished pairs so far, while runs end and before an interrupt. Prints a
    line as each task ends, with the time left. What reads the clock comes last, one at a time,
    after what it starts from. Raises SweepFailed after everything else has run.
    """
    runs, held = places.runs_folder(), dict(recorded or {})
    keys = {id(task): task.key(device.type) for task in tasks}
    waiting: dict[str, Task] = {}
    for task in tasks:
        key = keys[id(task)]
        if key in held or key in waiting:
            continue
        if record := finished(runs / key):
            held[key] = record
        else:
            waiting[key] = task
    failures: list[str] = []

    def pairs() -> list[tuple[Task, dict]]:
        found = ((task, keys[id(task)]) for task in tasks)
        return [(task, {**held[key], "key": key}) for task, key in found if key in held]

    telling = _Telling(told, pairs)
    # side by side, then, one at a time, what reads the clock
    alone = [task for task in waiting.values() if task.alone]
    together = {key: task for key, task in waiting.items() if not task.alone}
    starts = {k: t for task in alone for k, t in task.trained_before(runs, device.type).items()}
    together = {**together, **{k: t for k, t in starts.items() if k not in together}}
    keys |= {id(task): key for key, task in together.items()}
    progress = _Progress(len(together), len(alone))
    lost: set[str] = set()  # keys of what failed

    def run() -> Iterator[tuple[Task, Any]]:
        progress.begin(together)
        if together:
            yield from engines.submit(engine, list(together.values()), workers, runs, device)
        progress.begin(alone)
        for task in alone:  # each handed over when the one before has ended, whatever the engine
            if lost & set(task.trained_before(runs, device.type)):
                yield task, Failure("what it starts from failed")
            else:
                yield from engines.submit(engine, [task], 1, runs, device)

    try:
        for task, record in run():
            if isinstance(record, Failure):
                progress.done += 1
                lost.add(keys[id(task)])
                failures.append(f"{task.name}: {record.sentence}")
                print(f"FAILED {failures[-1]}", flush=True)
                continue
            key = keys[id(task)]
            held[key] = finished(runs / key) or record  # as any later reader finds it
            progress.line(task, record)
            telling.ended(task.alone)
    except BaseException:
        telling.rest()
        raise
    if failures:
        telling.rest()
        listed = "\n".join(f"  {line}" for line in failures)
        every = len(set(keys.values()))
        raise SweepFailed(f"{len(failures)} of {every} runs failed, the others are kept:\n{listed}")
    return pairs()


class _Telling:
    """Hands the finished pairs on. After each run that reads the clock: there are few, and the next
    one may take an hour. While others end, as often as TOLD_SHARE of the time allows."""

    def __init__(
        self,
        told: Callable[[list[tuple[Task, dict]]], None] | None,
        pairs: Callable[[], list[tuple[Task, dict]]],
    ):
        self.told, self.pairs = told, pairs
        self.untold, self.took, self.last = False, 0.0, time.monotonic()

    def ended(self, alone: bool) -> None:
        """A run has ended, one that ran ``alone`` or not."""
        self.untold = True
        if alone or self.took <= TOLD_SHARE * (time.monotonic() - self.last):
            self.rest()

    def rest(self) -> None:
        """What is finished and was not handed on."""
        if self.told and self.untold:
            begun = time.monotonic()
            self.told(self.pairs())
            self.last, self.untold = time.monotonic(), False
            self.took = self.last - begun


class _Progress:
    """Plain lines: how many have ended, what the last one found, how long the rest will take.

    A run that reads the clock may take a hundredth of one that trains: the time left is told of
    those of its kind, and of how many clocks follow.
    """

    def __init__(self, together: int, alone: int):
        self.total, self.alone, self.done = together + alone, alone, 0
        self.begin(())

    def begin(self, batch: Collection) -> None:
        """The runs that come next, all of one kind."""
        self.before, self.until, self.started = self.done, self.done + len(batch), time.monotonic()

    def line(self, task: Task, record: dict[str, Any]) -> None:
        self.done += 1
        elapsed = time.monotonic() - self.started
        left = elapsed / (self.done - self.before) * (self.until - self.done)
        follow = self.alone if self.until < self.total else 0
        then = f", then {follow} clock{'s' * (follow > 1)}" if follow else ""
        row = record["row"]
        found = f"val_ppl {perplexed(row['val_ppl'])}, " if row.get("val_ppl") is not None else ""
        print(
            f"[{self.done}/{self.total}] {task.name}: {found}{row['seconds']:.0f} s; "
            f"about {spoken(left)} left{then}",
            flush=True,
        )


def perplexed(ppl: float) -> str:
    """A perplexity as it is read; one beyond any model's in few digits."""
    return f"{ppl:.3f}" if ppl < 1e6 else f"{ppl:.2g}"


def spoken(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
