"""Rows of a CASCADE experiment: what is run on a dataset, with how many random seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.cascade.dataset import TokenDataset
from lib.cascade.parameters import CascadeParameters
from lib.cascade.stage_run import run_stage
from lib.experiment import Run


@dataclass(frozen=True)
class Variant:
    """``config(parameters, dataset)`` gives what ``function`` runs, None where the parameters leave
    it out. ``seeds``: how many, or the names of parameters of which the least says so. ``beside``
    gives further runs whose tables join those of seed 0.
    """

    label: str
    config: Callable[[Any, TokenDataset], Any]
    function: Callable = run_stage
    seeds: int | tuple[str, ...] = ("seeds",)
    beside: Callable[[Any, TokenDataset], list[Run]] | None = None
    factors: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, parameters: CascadeParameters, dataset: TokenDataset) -> Iterator[Run]:
        config = self.config(parameters, dataset)
        if config is None:
            return
        count = self.seeds
        if not isinstance(count, int):
            count = min(getattr(parameters, name) for name in count)
        for seed in range(count):
            yield Run(self.function, config, seed)
        yield from self.beside(parameters, dataset) if self.beside else ()


def changing(config: Callable[..., Any]) -> Callable[..., Variant]:
    """A maker of variants: ``make(label, **changes)`` runs ``config(parameters, dataset,
    **changes)``, and the changes are its factors."""

    def make(label: str, **changes: Any) -> Variant:
        return Variant(label, lambda p, dataset: config(p, dataset, **changes), factors=changes)

    return make
