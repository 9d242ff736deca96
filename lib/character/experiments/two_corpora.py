"""What Experiments 5-11 share: every run is made on real text and on the seeds' repeated sentence.

The seeds' loaders found no WikiText and fell back, silently, to one sentence repeated for training
and another for validation. Both corpora stand side by side in every table; ``repeated`` has no test
text, so claims on it read the validation perplexity, as the seeds did, and on real text the test
perplexity. A seed's own figure stands beside ``repeated`` only, the text it was measured on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.character.experiments.character import CharacterParameters, count_models, labelled
from lib.character.figures import growth
from lib.figures import panels
from lib.character.models.transformer import TransformerConfig
from lib.parameters import whole
from lib.results import store, tables
from lib.results.claims import Measure, Tables, change
from lib.text.corpus import Corpus, load_corpus
from lib.character import fixed_embedding
from lib.character import growing
from lib.training.fit import Training
from lib.character.growing import GrowthRun, Stages
from lib.runs.task import Outcome
from lib.runs.sweep import sweep

REPORTED_ON = ("repeated",)  # the text of every figure that the seed reports for Experiments 5-11


@dataclass(frozen=True)
class TwoCorpora(CharacterParameters):
    """The shared parameters; batches keep their order and only whole ones of 16 windows count."""

    seeds: int = whole(5, 1, 1_000)

    QUICK = {
        "train_chars": 3_300,
        "valid_chars": 1_100,
        "test_chars": 1_100,
        "seeds": 1,
        "epochs": 2,
    }
    TINY = {
        "train_chars": 1_100,
        "valid_chars": 1_100,
        "test_chars": 1_100,
        "seeds": 1,
        "epochs": 1,
        "workers": 1,
    }

    def both(self) -> list[Corpus]:
        """The named corpus and ``repeated``, each described in a line (once if they are one)."""
        found = [self.load()]
        if found[0].name != "repeated":
            found.append(load_corpus("repeated", "", self.train_chars, self.valid_chars))
            print(found[1].describe(), flush=True)
        return found

    def ordered(self, **changes: Any) -> Training:
        """The loop with batches in the same order every epoch."""
        return self.training(shuffle=False, **changes)


def metric(corpus: str) -> str:
    """The column that decides on a corpus: test perplexity, or valid where there is no test."""
    return "val_ppl" if corpus == "repeated" else "test_ppl"


def metrics(frame: pd.DataFrame) -> dict[str, str]:
    """The deciding column of every corpus in a table."""
    return {name: metric(name) for name in frame["corpus"].unique()}


def reported_tables(frame: pd.DataFrame, experiment: str, baseline: str) -> list[pd.DataFrame]:
    """Ours beside the seed's, one table a corpus in the order of ``frame``.

    The change against ``baseline`` is that of the column that decides on the corpus; the seed's
    figures stand where they were measured and are blank elsewhere.
    """
    return [
        tables.against_reported(own, experiment, baseline, metric(name), name in REPORTED_ON)
        for name, own in frame.groupby("corpus", sort=False)
    ]


def perplexity_figure(
    experiment: str, slug: str, variants: Sequence[str], title: str, size: str
) -> Figure:
    """Perplexities of the variants on both corpora, drawn from the written table."""
    frame = store.read(slug, size=size)
    title = f"{title}, {tables.seeds(frame)}"
    return panels.perplexities(frame, list(variants), title, metrics(frame), experiment)


def stages_figure(slug: str, paths: Sequence[str], size: str) -> Figure:
    """Validation perplexity of every seed through the stages of growth paths."""
    curve = store.read(slug, "curve", size)
    return growth.stages(curve, list(paths), "Validation perplexity by stages")


def compute_figure(slug: str, paths: Sequence[str], size: str) -> Figure:
    """Loss against compute: can a grown model match scratch at equal total compute?"""
    title = "Best validation perplexity against compute, all stages counted"
    return growth.against_compute(store.read(slug, "curve", size), list(paths), title)


def perplexity_change(treatment: str, baseline: str) -> Measure:
    """Percent change of the deciding perplexity between two variants, seed by seed."""

    def measure(tables: Tables) -> np.ndarray:
        return change(treatment, baseline, metric(tables.corpus))(tables)

    return measure


def spread(outcomes: list[Outcome], table: str, further: tuple[str, ...]) -> list[Outcome]:
    """Rows of one run's ``table`` as outcomes of their own, each with its share of other tables.

    A row names its ``variant``; rows of the ``further`` tables go to the variant they name.
    """
    found = []
    for outcome in outcomes:
        for row in outcome.tables[table]:
            own = {
                name: [_without(r) for r in outcome.tables.get(name, ()) if _names(r, row)]
                for name in further
            }
            merged = {**outcome.row, **row}
            found.append(Outcome(merged, {name: rows for name, rows in own.items() if rows}))
    return found


def _names(further: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    return further["variant"] == row["variant"]


def _without(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "variant"}


def train_paths(
    experiment: str,
    slug: str,
    groups: Sequence[Mapping[str, Stages]],
    corpora: list[Corpus],
    parameters: TwoCorpora,
    fixed: Sequence[Mapping[str, Stages]] = (),
) -> pd.DataFrame:
    """Train the growth paths on every corpus with every seed; write and return the main table.

    A group of paths is one run a corpus and seed, so a group that is added leaves the finished runs
    of the others as they are. Groups of ``fixed`` keep the embedding at random in every stage.
    """
    kinds = [(growing.run, paths) for paths in groups]
    kinds += [(fixed_embedding.run, paths) for paths in fixed]
    tasks, floors_ = [], []
    for corpus in corpora:
        model = TransformerConfig(len(corpus.alphabet), initialisation="B")
        for run, paths in kinds:
            config = GrowthRun(corpus, model, tuple(paths.items()), parameters.ordered())
            tasks += labelled(experiment, f"paths, {corpus.name}", run, config, parameters)
        floors_ += count_models(experiment, corpus)
    outcomes = spread(sweep(tasks, parameters.workers), "paths", ("curve",))
    return store.write(slug, outcomes + sweep(floors_), parameters.size)
