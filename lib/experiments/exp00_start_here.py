"""Notebook 00: one tiny model, trained in under a minute, to learn how to read the rest."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lib.experiments.character import CharacterParameters, Variant, train_variants
from lib.figures import training
from lib.models.transformer import TransformerConfig
from lib.parameters import whole
from lib.results import store, tables
from lib.results.claims import Claim
from lib.text.corpus import Corpus
from lib.training.objectives import Standard

EXPERIMENT, SLUG = "exp00", "00_start_here"


@dataclass(frozen=True)
class Exp00(CharacterParameters):
    """Two seeds and ten epochs: seconds, not minutes."""

    seeds: int = whole(2, 1, 1_000)
    epochs: int = whole(10, 1, 10_000)

    QUICK = {"epochs": 4}


PARAMETERS = Exp00
CLAIMS: tuple[Claim, ...] = ()  # it demonstrates; Experiment 3 decides


def variants(vocabulary: int) -> dict[str, Variant]:
    """The baseline of the whole repository."""
    return {"Standard, 1 layer": Variant(TransformerConfig(vocabulary), Standard())}


def run(corpus: Corpus, parameters: Exp00) -> pd.DataFrame:
    """Train the one variant; one row a seed, and the two count models."""
    rows = variants(len(corpus.alphabet))
    return train_variants(EXPERIMENT, SLUG, rows, corpus, parameters)


def curve_figure(size: str) -> Figure:
    """Validation perplexity over epochs, with the count models as lines."""
    frame = store.read(SLUG, size=size)
    return training.curves(
        store.read(SLUG, "curve", size),
        list(variants(97)),
        f"Validation during training ({tables.corpora(frame)})",
        floors=tables.floors(frame, "val_ppl"),
    )


FIGURES = {"curve": curve_figure}
