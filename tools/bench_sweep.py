"""What a sweep costs beside its runs: 10,000 finished runs found, collected and put into tables.

Prints milliseconds a run for each part. Fails if the whole takes 5 ms a run or more.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.parameters import Parameters  # noqa: E402
from lib.results.store import assemble, load_set, save_set  # noqa: E402
from lib.runs import engines  # noqa: E402
from lib.runs.files import write_record  # noqa: E402
from lib.runs.key import run_function  # noqa: E402
from lib.runs.sweep import sweep  # noqa: E402
from lib.runs.task import CPU, RECORD, Outcome, Place, Task, attempt, described  # noqa: E402

MOST = 5.0  # milliseconds a run
EPOCHS = 30


@dataclass(frozen=True)
class Nothing:
    """A run that computes nothing; its record is as large as that of a real one."""

    number: int


@run_function("bench-nothing")
def nothing(config: Nothing, seed: int, place: Place) -> Outcome:
    """A row and a curve of thirty epochs."""
    row = {"corpus": "embedded", "corpus_sha256": "a" * 64, "val_ppl": 9.0, "test_ppl": 9.5}
    curve = [{"epoch": e, "train_loss": 1 / e, "val_ppl": 9 + 1 / e} for e in range(1, EPOCHS + 1)]
    return Outcome(row | {"params": 78_080, "updates": 600}, {"curve": curve})


def tasks(count: int) -> list[Task]:
    """So many tasks: 100 variants, the rest seeds."""
    found = []
    for number in range(count):
        variant = f"v{number % 100}"
        labels = {"experiment": "bench", "variant": variant, "label": variant}
        found.append(Task(nothing, Nothing(number % 100), number // 100, labels))
    return found


def timed(what: str, runs: int, action):
    """Do it, print its milliseconds a run, and return them with what it gave."""
    started = time.perf_counter()
    found = action()
    each = 1e3 * (time.perf_counter() - started) / runs
    print(f"{what:52} {each:7.3f} ms a run", flush=True)
    return each, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    if count < 100:
        sys.exit(f"--runs is {count}; allowed: a whole number at least 100")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        import os

        os.environ["DEPTH_KEEP"] = folder
        runs, every = Path(folder) / "runs", tasks(count)
        first = every[:200]
        timed("a run that computes nothing, from key to record", len(first), lambda: [
            attempt(task, runs, CPU) for task in first
        ])  # fmt: skip
        example = attempt(first[0], runs, CPU)
        for task in every:
            record = example | {"config": described(task.config), "seed": task.seed}
            write_record(runs / task.key() / RECORD, record)
        whole, pairs = timed(
            "finished runs found and read by the sweep", count, lambda: sweep(every)
        )
        spent, _ = timed("their tables assembled", count, lambda: assemble(pairs, "full"))
        keys = [record["key"] for _, record in pairs]
        wrote, held = timed(
            "their tables assembled and written", count,
            lambda: save_set("97_bench", Parameters(), keys, pairs),
        )  # fmt: skip
        timed("their tables read again", count, lambda: load_set(held.folder))
        waiting = first[:100]
        for task in waiting:
            (runs / task.key() / RECORD).unlink()
        timed("100 runs scheduled to one process and collected", 100, lambda: list(
            engines.submit("local", waiting, 1, runs, CPU)
        ))  # fmt: skip
    print(f"scheduling and collecting: {whole + wrote:.2f} ms a run, allowed {MOST}")
    if whole + wrote >= MOST:
        sys.exit("too slow")


if __name__ == "__main__":
    main()
