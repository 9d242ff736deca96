"""What Experiment 16 compares: its parameters, its variants and their runs."""

from dataclasses import dataclass

import pandas as pd

from lib.context.block import matched_context_dim, parameter_count
from lib.context.language_run import LanguageRun, UnigramRun, run_unigram
from lib.context.language_run import run as run_language
from lib.context.sources import Recurrent, TruncatedBptt, Window
from lib.context.token_stream import StreamChoice
from lib.context.experiments.context_vector import (
    LAYOUTS,
    ContextParameters,
    ContextText,
    seed_phase_one,
)
from lib.parameters import ParameterError, whole
from lib.results import store
from lib.runs.sweep import Task, sweep

EXPERIMENT, SLUG = "context_token_input", "16_token_input"
EVERY, FIRST = LAYOUTS["every_layer"], LAYOUTS["first_layer"]
MATCHED, FLAT = f"{FIRST}, equal parameters", f"{FIRST}, flat widths"
NO_PHASE_ONE = ", no Phase 1"
TRAINED = ", end to end"
UNIGRAM = "unigram"


@dataclass(frozen=True)
class Exp16(ContextParameters):
    """Shared parameters; `wide_tokens` > 0 adds both layouts at the table's own width, one seed."""

    windows: int = whole(6, 1, 16)
    wide_tokens: int = whole(3_000, 0, 1_000_000)

    QUICK = {
        "tokens": 3_000,
        "valid_tokens": 600,
        "test_tokens": 1_000,
        "width": 64,
        "layers": 3,
        "seeds": 1,
        "batch": 256,
        "epochs": 4,
        "windows": 3,
        "wide_tokens": 0,
    }
    TINY = {**ContextParameters.TINY, "windows": 2, "wide_tokens": 0}

    @property
    def most_tokens(self) -> int:
        """Training tokens of the largest run: at the chosen or at the table's own width."""
        return max(self.tokens, self.wide_tokens)

    @property
    def memories(self) -> int:
        """Largest number of tokens that the cell is cut to: two below the largest window."""
        return max(1, self.windows - 2)

    def check(self) -> None:
        """Raises ParameterError unless end-to-end training has a whole window in every lane."""
        if self.batch >= self.tokens:
            raise ParameterError(
                f"parameter 'batch' is {self.batch}; allowed: below tokens ({self.tokens}), since "
                "end-to-end training walks a whole batch of windows at once."
            )


PARAMETERS = Exp16


def window_name(count: int) -> str:
    """Name of the MLP over the last ``count`` tokens."""
    return f"{count}-token MLP"


def memory_name(count: int) -> str:
    """Name of the every-layer cell cut to its last ``count`` tokens."""
    return f"{EVERY}, last {count} only"


def sources(run: Exp16, width: int) -> dict[str, Recurrent | Window | TruncatedBptt]:
    """Every variant at one width: the seed's two rows and the controls that decide them."""
    phase_one = seed_phase_one(width)

    def block(layout: str, **changes) -> Recurrent:
        fields = {"layout": layout, "layers": run.layers, "width": width, "phase_one": phase_one}
        return Recurrent(**{**fields, **changes})

    target = parameter_count(width, width, run.layers, "every_layer")
    narrow = matched_context_dim(target, width, run.layers, "first_layer")
    found: dict[str, Recurrent | Window | TruncatedBptt] = {
        EVERY: block("every_layer"),
        FIRST: block("first_layer"),
        MATCHED: block("first_layer", width=narrow, phase_one=seed_phase_one(narrow)),
        FLAT: block("first_layer_flat"),
        EVERY + NO_PHASE_ONE: block("every_layer", phase_one=None),
        FIRST + NO_PHASE_ONE: block("first_layer", phase_one=None),
        EVERY + TRAINED: _trained("every_layer", run, width),
        FIRST + TRAINED: _trained("first_layer", run, width),
    }
    for count in range(1, run.windows + 1):
        found[window_name(count)] = Window(count, run.layers)
    for count in range(1, run.memories + 1):
        found[memory_name(count)] = block("every_layer", memory=count)
    return found


def _trained(layout: str, run: Exp16, width: int) -> TruncatedBptt:
    window = min(16, run.batch)
    return TruncatedBptt(layout, run.layers, width, max(1, run.batch // window), window)


def run(text: ContextText, parameters: Exp16) -> pd.DataFrame:
    """Train every variant with every seed; write and return the main table."""
    width = parameters.width or text.embedding_width
    data = text.choose(parameters, vocabulary_tokens=parameters.tokens)
    tasks = [
        _task(name, data, source, parameters, seed)
        for seed in range(parameters.seeds)
        for name, source in sources(parameters, width).items()
    ]
    tasks.append(Task(run_unigram, UnigramRun(data), 0, _labels(UNIGRAM)))
    if parameters.wide_tokens:
        tasks += _wide(text, parameters)
    return store.write(SLUG, sweep(tasks, parameters.workers), parameters.size)


def _wide(text: ContextText, parameters: Exp16) -> list[Task]:
    """Both layouts at the table's own width on fewer tokens: one seed, a check of the scaling."""
    width, tokens = text.embedding_width, parameters.wide_tokens
    data = text.choose(parameters, tokens=tokens, vocabulary_tokens=tokens, width=0)
    chosen = sources(parameters, width)
    return [
        _task(wide_name(name, width), data, chosen[name], parameters, 0) for name in (EVERY, FIRST)
    ]


def wide_name(name: str, width: int) -> str:
    """Name of a layout's row at the embedding table's own width."""
    return f"{name}, width {width}"


def _task(
    name: str,
    data: StreamChoice,
    source: Recurrent | Window | TruncatedBptt,
    parameters: Exp16,
    seed: int,
) -> Task:
    config = LanguageRun(data, source, parameters.fixed_length())
    return Task(run_language, config, seed, _labels(name))


def _labels(variant: str) -> dict[str, str]:
    return {"experiment": EXPERIMENT, "variant": variant}
