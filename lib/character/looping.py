"""Blocks that run more than once: looping begun late, and trained networks used with other numbers
of passes.

A row that begins late goes on from the best weights of a training without loops, with a new
optimiser; what goes on without loops, too, is its control.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from lib.character.objectives import Objective, Segments
from lib.character.parameters import CharacterParameters
from lib.character.run import (
    KEPT,
    CharacterRun,
    held_out_loss,
    load_state,
    own_seconds,
    run_character,
    trained,
)
from lib.character.variants import Variant
from lib.experiment import Run
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.corpus import Corpus
from lib.training.loop import perplexity
from lib.training.seeding import seed_weights

PASSES = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Continued:
    """A training that goes on from the best weights of a first one under another objective."""

    first: CharacterRun
    objective: Objective

    @property
    def then(self) -> CharacterRun:
        """The second training as a description of its own."""
        return replace(self.first, objective=self.objective)


@run_function("continued")
def run_continued(config: Continued, seed: int, place: Place) -> Outcome:
    """The second training; the first is made if need be. Row and seconds are the second's."""
    first = replace(config.first, keep=True)
    model = load_state(first, place.need(run_character, first, seed, *KEPT), "best")
    seed_weights(seed)  # for what training draws, whatever was drawn before
    found = trained(config.then, model, seed, place)
    found.row["seconds"] = own_seconds(found.tables["curve"])
    return found


@dataclass(frozen=True)
class Passes:
    """A network trained with ``Segments`` and the numbers of passes with which it is used."""

    network: CharacterRun
    counts: tuple[int, ...] = PASSES


@run_function("passes")
def run_passes(config: Passes, seed: int, place: Place) -> Outcome:
    """Perplexities of the best weights with each number of passes, in the table ``passes``."""
    network = replace(config.network, keep=True)
    model = load_state(network, place.need(run_character, network, seed, *KEPT), "best")
    rows = []
    for count in config.counts:
        use = Segments(count, joint=True)
        found = {"passes": count}
        for split, name in (("valid", "val_ppl"), ("test", "test_ppl")):
            if getattr(network.corpus, split):
                found[name] = perplexity(held_out_loss(model, use, network.windows(split)))
        rows.append(found)
    corpus = network.corpus
    row = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    return Outcome(row, {"passes": rows})


@dataclass(frozen=True)
class Late(Variant):
    """``objective`` until early stopping, then ``then`` from its best weights.

    The first training is that of the variant without ``then``, and is not made twice.
    """

    then: Objective = field(kw_only=True)
    function: ClassVar[Callable] = run_continued

    @property
    def network(self) -> tuple[Any, Objective]:
        return self.model, self.then

    def config(self, parameters: CharacterParameters, corpus: Corpus) -> Continued:
        return Continued(super().config(parameters, corpus), self.then)


@dataclass(frozen=True)
class Passed(Variant):
    """A network of one block that is used with other numbers of passes, too."""

    def runs(self, parameters: CharacterParameters, corpus: Corpus) -> Iterator[Run]:
        for main in super().runs(parameters, corpus):
            yield main
            yield Run(run_passes, Passes(main.config), main.seed, side=True)
