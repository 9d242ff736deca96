"""Rows of a character experiment: a model under an objective, and the n-gram baselines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.character import ngram_run
from lib.character.objectives import Objective
from lib.character.parameters import CharacterParameters
from lib.character.run import CharacterRun, run
from lib.experiment import Run
from lib.text.corpus import Corpus


@dataclass(frozen=True)
class Variant:
    """A model, an objective, and the numbers of training that differ from the parameters'.

    A number of ``training`` may be a function of the parameters. ``settings`` go to CharacterRun.
    """

    model: Any
    objective: Objective
    label: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, parameters: CharacterParameters, corpus: Corpus) -> CharacterRun:
        """What is trained on a corpus."""
        numbers = {k: v(parameters) if callable(v) else v for k, v in self.training.items()}
        training = parameters.training(**numbers)
        return CharacterRun(corpus, self.model, self.objective, training, **self.settings)

    def runs(self, parameters: CharacterParameters, corpus: Corpus) -> Iterator[Run]:
        config = self.config(parameters, corpus)
        for seed in range(parameters.seeds):
            yield Run(run, config, seed)


@dataclass(frozen=True)
class NGram:
    """An n-gram baseline: counts of the training text, one row, no random seed."""

    model: str
    label: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, parameters: CharacterParameters, corpus: Corpus) -> Iterator[Run]:
        yield Run(ngram_run.run, ngram_run.NGramRun(corpus, self.model), 0)


def baselines() -> dict[str, NGram]:
    """Unigram and bigram: no network may miss them."""
    return {name: NGram(name, name) for name in ngram_run.MODELS}
