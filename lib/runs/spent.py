"""What a run has cost so far, over all its starts: one that was killed is not cheaper."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.runs import files

NOTE = "checkpoint_seconds.json"  # in the run's folder; goes with its checkpoints
EVERY = 30.0  # seconds between two notes: the most that a kill leaves uncounted


@contextmanager
def counted(folder: Path, clock: Callable[[], float]) -> Iterator[Callable[[], float]]:
    """Yields a function that tells the seconds spent, by ``clock``, on the run in ``folder``.

    A thread of its own notes them, because a run may be killed anywhere, not only in training.
    """
    earlier = files.kept(folder / NOTE, files.read_record, "seconds count from now") or 0.0
    started, ended = clock(), threading.Event()

    def spent() -> float:
        return earlier + clock() - started

    def note() -> None:
        with contextlib.suppress(OSError):  # a full disk stops the run where results are written
            files.write_record(folder / NOTE, spent())

    def keep_noting() -> None:
        while not ended.wait(EVERY):
            note()

    thread = threading.Thread(target=keep_noting, name="seconds of a run", daemon=True)
    thread.start()
    try:
        yield spent
    except BaseException:
        note()
        raise
    finally:
        ended.set()
        thread.join()
