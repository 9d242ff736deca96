"""What the character experiments share: parameters, floor lines, the sweep and its figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lib.character.experiments import floors
from lib.figures import training
from lib.parameters import Parameters, choice, folder, real, whole
from lib.results import store, tables
from lib.text.corpus import NAMES, Corpus, load_corpus
from lib.character.character_run import CharacterRun, run
from lib.training.fit import Training
from lib.character.objectives import Objective
from lib.runs.sweep import Task, sweep


@dataclass(frozen=True)
class CharacterParameters(Parameters):
    """Parameters of every character experiment, at the full size of the seeds' own setting."""

    corpus: str = choice("auto", NAMES)
    data_dir: str = folder()
    train_chars: int = whole(20_000, 100, 10_000_000)
    valid_chars: int = whole(5_000, 100, 100_000)
    test_chars: int = whole(20_000, 100, 900_000)
    seeds: int = whole(10, 1, 1_000)
    epochs: int = whole(30, 1, 10_000)
    patience: int = whole(5, 1, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    workers: int = whole(2, 1, 64)

    QUICK = {"train_chars": 10_000, "test_chars": 10_000, "seeds": 2, "epochs": 3}
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


Variants = Callable[[int], Mapping[str, Variant]]  # from the size of the alphabet


def labelled(
    experiment: str, variant: str, function: Any, config: Any, parameters: CharacterParameters
) -> list[Task]:
    """One task a seed, 0 .. seeds - 1, shared by all variants so that differences are paired."""
    labels = {"experiment": experiment, "variant": variant}
    return [Task(function, config, seed, labels) for seed in range(parameters.seeds)]


def count_models(experiment: str, corpus: Corpus) -> list[Task]:
    """Unigram and bigram as tasks of one seed: no network may miss them."""
    return [
        Task(
            floors.run,
            floors.CountRun(corpus, name),
            0,
            {"experiment": experiment, "variant": name},
        )
        for name in floors.MODELS
    ]


def train_variants(
    experiment: str,
    slug: str,
    variants: Variants,
    corpus: Corpus,
    parameters: CharacterParameters,
    more: Sequence[Task] = (),
    **settings: Any,
) -> pd.DataFrame:
    """Train every variant with every seed, write the tables, and return the main one.

    ``settings`` go to ``CharacterRun``; ``more`` are tasks of other kinds. The count models are
    added as rows of one seed.
    """
    tasks = list(more)
    for name, variant in variants(len(corpus.alphabet)).items():
        numbers = parameters.training(**(variant.training or {}))
        config = CharacterRun(corpus, variant.model, variant.objective, numbers, **settings)
        tasks += labelled(experiment, name, run, config, parameters)
    tasks += count_models(experiment, corpus)
    return store.write(slug, sweep(tasks, parameters.workers), parameters.size)


def perplexity_figure(
    experiment: str,
    slug: str,
    variants: Sequence[str],
    title: str,
    size: str,
    counted: Sequence[str] = (),
    logarithmic: bool = False,
) -> Figure:
    """Test perplexity of every variant with its interval, and the seed's figures.

    ``counted`` names the count models that are drawn as lines.
    """
    frame = store.read(slug, size=size)
    lines = tables.floors(frame)
    return training.intervals(
        frame,
        list(variants),
        f"{title} ({tables.corpora(frame)})",
        experiment=experiment,
        floors={name: lines[name] for name in counted},
        logarithmic=logarithmic,
    )


def curves_figure(
    slug: str, variants: Sequence[str], size: str, highest: float | None = None
) -> Figure:
    """Validation perplexity over epochs; ``highest`` cuts the axis at the full size."""
    frame = store.read(slug, size=size)
    return training.curves(
        store.read(slug, "curve", size),
        list(variants),
        f"Validation during training ({tables.corpora(frame)})",
        floors=tables.floors(frame, "val_ppl"),
        highest=highest if size == store.FULL else None,
    )
