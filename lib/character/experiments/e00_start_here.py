"""Notebook 00: one tiny model, trained in under a minute, to learn how to read the rest."""

from lib.character.figures import common
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Standard
from lib.character.parameters import CharacterParameters
from lib.character.variants import Variant, baselines
from lib.experiment import Experiment
from lib.parameters import whole


class Exp00(CharacterParameters):
    """Two seeds and ten epochs: seconds, not minutes."""

    seeds: int = whole(2, 1, 1_000)
    epochs: int = whole(10, 1, 10_000)

    QUICK = {"epochs": 3}


VARIANTS = {"standard": Variant(TransformerConfig(), Standard(), "Standard, 1 layer")}

E00 = Experiment(
    slug="00_start_here",
    question="How do you read this repository?",
    parameters=Exp00,
    texts=Exp00.texts,
    variants={**VARIANTS, **baselines()},
    baseline="standard",
    figures={"curve": common.curves(list(VARIANTS))},
)
