"""What the character-level experiments share: their parameters, floor lines and the sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib.experiments import floors
from lib.parameters import Parameters, choice, real, whole, words
from lib.results import store
from lib.text.corpus import NAMES, Corpus, load_corpus
from lib.training.character_run import CharacterRun, run
from lib.training.fit import Training
from lib.training.objectives import Objective
from lib.training.sweep import Task, sweep


@dataclass(frozen=True)
class CharacterParameters(Parameters):
    """Parameters of every character experiment, at the full size of the seeds' own setting."""

    corpus: str = choice("auto", NAMES)
    data_dir: str = words("")
    train_chars: int = whole(20_000, 100, 10_000_000)
    valid_chars: int = whole(5_000, 100, 200_000)
    test_chars: int = whole(20_000, 100, 900_000)
    seeds: int = whole(10, 1, 1_000)
    epochs: int = whole(30, 1, 10_000)
    patience: int = whole(5, 1, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    workers: int = whole(2, 1, 64)

    QUICK = {"seeds": 2, "epochs": 3}
    TINY = {
        "train_chars": 2_000,
        "valid_chars": 1_000,
        "test_chars": 1_000,
        "seeds": 1,
        "epochs": 1,
        "workers": 1,
    }

    def load(self) -> Corpus:
        """The corpus these parameters name, printed as one line."""
        corpus = load_corpus(
            self.corpus, self.data_dir, self.train_chars, self.valid_chars, self.test_chars
        )
        print(corpus.describe(), flush=True)
        return corpus

    def training(self, **changes: Any) -> Training:
        """The numbers of the training loop, some changed."""
        numbers = {
            "epochs": self.epochs,
            "patience": self.patience,
            "learning_rate": self.learning_rate,
        }
        return Training(**{**numbers, **changes})


@dataclass(frozen=True)
class Variant:
    """A row of an experiment: a model, an objective, and training numbers that differ."""

    model: Any
    objective: Objective
    training: Mapping[str, Any] | None = None


def labelled(
    experiment: str, variant: str, function: Any, config: Any, parameters: CharacterParameters
) -> list[Task]:
    """One task a seed, 0 .. seeds - 1, shared by all variants so that differences are paired."""
    labels = {"experiment": experiment, "variant": variant}
    return [Task(function, config, seed, labels) for seed in range(parameters.seeds)]


def train_variants(
    experiment: str,
    slug: str,
    variants: Mapping[str, Variant],
    corpus: Corpus,
    parameters: CharacterParameters,
    more: Sequence[Task] = (),
    **settings: Any,
) -> pd.DataFrame:
    """Train every variant with every seed, write the tables, and return the main one.

    ``settings`` go to ``CharacterRun``; ``more`` are tasks of other kinds. The unigram and bigram
    count models are added as rows of one seed: no network may miss them.
    """
    tasks = list(more)
    for name, variant in variants.items():
        training = parameters.training(**(variant.training or {}))
        config = CharacterRun(corpus, variant.model, variant.objective, training, **settings)
        tasks += labelled(experiment, name, run, config, parameters)
    for name in floors.MODELS:
        labels = {"experiment": experiment, "variant": name}
        tasks.append(Task(floors.run, floors.CountRun(corpus, name), 0, labels))
    return store.write(slug, sweep(tasks, parameters.workers), parameters.size)
