"""Notebook 00: one tiny model, trained in under a minute, to learn how to read the rest."""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from lib.character.experiments.character import CharacterParameters, Variant, curves_figure, train_variants
from lib.character.models.transformer import TransformerConfig
from lib.parameters import whole
from lib.results.claims import Claim
from lib.text.corpus import Corpus
from lib.character.objectives import Standard

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
    return train_variants(EXPERIMENT, SLUG, variants, corpus, parameters)


FIGURES = {"curve": partial(curves_figure, SLUG, list(variants(97)))}
