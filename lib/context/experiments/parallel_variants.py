"""What Experiment 17 compares: its parameters, its variants and their runs."""

from dataclasses import dataclass, replace

import pandas as pd

from lib.context import agreement_run, collection_clock, language_run
from lib.context.agreement_run import AgreementRun
from lib.context.collection_clock import CollectionClock
from lib.context.language_run import LanguageRun
from lib.context.sources import Recurrent
from lib.context.experiments.context_vector import (
    LAYOUTS,
    ContextParameters,
    ContextText,
    seed_phase_one,
)
from lib.parameters import whole, wholes
from lib.results import store
from lib.runs.task import Outcome
from lib.runs.sweep import Task, sweep

EXPERIMENT, SLUG = "context_parallel", "17_parallel_contexts"
CACHE = "context_cache"
NO_LEARNING = ", rate 0"
STILL_ITERATIONS = 20  # a random cell has settled by then, or never does
WAYS = {
    "sequential": "sequential",
    "documents": "documents batched",
    "parallel": "parallel sweeps",
    "table": "Phase 1 table",
}


@dataclass(frozen=True)
class Exp17(ContextParameters):
    """Shared parameters; 3,000 tokens, since agreement does not depend on position."""

    tokens: int = whole(3_000, 100, 10_000_000)
    depths: str = wholes("1,3,6", 1, 64)
    sweeps: int = whole(8, 1, 1_000)

    QUICK = {
        "tokens": 2_000,
        "valid_tokens": 500,
        "test_tokens": 800,
        "width": 48,
        "layers": 3,
        "depths": "1,3",
        "seeds": 1,
        "batch": 256,
        "epochs": 3,
    }
    TINY = {**ContextParameters.TINY, "depths": "1,2", "sweeps": 4}

    @property
    def document(self) -> int:
        """Tokens of a document when documents are batched: at least eight documents."""
        return min(256, self.tokens // 8)


PARAMETERS = Exp17


def agreement_name(layout: str, layers: int, learning: bool = True) -> str:
    """Name of the row that compares parallel and sequential contexts of a block."""
    depth = f"{layers} layer{'s' if layers > 1 else ''}"
    return f"{LAYOUTS[layout]}, {depth}{'' if learning else NO_LEARNING}"


def cache_name(layout: str, way: str) -> str:
    """Name of the row trained on contexts that were collected by one of WAYS."""
    return f"{LAYOUTS[layout]}: {WAYS[way]}"


def run(text: ContextText, parameters: Exp17) -> pd.DataFrame:
    """Agreement for every layout and depth, a Phase 2 on the contexts of every way, and the clock.

    Collection is timed after all trainings, one run after the other, so that nothing beside it
    disturbs the clock; the rows of the ways get its ``collect_seconds``.
    """
    data = text.choose(parameters)
    width = parameters.width or text.embedding_width
    tasks, clocks = [], []
    for seed in range(parameters.seeds):
        for layout in LAYOUTS:
            for depth in parameters.numbers("depths"):
                for learning in (True, False):
                    config = AgreementRun(
                        data, _block(layout, depth, width, learning), parameters.sweeps
                    )
                    name = agreement_name(layout, depth, learning)
                    tasks.append(Task(agreement_run.run, config, seed, _labels(name, EXPERIMENT)))
            sources = ways(layout, width, parameters)
            for way, source in sources.items():
                config = LanguageRun(data, source, parameters.fixed_length())
                labels = _labels(cache_name(layout, way), CACHE)
                tasks.append(Task(language_run.run, config, seed, labels))
            config = CollectionClock(data, tuple(sources.values()))
            labels = _labels(f"{LAYOUTS[layout]}: clock", CACHE)
            clocks.append((layout, Task(collection_clock.run, config, seed, labels)))
    found = sweep(tasks, parameters.workers)
    timed = sweep([task for _, task in clocks], 1)  # alone: nothing may disturb the clock
    for (layout, task), outcome in zip(clocks, timed, strict=True):
        add_seconds(found, layout, task.seed, outcome)
    return store.write(SLUG, found, parameters.size)


def ways(layout: str, width: int, parameters: Exp17) -> dict[str, Recurrent]:
    """One choice of contexts a way, all with the same block and Phase 1."""
    block = _block(layout, parameters.layers, width, True)
    changes = {"sweeps": parameters.sweeps, "document": parameters.document}
    return {way: replace(block, way=way, **changes) for way in WAYS}


def _block(layout: str, depth: int, width: int, learning: bool) -> Recurrent:
    rate = {} if learning else {"learning_rate": 0.0, "max_iterations": STILL_ITERATIONS}
    return Recurrent(layout, depth, width, seed_phase_one(width, **rate))


def add_seconds(found: list[Outcome], layout: str, seed: int, clock: Outcome) -> None:
    """Put the seconds of a clock into its ways' rows, in place. KeyError if one is not there."""
    rows = {(outcome.row["variant"], outcome.row["seed"]): outcome.row for outcome in found}
    for timed in clock.tables["clock"]:
        row = rows[cache_name(layout, timed["way"]), seed]
        row["collect_seconds"] = timed["collect_seconds"]


def _labels(variant: str, experiment: str) -> dict[str, str]:
    return {"experiment": experiment, "variant": variant}
