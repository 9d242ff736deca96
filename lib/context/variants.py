"""Rows of the context experiments: a source of contexts and a Phase 2 on it, and the unigram
baseline."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lib.context.block import matched_context_dim, parameter_count
from lib.context.language_run import LanguageRun, UnigramRun, run_language, run_unigram
from lib.context.parameters import ContextParameters, ContextText, report_phase_one
from lib.context.sources import Recurrent, TruncatedBptt, Window
from lib.experiment import Run

Source = Recurrent | Window | TruncatedBptt
Sources = Callable[[ContextParameters, int], Source | None]  # of parameters and width


def block(layout: str, **changes: Any) -> Sources:
    """Contexts of a block of a layout with the report's Phase 1; `changes` of Recurrent."""

    def source(parameters: ContextParameters, width: int) -> Recurrent:
        found = Recurrent(layout, parameters.layers, width, report_phase_one(width))
        return replace(found, **changes)

    return source


def matched(parameters: ContextParameters, width: int) -> Recurrent:
    """The first-layer block narrowed to the every-layer block's number of parameters."""
    target = parameter_count(width, width, parameters.layers, "every_layer")
    narrow = matched_context_dim(target, width, parameters.layers, "first_layer")
    return Recurrent("first_layer", parameters.layers, narrow, report_phase_one(narrow))


def end_to_end(layout: str) -> Sources:
    """The cell of a layout trained for the task, windows of 16 tokens, batches as in Phase 2."""

    def source(parameters: ContextParameters, width: int) -> TruncatedBptt:
        window = min(16, parameters.batch)
        lanes = max(1, parameters.batch // window)
        return TruncatedBptt(layout, parameters.layers, width, lanes, window)

    return source


def window(count: int) -> Sources:
    """The MLP over the last `count` tokens, where the parameters ask for so many."""
    return lambda p, width: Window(count, p.layers) if count <= p.windows else None


@dataclass(frozen=True)
class Language:
    """Contexts and a Phase 2.

    ``contexts`` gives None where the parameters do not ask for the row. ``data`` changes fields of
    StreamChoice; ``seeds`` limits the random seeds; ``turn`` as in Run.
    """

    label: str
    contexts: Sources
    factors: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[ContextParameters], dict[str, Any] | None] = lambda parameters: {}
    seeds: Callable[[ContextParameters], int] = lambda parameters: parameters.seeds
    turn: int = 0

    def runs(self, parameters: ContextParameters, text: ContextText) -> Iterator[Run]:
        changes = self.data(parameters)
        if changes is None:
            return
        data = text.choose(parameters, **changes)
        source = self.contexts(parameters, data.width or text.embedding_width)
        if source is None:
            return
        config = LanguageRun(data, source, parameters.phase_two())
        for seed in range(self.seeds(parameters)):
            yield Run(run_language, config, seed, turn=self.turn)


@dataclass(frozen=True)
class Unigram:
    """The add-one unigram model of the training tokens: one row, no random seed."""

    label: str = "unigram"
    factors: Mapping[str, Any] = field(default_factory=dict)
    data: Callable[[ContextParameters], dict[str, Any]] = lambda parameters: {}

    def runs(self, parameters: ContextParameters, text: ContextText) -> Iterator[Run]:
        data = text.choose(parameters, **self.data(parameters))
        yield Run(run_unigram, UnigramRun(data), 0)
