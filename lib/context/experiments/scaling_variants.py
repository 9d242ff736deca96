"""What Experiment 18 compares: its parameters, its recipes and their runs."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from lib.context import scaling_run
from lib.context.phase_two import PhaseTwoSettings
from lib.context.scaling_run import Recipe, ScalingRun, column, last_column
from lib.context.sources import Recurrent
from lib.context.experiments.context_vector import (
    LAYOUTS,
    ContextParameters,
    ContextText,
    seed_phase_one,
)
from lib.parameters import ParameterError, whole, wholes
from lib.results import store
from lib.runs.sweep import Task, sweep

EXPERIMENT, SLUG = "context_scaling", "18_scaling"
FIRST, EVERY = LAYOUTS["first_layer"], LAYOUTS["every_layer"]
FIXED, SEED, EQUAL = "fixed", "seed", "equal_updates"
# the stopping rules (patience; 0: none) that are read off the curve of each recipe
RULES = {FIXED: (0, 1, 3), SEED: (1,), EQUAL: (0,)}
# the seed's batches followed free memory: tokens / batch at its four sizes (reconstructed)
SEED_UPDATES_PER_EPOCH = (8, 17, 40, 342)
SEED_TOKENS = (56_602, 110_516, 216_119, 529_173)
SCHEDULES = {
    "fixed batch, fixed epochs": column(FIXED, 0, "test_ppl"),
    "fixed batch, patience 1": column(FIXED, 1, "test_ppl"),
    "fixed batch, patience 3": column(FIXED, 3, "test_ppl"),
    "seed's growing number of updates, patience 1": column(SEED, 1, "test_ppl"),
    "equal budget of updates, best epoch": column(EQUAL, 0, "test_ppl"),
    "equal updates, last one": last_column(EQUAL, "test_ppl"),
}


@dataclass(frozen=True)
class Exp18(ContextParameters):
    """Shared parameters; `tokens` is the largest size, width 128 pays for the many runs."""

    tokens: int = whole(16_000, 100, 10_000_000)
    sizes: str = wholes("2000,4000,8000,16000", 50, 10_000_000)
    width: int = whole(128, 0, 4_096)
    batch: int = whole(256, 1, 100_000)
    equal_updates: int = whole(320, 1, 1_000_000)

    QUICK = {
        "tokens": 3_000,
        "sizes": "750,1500,3000",
        "valid_tokens": 500,
        "test_tokens": 800,
        "width": 48,
        "layers": 3,
        "seeds": 2,
        "batch": 128,
        "epochs": 4,
        "equal_updates": 40,
    }
    TINY = {**ContextParameters.TINY, "sizes": "150,300,600", "batch": 64, "equal_updates": 4}

    def check(self) -> None:
        """Raises ParameterError unless ``sizes`` are three or more, rise, and end at ``tokens``."""
        sizes = self.numbers("sizes")
        if len(sizes) < 3 or any(a >= b for a, b in pairwise(sizes)):
            raise ParameterError(
                f"parameter 'sizes' is {self.sizes!r}; allowed: at least three whole numbers that "
                "strictly rise, since a law with a floor has three parameters."
            )
        if sizes[-1] != self.tokens:
            raise ParameterError(
                f"the largest of sizes ({self.sizes}) must equal tokens ({self.tokens})."
            )


PARAMETERS = Exp18


def variant(layout: str, tokens: int) -> str:
    """Name of the row of a layout at a size."""
    return f"{LAYOUTS[layout]}, {tokens:,} tokens"


def seed_batch(tokens: int, place: int, count: int) -> int:
    """Batch that gives the seed's number of updates an epoch at this place of the size list."""
    position = place * (len(SEED_UPDATES_PER_EPOCH) - 1) / max(1, count - 1)
    logs = np.log(SEED_UPDATES_PER_EPOCH)
    updates = np.exp(np.interp(position, range(len(logs)), logs))
    return max(1, round(tokens / updates))


def recipes(run: Exp18, layout: str, tokens: int, place: int) -> tuple[Recipe, ...]:
    """Fixed batch for both layouts; for the seed's layout also its recipe and an equal budget.

    The equal budget is ``equal_updates`` updates of one batch at every size; the last epoch ends
    where it is spent.
    """
    rate, sizes = run.learning_rate, run.numbers("sizes")
    found = [Recipe(FIXED, run.fixed_length(), RULES[FIXED])]
    if layout == "first_layer":
        batch = seed_batch(tokens, place, len(sizes))
        found.append(
            Recipe(SEED, PhaseTwoSettings(batch, rate, run.epochs, patience=1), RULES[SEED])
        )
        per_epoch = -(-(tokens - 1) // run.batch)
        epochs = -(-run.equal_updates // per_epoch)
        equal = PhaseTwoSettings(run.batch, rate, epochs, 0, run.equal_updates)
        found.append(Recipe(EQUAL, equal, RULES[EQUAL]))
    return tuple(found)


def run(text: ContextText, parameters: Exp18) -> pd.DataFrame:
    """Every size, layout and seed on one validation and one test text, one vocabulary."""
    width = parameters.width or text.embedding_width
    tasks = []
    for seed in range(parameters.seeds):
        for place, tokens in enumerate(parameters.numbers("sizes")):
            data = text.choose(parameters, tokens=tokens)
            for layout in LAYOUTS:
                block = Recurrent(layout, parameters.layers, width, seed_phase_one(width))
                config = ScalingRun(data, block, recipes(parameters, layout, tokens, place))
                labels = {"experiment": EXPERIMENT, "variant": variant(layout, tokens)}
                tasks.append(Task(scaling_run.run, config, seed, labels))
    return store.write(SLUG, sweep(tasks, parameters.workers), parameters.size)
