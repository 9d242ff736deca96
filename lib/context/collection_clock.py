"""How long each way takes to collect the training contexts, by the clock."""

import functools
from dataclasses import dataclass

from lib.context.block_run import trained_block
from lib.context.contexts import layer_outputs
from lib.context.sources import Recurrent, collect
from lib.context.token_stream import StreamChoice, load_streams
from lib.runs.clock import in_turns
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place


@dataclass(frozen=True)
class CollectionClock:
    """A text and choices that differ in their way only; each is timed `repeats` times.

    ``names`` are those of the choices in the table.
    """

    data: StreamChoice
    choices: tuple[Recurrent, ...]
    names: tuple[str, ...]
    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1 or not self.choices or len(self.names) != len(self.choices):
            raise ValueError("allowed: one name a choice, at least one choice and one repeat")


@run_function("context_clock", version=2, clock=True)
def run_clock(config: CollectionClock, seed: int, place: Place) -> Outcome:
    """Table ``clock``: median seconds of every way over all training tokens and layers.

    One block serves all choices, the ways take turns, and the sequential way walks token after
    token.
    """
    x = load_streams(config.data).train.embedded
    trained = trained_block(config.choices[0], config.data.training(), seed, place)
    block = trained.block

    def collected(choice: Recurrent) -> None:
        found = collect(choice, block, x, trained.table, by_steps=True)
        layer_outputs(block, found.final, x, found.starts)

    jobs = [functools.partial(collected, choice) for choice in config.choices]
    seconds = in_turns(jobs, config.repeats, x.device)
    rows = [
        {"way": way, "collect_seconds": found}
        for way, found in zip(config.names, seconds, strict=True)
    ]
    corpus = config.data.corpus
    return Outcome({"corpus": corpus.name, "corpus_sha256": corpus.sha256}, {"clock": rows})
