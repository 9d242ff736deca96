"""Experiment 5: does adding a layer to a trained model destroy it, or does overfitting?"""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from lib.checks import CheckFailed
from lib.character.experiments.two_corpora import (
    REPORTED_ON,
    TwoCorpora,
    compute_figure,
    perplexity_change,
    perplexity_figure,
    stages_figure,
    train_paths,
)
from lib.results.claims import claim_maker, difference
from lib.text.corpus import Corpus
from lib.character.growing import Stage, Stages

EXPERIMENT, SLUG = "exp05", "05_layer_freezing"


@dataclass(frozen=True)
class Exp05(TwoCorpora):
    """Nothing beyond the shared parameters."""


PARAMETERS = Exp05
BASE, LPT_BASE = Stage(3), Stage(3, loss="sum")
PATHS: dict[str, Stages] = {
    "3-layer base": (BASE,),
    "4-layer frozen": (BASE, Stage(4, trains="new")),
    "4-layer full": (BASE, Stage(4)),
    "4-layer scratch": (Stage(4),),
    "3-layer, restarted without growing": (BASE, Stage(3)),
    "frozen, best epoch": (BASE, Stage(4, trains="new", start="best")),
    "full, best epoch": (BASE, Stage(4, start="best")),
    "full, best epoch, identity": (BASE, Stage(4, start="best", identity=True)),
    "full, last state, identity": (BASE, Stage(4, identity=True)),
    "full, best epoch, slow old layers": (BASE, Stage(4, start="best", old_rate=0.1)),
    "full, best epoch, identity and slow": (
        BASE,
        Stage(4, start="best", identity=True, old_rate=0.1),
    ),
    "3-layer LPT base": (LPT_BASE,),
    "full, best epoch, LPT base": (LPT_BASE, Stage(4, start="best")),
    "full, best epoch, to the last epoch": (BASE, Stage(4, start="best", patient=True)),
    "scratch, to the last epoch": (Stage(4, patient=True),),
}
RESTARTED: dict[str, Stages] = {
    "3-layer, restarted from best epoch": (BASE, Stage(3, start="best")),
}


def run(corpora: list[Corpus], parameters: Exp05) -> pd.DataFrame:
    """Train all paths on all corpora; one row a path, corpus and seed."""
    return train_paths(EXPERIMENT, SLUG, [PATHS, RESTARTED], corpora, parameters)


FIGURES = {
    "perplexity": partial(
        perplexity_figure, EXPERIMENT, SLUG, (*PATHS, *RESTARTED), "A fourth layer"
    ),
    "stages": partial(
        stages_figure,
        SLUG,
        (
            "4-layer full",
            "3-layer, restarted without growing",
            "full, best epoch",
            "full, best epoch, identity",
        ),
    ),
    "compute": partial(
        compute_figure,
        SLUG,
        (
            "scratch, to the last epoch",
            "full, best epoch",
            "full, best epoch, identity and slow",
            "4-layer frozen",
        ),
    ),
}


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 5", reported_on=REPORTED_ON)


CLAIMS = (
    _claim(
        "growth-collapses",
        "Adding a fourth layer to a trained model makes it worse",
        perplexity_change("4-layer full", "3-layer base"),
        "as the seed ran it: growth starts from the last, overfitted state",
        expect="above",
        reported=146.7,
    ),
    _claim(
        "growth-itself-collapses",
        "Adding a layer makes it worse also when it grows from the best epoch",
        perplexity_change("full, best epoch", "3-layer base"),
        "growth starts from the weights of the best epoch; then at least one epoch is trained, and "
        "the state before it is not scored",
        expect="above",
    ),
    _claim(
        "restart-itself-worsens",
        "Going on from the best epoch makes it worse without any new layer",
        perplexity_change("3-layer, restarted from best epoch", "3-layer base"),
        "the same three layers, a new optimiser and at least one more epoch",
        expect="above",
    ),
    _claim(
        "growth-worse-than-going-on",
        "Growing from the best epoch is worse than only going on from it",
        perplexity_change("full, best epoch", "3-layer, restarted from best epoch"),
        "both start from the best epoch with a new optimiser; only one gets a layer",
        expect="above",
    ),
    _claim(
        "worse-than-restart",
        "Adding a layer is worse than restarting the same model without one",
        perplexity_change("4-layer full", "3-layer, restarted without growing"),
        "both start from the last state with a new optimiser; only one gets a layer",
        expect="above",
    ),
    _claim(
        "frozen-equals-full",
        "Freezing the old layers or training all makes little difference",
        perplexity_change("4-layer frozen", "4-layer full"),
        "as the seed ran it, from the last state; equal within 5 %",
        expect="within",
        threshold=5.0,
        reported=1.9,
    ),
    _claim(
        "scratch-best",
        "Training four layers from scratch beats growing from three",
        perplexity_change("4-layer scratch", "4-layer full"),
        "as the seed ran it, from the last state",
        reported=-59.9,
    ),
    _claim(
        "scratch-best-control",
        "Training from scratch still wins when growth starts from the best epoch",
        perplexity_change("4-layer scratch", "full, best epoch"),
        "growth starts from the best epoch's weights; it has spent more compute",
    ),
    _claim(
        "identity-helps",
        "Starting the new layer as an identity helps growing",
        perplexity_change("full, best epoch, identity", "full, best epoch"),
        "untested idea of the seed; both grow from the best epoch",
    ),
    _claim(
        "slow-old-layers-help",
        "A ten times smaller learning rate for the old layers helps growing",
        perplexity_change("full, best epoch, slow old layers", "full, best epoch"),
        "untested idea of the seed; both grow from the best epoch",
    ),
    _claim(
        "lpt-base-ends-better",
        "A base trained with LPT ends better after growing than a standard one",
        perplexity_change("full, best epoch, LPT base", "full, best epoch"),
        "untested idea of the seed; best epochs; the LPT base may be better before growing already",
    ),
    _claim(
        "lpt-base-gains-more",
        "Growing gains more on a base trained with LPT than on a standard one",
        difference(
            perplexity_change("full, best epoch, LPT base", "3-layer LPT base"),
            perplexity_change("full, best epoch", "3-layer base"),
        ),
        "percent change from each base to what grew from its best epoch, LPT minus standard",
        unit="points of % change of perplexity",
    ),
    _claim(
        "grown-matches-scratch",
        "With identity and slow old layers growing beats scratch given at least as much compute",
        perplexity_change("full, best epoch, identity and slow", "scratch, to the last epoch"),
        "scratch trained for all epochs, its best one kept: at least the grown compute",
    ),
    _claim(
        "slow-growth-beats-scratch",
        "With slow old layers growing beats scratch given at least as much compute",
        perplexity_change("full, best epoch, slow old layers", "scratch, to the last epoch"),
        "scratch trained for all epochs, best one kept; entered after the results were seen",
    ),
)


def identity_is_exact(results: pd.DataFrame) -> None:
    """Growth by identity begins at the perplexity its base ended with; else CheckFailed."""
    keys = ["corpus", "seed"]
    base = results[results["variant"] == "3-layer base"].set_index(keys)["val_ppl"]
    grown = results[results["variant"] == "full, best epoch, identity"].set_index(keys)
    gap = (grown["begin_val_ppl"] / base - 1).abs().max()
    if not gap < 1e-4:
        raise CheckFailed(f"identity growth moved the perplexity by {gap:.2g}")
    print(f"growing by identity moves the perplexity by at most {gap:.1g} of itself")
