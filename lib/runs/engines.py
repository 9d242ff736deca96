"""Who computes the tasks of a sweep: this machine's processes, a Dask cluster, or Slurm.

An engine takes tasks and yields (task, record or Failure) as they end, in any order. All of them
leave their runs in the same folders, so that any may go on where another stopped.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import pickle
import sys
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
from lib.runs.places import ROOT
from lib.runs.task import Failure, Task, attempt, run_together

ATTEMPTS = 2  # of a run alone in its process: it may have been killed for others' memory
ANSWER = 10  # seconds within which a Dask scheduler must answer
KILLED = Failure("its worker process was killed (out of memory?)")
UNGUARDED = 78  # exit status of a worker that was started by a script from within a worker
ONE_AT_A_TIME = threading.Lock()  # runs of a process: they share random numbers, threads, clock


class EngineUnavailable(ValueError):
    """An engine that is not known, or cannot be had here; the message says what is missing."""


def submit(
    engine: str, tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """Run ``tasks`` with an engine, ``workers`` at a time.

    Raises EngineUnavailable for an engine that is not in ENGINES, whose package is not installed,
    or whose cluster cannot be reached.
    """
    if engine not in ENGINES:
        raise EngineUnavailable(f"engine is {engine!r}; allowed: {', '.join(ENGINES)}")
    start, package = ENGINES[engine]
    if package and importlib.util.find_spec(package) is None:
        raise EngineUnavailable(
            f"engine {engine!r} needs the package {package}: "
            "pip install -r requirements-cluster.txt"
        )
    yield from start(tasks, workers, runs, device)


def _local(
    tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """This process, or several of this machine."""
    if device.type != "cpu":
        yield from _seeds_together(tasks, runs, device)
        return
    here, travelling = list(tasks), list[Task]()
    if workers > 1 and len(tasks) > 1:
        here.clear()
        for task in tasks:
            (travelling if _can_travel(task) else here).append(task)
        yield from _processes(travelling, workers, runs, device)
        if here:
            print(
                f"{len(here)} runs in this process, one after the other: their code was defined in"
                " a cell, where no worker finds it, or they hold what cannot be sent to one",
                flush=True,
            )
    for task in here:
        yield task, attempt(task, runs, device)


def _can_travel(task: Task) -> bool:
    """Whether another process can import what a task is made of."""
    try:
        content = pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    main = sys.modules["__main__"]  # that of a script is imported again, that of a notebook not
    return b"__main__" not in content or hasattr(main, "__file__")


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
            except Exception as reason:  # whatever it is, each seed shows it alone, or ends well
                print(f"{group[0].name}: seeds one by one ({reason})", flush=True)
        for task in left:
            yield task, attempt(task, runs, device)


def _processes(
    tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """Processes of one thread each. One that dies breaks its pool, and with it the runs that were
    under way: each of them is tried again, alone, so that only the one that kills fails."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)  # this very process is a worker that imports the script
    waiting, broken = deque(tasks), list[Task]()
    while waiting:
        with _pool(workers) as pool:
            running: dict[Future, Task] = {}
            started: dict[int, multiprocessing.Process] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < workers:
                        future = pool.submit(attempt, waiting[0], runs, device)
                        running[future] = waiting.popleft()
                        started |= pool._processes or {}
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        record = future.result()
                        yield running.pop(future), record
            except BrokenProcessPool:
                pool.shutdown()
                if any(process.exitcode == UNGUARDED for process in started.values()):
                    raise EngineUnavailable(
                        "a script that starts workers is run by each of them; allowed: the run "
                        "under if __name__ == '__main__':, or workers = 1"
                    ) from None
                print(f"a worker was killed; tried again: {len(running)} runs", flush=True)
                broken += running.values()
            except BaseException:  # runs go on from their checkpoints: none is waited for
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                pool.shutdown(cancel_futures=True)
                raise
    for task in broken:
        yield task, _alone(task, runs, device)


def _alone(task: Task, runs: Path, device: torch.device) -> dict[str, Any] | Failure:
    """Run a task in a process with nothing beside it, and once again if that is killed."""
    for _ in range(ATTEMPTS):
        with _pool(1) as pool, contextlib.suppress(BrokenProcessPool):
            return pool.submit(attempt, task, runs, device).result()
    return KILLED


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


def _dask(
    tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """A Dask cluster: the one whose scheduler DEPTH_DASK names, the one that this process is a
    client of already, or ``workers`` processes of this machine.

    Its workers see the same folders as this process. A run whose worker dies is given to another,
    three times. On GPUs a worker takes one run at a time, each on a GPU of its own.
    """
    from distributed import Client, KilledWorker, as_completed

    def client() -> Client:
        address = os.environ.get("DEPTH_DASK")
        own = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        if not address:
            return Client(**own, set_as_default=False)
        try:
            return Client(address, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EngineUnavailable(
                f"DEPTH_DASK is {address!r}, where no scheduler answers: {error}; allowed: the "
                "address of one that runs, such as tcp://10.0.0.1:8786, or nothing"
            ) from None

    with contextlib.ExitStack() as opened:
        try:
            cluster = Client.current()
        except ValueError:
            cluster = opened.enter_context(client())
        futures = {
            cluster.submit(_on_worker, task, runs, device, pure=False): task for task in tasks
        }
        try:
            for future in as_completed(futures, loop=cluster.loop):
                try:
                    yield futures[future], future.result()
                except KilledWorker:
                    yield futures[future], KILLED
        finally:
            cluster.cancel(list(futures))


def _on_worker(task: Task, runs: Path, device: torch.device) -> dict[str, Any] | Failure:
    """``attempt`` on a Dask worker, whatever its threads one at a time: the GPU of its number, if
    it sees several."""
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        from distributed import get_worker

        number = get_worker().name  # a number in clusters of one machine
        if isinstance(number, int):
            device = torch.device("cuda", number % torch.cuda.device_count())
    with ONE_AT_A_TIME:
        return attempt(task, runs, device)


def _slurm(
    tasks: Sequence[Task], workers: int, runs: Path, device: torch.device
) -> Iterator[tuple[Task, Any]]:
    """Slurm, by submitit: one job a run, ``workers`` at a time, a GPU each where GPUs are asked.

    DEPTH_SLURM holds further settings of submitit, such as ``slurm_partition=gpu timeout_min=600``;
    ``cluster=local`` runs the jobs on this machine. A job that ends without a result is submitted
    once more.
    """
    import submitit
    from submitit.core.utils import UncompletedJobError

    given = os.environ.get("DEPTH_SLURM", "")
    settings = dict(part.partition("=")[::2] for part in given.split())
    numbers = {name: int(value) if value.isdigit() else value for name, value in settings.items()}
    cluster = numbers.pop("cluster", "slurm")
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(ROOT) not in paths:  # jobs import the library too, installed or not
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), *paths)))
    own = {"name": "depth", "cpus_per_task": 1, "slurm_array_parallelism": workers}
    own |= {"gpus_per_node": 1} if device.type == "cuda" else {}
    try:
        executor = submitit.AutoExecutor(runs.parent / "jobs", cluster=cluster)
        executor.update_parameters(**{**own, "timeout_min": 24 * 60, **numbers})
    except (RuntimeError, ValueError, NameError) as error:  # no Slurm here, or no such setting
        raise EngineUnavailable(
            f"engine 'slurm' cannot be used here: {str(error).splitlines()[0]}; DEPTH_SLURM is "
            f"{given!r}, allowed: settings such as slurm_partition=gpu, or cluster=local"
        ) from None
    left = list(tasks)
    for number in range(ATTEMPTS):
        with executor.batch():
            jobs = [executor.submit(attempt, task, runs, device) for task in left]
        of, broken = dict(zip(jobs, left, strict=True)), []
        try:
            for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
                try:
                    yield of[job], job.result()
                except UncompletedJobError:
                    broken.append(of[job])
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        left = broken
        if not left:
            return
        if number + 1 < ATTEMPTS:
            print(f"{len(left)} jobs ended without a result and are submitted again", flush=True)
    for task in left:
        yield task, KILLED


# name -> how it runs, and the package that it needs
ENGINES = {"local": (_local, ""), "dask": (_dask, "distributed"), "slurm": (_slurm, "submitit")}
