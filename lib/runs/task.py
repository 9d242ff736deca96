"""One computation: what it is given, where it runs, and the record that it leaves.

A task runs in one thread, so its numbers do not depend on how many run beside it. Its folder holds
checkpoints while it runs, and afterwards its record and whatever weights it keeps.
"""

import contextlib
import importlib.metadata
import math
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib.runs import devices, files, memory, places
from lib.runs.key import described, run_key
from lib.runs.provenance import code_hash, commit
from lib.runs.spent import counted

PACKAGES = ("torch", "transformers", "numpy", "pandas")
CPU = torch.device("cpu")
RECORD = "run.json"  # of a finished run, in its folder
MEASURES = ("ppl", "loss")  # ends of the names of what must be a number
CHECKPOINTS = "checkpoint*"  # what only an unfinished run needs


@dataclass(frozen=True)
class Outcome:
    """What a run function returns: one row, and rows of further tables by name (``curve``, ...)."""

    row: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a run computes: its folder (checkpoints, kept weights) and its device."""

    folder: Path
    device: torch.device = CPU

    def need(self, function: Callable, config: Any, seed: int, *kept: str) -> "Place":
        """The place of another run, which is made now if it is not finished.

        ``kept`` are files that it must have left; without one of them it is run again.
        """
        task = Task(function, config, seed, {"variant": function.run_name})
        run_one(task, self.folder.parent, self.device, kept)
        return Place(self.folder.parent / task.key(self.device.type), self.device)

    def starts(self, starts_from: Callable, config: Any, seed: int) -> list["Place"]:
        """The places of the runs that a function declared to start from."""
        return [self.need(*run) for run in starts_from(config, seed)]

    def record(self) -> dict[str, Any]:
        """The record of the finished run in this place."""
        return files.read_record(self.folder / RECORD)


@dataclass(frozen=True)
class Task:
    """``function(config, seed, place) -> Outcome``, declared with ``run_function``.

    ``labels`` (experiment, variant, ...) head the row and name the task in progress lines; they
    do not enter the key, so two experiments that train the same thing train it once. ``side``: its
    tables join those of the variant's main run, its row does not.
    """

    function: Callable[[Any, int, Place], Outcome]
    config: Any
    seed: int
    labels: Mapping[str, Any]
    side: bool = False

    @property
    def alone(self) -> bool:
        """Whether nothing may run beside it, because it reads the clock."""
        return self.function.reads_clock

    def key(self, device: str = "cpu") -> str:
        """Twelve hex digits that name this computation."""
        return run_key(self.function, self.config, self.seed, device)

    @property
    def name(self) -> str:
        return f"{self.labels.get('variant', self.function.run_name)}, seed {self.seed}"

    def missing(self, runs: Path, device: str = "cpu", kept: Sequence[str] = ()) -> bool:
        """Whether it is to be run: no record is there, or not all files that it must have left."""
        folder = runs / self.key(device)
        return not all((folder / name).is_file() for name in (RECORD, *kept))

    def before(self, runs: Path, device: str = "cpu") -> dict[str, "Task"]:
        """By key, the runs that it starts from and that are to be run, or whose own starts are."""
        found: dict[str, Task] = {}
        for function, config, seed, *kept in self.function.starts_from(self.config, self.seed):
            task = Task(function, config, seed, {"variant": function.run_name})
            if task.missing(runs, device, kept) or task.before(runs, device):
                found[task.key(device)] = task
        return found

    def trained_before(self, runs: Path, device: str = "cpu") -> dict[str, "Task"]:
        """Those of ``before`` that read no clock, and those before the others."""
        found: dict[str, Task] = {}
        for key, start in self.before(runs, device).items():
            found |= start.trained_before(runs, device) if start.alone else {key: start}
        return found


@dataclass(frozen=True)
class Failure:
    """Why a run ended without a record, in one sentence."""

    sentence: str


class Diverged(RuntimeError):
    """A loss that is not a finite number."""


def finite(what: str, *values: torch.Tensor) -> None:
    """Raises Diverged, which names ``what``, unless all values are finite numbers."""
    if not all(torch.isfinite(value).all() for value in values):
        raise Diverged(f"{what} holds values that are no finite numbers")


class CannotJoin(TypeError):
    """Runs of several seeds that cannot be computed as one; they are computed one by one."""


def attempt(task: Task, runs: Path, device: torch.device) -> dict[str, Any] | Failure:
    """``run_one``, its error as a Failure whose traceback lies in the run's folder."""
    try:
        return run_one(task, runs, device)
    except Exception as error:
        log, told = runs / task.key(device.type) / "error.txt", ""
        with contextlib.suppress(OSError):
            files.write_text(log, traceback.format_exc())
            told = f" (log: {places.shown(log)})"
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not isinstance(error, (Diverged, files.NoRoom)):
            cause = f"{type(error).__name__}: {cause}"
        return Failure(cause + told)


def run_one(
    task: Task, runs: Path, device: torch.device, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of a task: read if it is finished, else made, by one process at a time.

    A finished run that lacks one of its ``kept`` files is set aside and made again.
    """
    memory.keep_freed()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = runs / task.key(device.type)
    try:
        with files.locked(folder / "lock"):  # another notebook may be at this very run
            record = finished(folder)
            if record and not all((folder / name).is_file() for name in kept):
                files.set_aside(folder / RECORD)
                record = None
            return record or _record(task, Place(folder, device))
    finally:
        torch.set_num_threads(threads)


def finished(folder: Path) -> dict[str, Any] | None:
    """The record of a finished run, or None. A damaged one is set aside, which is said aloud."""
    record = files.kept(folder / RECORD, files.read_record, "the run is made again")
    if record:
        with contextlib.suppress(OSError):  # of a folder that is only read
            _clear(folder)  # its process may have been killed just after the record was written
    return record


def _clear(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for path in (*folder.glob(CHECKPOINTS), folder / "error.txt"):
        path.unlink(missing_ok=True)


def run_together(tasks: Sequence[Task], runs: Path, device: torch.device) -> list[dict[str, Any]]:
    """The records of tasks that differ in their seed only: those that are not finished are computed
    as one.

    The function says how in its attribute ``together(config, seeds, places)``. Raises CannotJoin.
    """
    function, config = tasks[0].function, tasks[0].config
    places = [Place(runs / task.key(device.type), device) for task in tasks]
    with contextlib.ExitStack() as locks:
        for place in sorted(places, key=lambda place: place.folder):
            locks.enter_context(files.locked(place.folder / "lock"))
        # another process may have finished some of them meanwhile
        records = {place: finished(place.folder) for place in places}
        left = [
            (task, place) for task, place in zip(tasks, places, strict=True) if not records[place]
        ]
        if left:
            seeds, own = [task.seed for task, _ in left], [place for _, place in left]
            _begin(function, *own)
            with contextlib.ExitStack() as clocks:
                spent = [
                    clocks.enter_context(
                        counted(place.folder, lambda: time.perf_counter() / len(left))
                    )
                    for place in own
                ]
                outcomes = function.together(config, seeds, own)
                shares = [tell() for tell in spent]  # before writing one is counted to the next
            for (task, place), outcome, seconds in zip(left, outcomes, shares, strict=True):
                records[place] = _kept(task, place, outcome, seconds)
        return list(records.values())


def _begin(function: Callable, *places: Place) -> None:
    for place in places:
        files.clear_partial(place.folder)
    code_hash(function.__module__)  # remembered: of the code that runs, if files change


def _record(task: Task, place: Place) -> dict[str, Any]:
    """Run a task in its folder and leave the record there, complete or not at all."""
    _begin(task.function, place)
    # on the CPU a run has one thread: its processor time is what it costs, whatever runs beside it
    clock = time.process_time if place.device.type == "cpu" else time.perf_counter
    with counted(place.folder, clock) as spent:
        while True:
            try:
                outcome = task.function(task.config, task.seed, place)
                break
            except files.Damaged as damage:
                # what another run has kept and was damaged since: ``Place.need`` makes it again
                path, runs = damage.path, place.folder.parent
                if path is None or path.parent.parent != runs or not path.is_file():
                    raise
                files.put_away(path, damage, "its run is made again")
    return _kept(task, place, outcome, spent())


def _kept(task: Task, place: Place, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Leave the record of a run. Raises Diverged if a loss in its row is no number."""
    for name, value in outcome.row.items():
        if name.endswith(MEASURES) and isinstance(value, float) and math.isnan(value):
            raise Diverged(f"{name} is nan")  # in a table it would pass for a cell left empty
    row = {
        "seconds": round(seconds, 2),
        "device": devices.spoken(place.device),
        "code_hash": code_hash(task.function.__module__),
        "commit": commit(),
        "torch": torch.__version__.split("+")[0],
        **outcome.row,
    }
    record = {
        "function": task.function.run_name,
        "config": described(task.config),
        "seed": task.seed,
        "environment": environment(),
        "row": row,
        "tables": outcome.tables,
    }
    files.write_record(place.folder / RECORD, record)
    _clear(place.folder)
    return record


def environment() -> dict[str, str]:
    """Versions of this process; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
