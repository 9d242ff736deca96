"""An experiment of small runs: seconds become milliseconds, all else is as in the real ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from small_runs import Small, Text, beside, run

from lib.experiment import Experiment, Run
from lib.parameters import Parameters, real, whole
from lib.training.loop import Training


class Smalls(Parameters):
    """Three seeds, and numbers of the loop."""

    workers: int = whole(1, 1, 64)
    seeds: int = whole(3, 1, 100)
    epochs: int = whole(3, 1, 100)
    learning_rate: float = real(1e-3, 0.0, above=True)

    QUICK = {"seeds": 2}
    TINY = {"seeds": 1, "workers": 1}
    LADDER = {"third": {"epochs": 2}}


@dataclass(frozen=True)
class SmallVariant:
    """A value that is added to every perplexity; ``side`` adds the run beside;
    ``function``: what is run."""

    value: float = 1.0
    label: str = ""
    fate: str = ""
    side: bool = False
    function: Callable = run
    mark: str = ""
    factors: dict = field(default_factory=dict)

    def runs(self, parameters: Smalls, text: Text) -> Iterator[Run]:
        training = Training(epochs=parameters.epochs, learning_rate=parameters.learning_rate)
        config = Small(self.value, self.fate, training, text, self.mark)
        for seed in range(parameters.seeds):
            yield Run(self.function, config, seed)
            if self.side:
                yield Run(beside, config, seed, side=True)


def experiment(mark: str = "", **variants: SmallVariant) -> Experiment:
    """An experiment of small runs; by default a baseline and a variant that is worse."""
    given = variants or {
        "base": SmallVariant(1.0, "Base", mark=mark),
        "worse": SmallVariant(2.0, "Worse", side=True, mark=mark, factors={"layers": 2}),
    }
    return Experiment(
        slug="98_small",
        question="Does it work?",
        parameters=Smalls,
        texts=lambda parameters: [Text()],
        variants=dict(given),
        baseline="base",
    )
