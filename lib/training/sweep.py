"""Run many independent tasks -- variants times seeds -- in parallel, each exactly once.

Every task runs in one thread, so its numbers do not depend on how many run beside it:
``workers=1`` is the plain loop, ``workers=2`` the same numbers in about half the time. A finished
task lies in ``results/runs/<run id>/`` and is read, not run, the next time; the id hashes the
function, its configuration, its seed and the code it can reach.
"""

import dataclasses
import fcntl
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib.provenance import ROOT, closure_hash, environment
from lib.training.outcome import Outcome

RUNS = ROOT / "results" / "runs"


@dataclass(frozen=True)
class Task:
    """``function(config, seed, folder) -> Outcome``, importable from ``lib``.

    ``labels`` (experiment, variant, ...) head the row and name the task in progress lines; they
    do not enter the run id, so two experiments that train the same thing train it once.
    """

    function: Callable[[Any, int, Path], Outcome]
    config: Any
    seed: int
    labels: dict[str, Any]

    @property
    def code_hash(self) -> str:
        """Hash of the code behind the function and behind every object in its configuration."""
        return closure_hash(self.function.__module__, *sorted(_modules(self.config)))

    @property
    def run_id(self) -> str:
        """Twelve hex digits that name this computation."""
        content = {
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "config": fingerprint(self.config),
            "seed": self.seed,
            "code": self.code_hash,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        return f"{self.labels.get('variant', self.function.__name__)}, seed {self.seed}"


def fingerprint(value: Any) -> Any:
    """``value`` as plain JSON, with its class names; objects with a ``sha256`` count by that.

    Raises TypeError for anything that has no stable description.
    """
    if hasattr(value, "sha256") and hasattr(value, "name"):
        return {"name": value.name, "sha256": value.sha256}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f.name for f in dataclasses.fields(value) if f.init]
        content = {name: fingerprint(getattr(value, name)) for name in fields}
        return {"class": type(value).__qualname__, **content}
    if isinstance(value, dict):
        return {str(key): fingerprint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a task's configuration cannot hold a {type(value).__name__}")


def _modules(value: Any) -> set[str]:
    """Modules of the ``lib`` classes whose instances a configuration holds."""
    found = set()
    if type(value).__module__.split(".")[0] == "lib":
        found.add(type(value).__module__)
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        found = found.union(*(_modules(item) for item in value))
    return found


def sweep(tasks: Sequence[Task], workers: int = 1, runs: Path = RUNS) -> list[Outcome]:
    """The outcomes of all tasks in the given order, running those that are not yet on disk.

    Prints a line as each task ends, with the time left. An error in any task stops the sweep;
    what had finished stays on disk.
    """
    waiting: dict[str, Task] = {}
    for task in tasks:
        if _read(runs / task.run_id) is None:
            waiting.setdefault(task.run_id, task)
    finished = len({task.run_id for task in tasks}) - len(waiting)
    if finished:
        print(f"{finished} of {finished + len(waiting)} runs are on disk already", flush=True)
    progress = _Progress(len(waiting))
    if workers > 1 and len(waiting) > 1:
        _in_processes(list(waiting.values()), workers, runs, progress)
    else:
        for task in waiting.values():
            progress.line(task, _run(task, runs))
    outcomes = []
    for task in tasks:
        record = _read(runs / task.run_id)
        if record is None:
            raise RuntimeError(f"the run of {task.name} left no record")
        row = {**task.labels, "seed": task.seed, **record["row"], "run_id": task.run_id}
        row["torch"] = record["environment"]["torch"]
        outcomes.append(Outcome(row, record["tables"]))
    return outcomes


def _in_processes(tasks: list[Task], workers: int, runs: Path, progress: "_Progress") -> None:
    # spawn, not fork: a forked torch with live threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(_run, task, runs): task for task in tasks}
        try:
            for future in as_completed(futures):
                progress.line(futures[future], future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(task: Task, runs: Path) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = runs / task.run_id
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another notebook may be at this very run
        try:
            if (record := _read(folder)) is not None:
                return record
            return _record(task, folder)
        finally:
            torch.set_num_threads(threads)


def _record(task: Task, folder: Path) -> dict[str, Any]:
    """Run a task in its folder and leave the record there, complete or not at all."""
    started = time.perf_counter()
    outcome = task.function(task.config, task.seed, folder)
    row = {
        "seconds": round(time.perf_counter() - started, 2),
        "device": "cpu",
        "code_hash": task.code_hash,
        **outcome.row,
    }
    record = {
        "config": fingerprint(task.config),
        "seed": task.seed,
        "environment": environment(row["device"]),
        "row": row,
        "tables": outcome.tables,
    }
    partial = folder / "run.json.partial"
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(partial, folder / "run.json")
    for path in folder.glob("checkpoint*"):  # only an unfinished run needs one
        path.unlink()
    return record


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RuntimeError(
            f"the record of run {folder.name} is corrupt ({error}); delete that folder of "
            "results/runs to run it again"
        ) from error


class _Progress:
    """Plain lines: how many are done, what the last one found, how long the rest will take."""

    def __init__(self, total: int):
        self.total, self.done, self.started = total, 0, time.perf_counter()

    def line(self, task: Task, record: dict[str, Any]) -> None:
        self.done += 1
        elapsed = time.perf_counter() - self.started
        left = elapsed / self.done * (self.total - self.done)
        row = record["row"]
        found = f"val_ppl {row['val_ppl']:.3f}, " if row.get("val_ppl") is not None else ""
        print(
            f"[{self.done}/{self.total}] {task.name}: {found}{row['seconds']:.0f} s; "
            f"about {_spoken(left)} left",
            flush=True,
        )


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
