"""Experiment 4: four layers -- does a loss at every layer help, and does refinement still?"""

from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from lib.character.experiments.character import (
    CharacterParameters,
    Variant,
    curves_figure,
    perplexity_figure,
    train_variants,
)
from lib.character.figures import layers
from lib.character.models.transformer import TransformerConfig
from lib.results import store, tables
from lib.results.claims import Tables, change, claim_maker
from lib.text.corpus import Corpus
from lib.character.objectives import LayerLosses, Segments, Standard

EXPERIMENT, SLUG = "exp04", "04_layerwise_progressive"


@dataclass(frozen=True)
class Exp04(CharacterParameters):
    """Nothing beyond the shared parameters."""


PARAMETERS = Exp04


def variants(vocabulary: int) -> dict[str, Variant]:
    """The seed's four rows and controls of equal updates, equal depth and fewer losses."""
    plain = TransformerConfig(vocabulary, layers=4)
    stateful = TransformerConfig(vocabulary, layers=4, initial_state=True)
    return {
        "Standard": Variant(plain, Standard()),
        "IRT": Variant(stateful, Segments(2)),
        "LPT sum": Variant(plain, LayerLosses((1, 1, 1, 1))),
        "LPT weighted": Variant(plain, LayerLosses((1, 2, 3, 4))),
        "Losses at layers 2 and 4": Variant(plain, LayerLosses((0, 1, 0, 1))),
        "Standard, 2 updates a batch": Variant(plain, Standard(updates=2)),
        "Looped twice, 1 loss": Variant(stateful, Segments(2, joint=True)),
    }


def run(corpus: Corpus, parameters: Exp04) -> pd.DataFrame:
    """Train all variants; one row a variant and seed."""
    return train_variants(EXPERIMENT, SLUG, variants, corpus, parameters)


def layer_losses_figure(size: str) -> Figure:
    """Training loss of each layer under LPT sum over epochs."""
    corpora = tables.corpora(store.read(SLUG, size=size))
    curve = store.read(SLUG, "curve", size)
    return layers.training_losses(curve, "LPT sum", 4, f"Training loss by layer, LPT ({corpora})")


NAMES = list(variants(97))
FIGURES = {
    "perplexity": partial(
        perplexity_figure, EXPERIMENT, SLUG, NAMES, "Losses at every layer", counted=("bigram",)
    ),
    "curves": partial(curves_figure, SLUG, NAMES, highest=20),
    "layer_losses": layer_losses_figure,
}


def layer_gap(tables: Tables) -> pd.Series:
    """Training loss of layer 1 minus layer 4 at the best epoch of LPT sum, in nats, by seed."""
    runs = tables()[tables()["variant"] == "LPT sum"][["seed", "best_epoch"]]
    curve = tables("curve")
    curve = curve[curve["variant"] == "LPT sum"].merge(runs, on="seed")
    best = curve[curve["epoch"] == curve["best_epoch"]].set_index("seed").sort_index()
    return best["train_loss_layer_1"] - best["train_loss_layer_4"]


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 4")


CLAIMS = (
    _claim(
        "lpt-beats-standard",
        "A loss at every layer (LPT sum) beats standard training in four layers",
        change("LPT sum", "Standard"),
        "equal parameters, data order, updates a batch and stopping",
        reported=-5.8,
    ),
    _claim(
        "lpt-not-updates",
        "The gain of LPT is more than faster fitting",
        change("LPT sum", "Standard, 2 updates a batch"),
        "standard training given two updates a batch, which alone helps it in four layers",
    ),
    _claim(
        "lpt-weighted-beats-standard",
        "LPT with weights 1, 2, 3, 4 beats standard training",
        change("LPT weighted", "Standard"),
        "equal parameters, data order, updates a batch and stopping",
        reported=-4.3,
    ),
    _claim(
        "sum-beats-weighted",
        "Equal weights beat increasing ones",
        change("LPT sum", "LPT weighted"),
        "equal parameters, data order and updates; only the loss weights differ",
        reported=100 * (10.27 / 10.43 - 1),
    ),
    _claim(
        "irt-harms-deep",
        "Refinement training harms a model of four layers",
        change("IRT", "Standard"),
        "as the seed ran it: IRT steps twice a batch and runs eight blocks deep",
        expect="above",
        reported=8.6,
    ),
    _claim(
        "irt-harm-not-updates",
        "Its harm is not the second update a batch",
        change("IRT", "Standard, 2 updates a batch"),
        "equal updates a batch",
        expect="above",
    ),
    _claim(
        "irt-harm-not-depth",
        "Its harm is not the doubled forward depth",
        change("IRT", "Looped twice, 1 loss"),
        "equal parameters and forward depth: the four blocks looped twice under one loss; IRT also"
        " steps twice a batch and cuts the gradient between segments",
        expect="above",
    ),
    _claim(
        "all-layers-beat-two",
        "Losses at all four layers beat losses at layers 2 and 4",
        change("LPT sum", "Losses at layers 2 and 4"),
        "equal parameters, data order and updates; only the number of losses differs",
    ),
    _claim(
        "deep-layers-lower",
        "Under LPT the training loss falls with depth (layer 1 minus layer 4)",
        lambda tables: layer_gap(tables).to_numpy(),
        "one shared head reads every layer",
        expect="above",
        reported=2.33 - 1.59,
        unit="nats at the best epoch",
    ),
)
