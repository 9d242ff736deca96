"""How long each way takes to collect the training contexts, by the clock."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from lib.context.sources import Recurrent, collect, trained_block
from lib.context.token_stream import StreamChoice, load_streams
from lib.runs.task import Outcome


@dataclass(frozen=True)
class CollectionClock:
    """A text and choices that differ in their way only; each is timed `repeats` times."""

    data: StreamChoice
    choices: tuple[Recurrent, ...]
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1 or not self.choices:
            raise ValueError("at least one choice and one repeat are needed")


def run(config: CollectionClock, seed: int, folder: Path) -> Outcome:
    """Table ``clock``: median seconds of every way over all training tokens and layers.

    One block is trained, untimed, and serves all choices; the ways take turns, so that all meet
    the same machine. Nothing is written to disk while the clock runs.
    """
    x = load_streams(config.data).train.embedded
    path = folder / "checkpoint_block.safetensors"
    block, _, table = trained_block(config.choices[0], x, seed, path)
    seconds: dict[str, list[float]] = {choice.way: [] for choice in config.choices}
    for _ in range(config.repeats):
        for choice in config.choices:
            started = time.perf_counter()
            collect(choice, block, x, table)
            seconds[choice.way].append(time.perf_counter() - started)
    rows = [
        {"way": way, "collect_seconds": statistics.median(found)} for way, found in seconds.items()
    ]
    corpus = config.data.corpus
    return Outcome({"corpus": corpus.name, "corpus_sha256": corpus.sha256}, {"clock": rows})
