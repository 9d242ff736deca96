"""Rows of a character experiment: what is trained, and with which numbers.

A number of ``training`` may be a function of the parameters; numbers that are not named are those
of the parameters. ``factors`` are columns of the tables.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from lib.character import ngrams
from lib.character.ensemble import run_together
from lib.character.growth_run import GrowthRun, Stages, run_growth
from lib.character.models.transformer import TransformerConfig
from lib.character.ngrams import run_ngram
from lib.character.objectives import Dispersion, Objective, Segments
from lib.character.parameters import CharacterParameters
from lib.character.probe_run import Probe, run_probe
from lib.character.run import CharacterRun, run_character
from lib.character.speed_run import WIDTHS, Speed, run_exit_speed
from lib.character.two_phase_run import TwoPhaseRun, run_two_phases
from lib.experiment import Run
from lib.text.corpus import Corpus

run_character.together = run_together  # how an accelerator trains the seeds of a row


def evaluated(numbers: Mapping[str, Any], parameters: CharacterParameters) -> dict[str, Any]:
    """``numbers`` in which functions of the parameters have got their values."""
    return {k: v(parameters) if callable(v) else v for k, v in numbers.items()}


class Trained:
    """A row that is trained on a text by the declared ``function``, once a random seed."""

    function: Callable

    @property
    def network(self) -> tuple[Any, Objective]:
        """The model and how it is used once it is trained."""
        raise NotImplementedError

    def config(self, parameters: CharacterParameters, corpus: Corpus) -> Any:
        """What is trained on a corpus."""
        raise NotImplementedError

    def runs(self, parameters: CharacterParameters, corpus: Corpus) -> Iterator[Run]:
        config = self.config(parameters, corpus)
        for seed in range(parameters.seeds):
            yield Run(type(self).function, config, seed)


@dataclass(frozen=True)
class Variant(Trained):
    """A model, an objective, and the numbers of training that differ from the parameters'.

    ``settings`` go to CharacterRun.
    """

    model: Any
    objective: Objective
    label: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    function: ClassVar[Callable] = run_character

    @property
    def network(self) -> tuple[Any, Objective]:
        return self.model, self.objective

    def config(self, parameters: CharacterParameters, corpus: Corpus) -> CharacterRun:
        training = parameters.training(**evaluated(self.training, parameters))
        return CharacterRun(corpus, self.model, self.objective, training, **self.settings)


@dataclass(frozen=True)
class Shaped(Trained):
    """Blocks that OACD shapes without labels for ``epochs`` passes, then a head that reads them.

    ``training``: what differs for the head. 0 epochs leave the blocks at random.
    """

    model: Any
    epochs: Any
    label: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, Any] = field(default_factory=dict)
    segments: int = 4
    function: ClassVar[Callable] = run_two_phases

    @property
    def network(self) -> tuple[Any, Objective]:
        return self.model, Segments(self.segments, joint=True)

    def config(self, parameters: CharacterParameters, corpus: Corpus) -> TwoPhaseRun:
        numbers = parameters.training(**evaluated(self.training, parameters))
        head = CharacterRun(corpus, *self.network, numbers)
        epochs = self.epochs(parameters) if callable(self.epochs) else self.epochs
        shaping = parameters.training(epochs=epochs) if epochs else None
        return TwoPhaseRun(head, Dispersion(self.segments), shaping)


@dataclass(frozen=True)
class Path(Trained):
    """A network that is trained in stages of growing depth, one row.

    ``model`` gives what stages share (initialisation B: that of R4, Experiments 5-9).
    """

    path: Stages
    label: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)
    model: TransformerConfig = TransformerConfig(initialisation="B")
    frozen_embedding: bool = False
    function: ClassVar[Callable] = run_growth

    @property
    def network(self) -> tuple[Any, Objective]:
        return replace(self.model, layers=self.path[-1].layers), self.path[-1].objective

    def config(self, parameters: CharacterParameters, corpus: Corpus) -> GrowthRun:
        return GrowthRun(
            corpus, self.model, self.path, parameters.training(), self.frozen_embedding
        )


@dataclass(frozen=True)
class Probed(Variant):
    """A network that is trained on whole batches and taken apart by depth.

    Symbols may exit after ``exit_layer``. ``referenced``: the network of the next random seed says
    which symbols are hard (with one seed there is none). ``timed``: early exit is timed as often as
    the parameter ``timing_repeats`` says, beside it untrained wider models on the first text.
    """

    exit_layer: int = 1
    referenced: bool = False
    timed: bool = False
    settings: Mapping[str, Any] = field(default_factory=lambda: {"whole_batches": True})

    def runs(self, parameters: CharacterParameters, corpus: Corpus) -> Iterator[Run]:
        network, seeds = self.config(parameters, corpus), parameters.seeds
        for seed in range(seeds):
            reference = (seed + 1) % seeds if self.referenced and seeds > 1 else -1
            yield Run(run_probe, Probe(network, self.exit_layer, reference), seed)
            if self.timed:
                repeats = parameters.timing_repeats
                widths = WIDTHS if parameters.named(corpus) else ()
                speed = Speed(network, self.exit_layer, repeats=repeats, widths=widths)
                yield Run(run_exit_speed, speed, seed, side=True)


@dataclass(frozen=True)
class NGram:
    """An n-gram baseline: counts of the training text, one row, no random seed."""

    model: str
    label: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, parameters: CharacterParameters, corpus: Corpus) -> Iterator[Run]:
        yield Run(run_ngram, ngrams.NGramRun(corpus, self.model), 0)


def baselines() -> dict[str, NGram]:
    """Unigram and bigram: no network may miss them."""
    return {name: NGram(name, name) for name in ngrams.MODELS}
