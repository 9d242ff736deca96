"""Experiment 5: does adding a layer to a trained model destroy it, or does overfitting?"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lib.analysis.checks import CheckFailed
from lib.experiments.two_corpora import (
    TwoCorpora,
    perplexity_change,
    perplexity_figure,
    rescaled,
    train_paths,
)
from lib.figures import growth
from lib.results import store
from lib.results.claims import Claim
from lib.text.corpus import Corpus
from lib.training.growing import Stage, Stages

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
SEED_ROWS = tuple(PATHS)[:4]
IDEAS = tuple(name for name in PATHS if name.startswith(("full, best", "4-layer scratch")))


def run(corpora: list[Corpus], parameters: Exp05) -> pd.DataFrame:
    """Train all paths on all corpora; one row a path, corpus and seed."""
    return train_paths(EXPERIMENT, SLUG, PATHS, corpora, parameters)


def perplexities(size: str) -> Figure:
    """All paths on both corpora."""
    return perplexity_figure(EXPERIMENT, SLUG, list(PATHS), "A fourth layer", size)


def stages(size: str) -> Figure:
    """Validation perplexity of every seed through the stages."""
    names = [
        "4-layer full",
        "3-layer, restarted without growing",
        "full, best epoch",
        "full, best epoch, identity",
    ]
    return growth.stages(store.read(SLUG, "curve", size), names, "Validation perplexity by stages")


def compute(size: str) -> Figure:
    """Loss against compute: can a grown model match scratch at equal total compute?"""
    names = [
        "scratch, to the last epoch",
        "full, best epoch",
        "full, best epoch, identity and slow",
        "4-layer frozen",
    ]
    title = "Best validation perplexity against compute, all stages counted"
    return growth.against_compute(store.read(SLUG, "curve", size), names, title)


FIGURES = {"perplexity": perplexities, "stages": stages, "compute": compute}


def _claim(name: str, statement: str, pair: tuple[str, str], **more) -> Claim:
    return rescaled(EXPERIMENT, SLUG, name, statement, pair, **more)


CLAIMS = (
    _claim(
        "growth-collapses",
        "Adding a fourth layer to a trained model makes it far worse",
        ("4-layer full", "3-layer base"),
        reported=146.7,
        expect="above",
        control="as the seed ran it: growth starts from the last, overfitted state",
    ),
    _claim(
        "growth-itself-collapses",
        "It is the added layer that makes it worse, not the overfitted start",
        ("full, best epoch", "3-layer base"),
        reported=None,
        expect="above",
        control="growth starts from the weights of the best epoch",
    ),
    _claim(
        "worse-than-restart",
        "Adding a layer is worse than restarting the same model without one",
        ("4-layer full", "3-layer, restarted without growing"),
        reported=None,
        expect="above",
        control="both start from the last state with a new optimiser; only one gets a layer",
    ),
    Claim(
        id="exp05-frozen-equals-full",
        experiment=EXPERIMENT,
        slug=SLUG,
        source="seed 004, Experiment 5",
        statement="Freezing the old layers or training all makes little difference",
        reported=1.9,
        unit="% change of perplexity",
        measure=perplexity_change("4-layer frozen", "4-layer full"),
        expect="within",
        threshold=5.0,
        control="as the seed ran it, from the last state; equal within 5 %",
    ),
    _claim(
        "scratch-best",
        "Training four layers from scratch beats growing from three",
        ("4-layer scratch", "4-layer full"),
        reported=-59.9,
        expect="below",
        control="as the seed ran it, from the last state",
    ),
    _claim(
        "scratch-best-control",
        "Training from scratch still wins when growth starts from the best epoch",
        ("4-layer scratch", "full, best epoch"),
        reported=None,
        expect="below",
        control="growth starts from the best epoch's weights; it has spent more compute",
    ),
    _claim(
        "identity-helps",
        "Starting the new layer as an identity helps growing",
        ("full, best epoch, identity", "full, best epoch"),
        reported=None,
        expect="below",
        control="untested idea of the seed; both grow from the best epoch",
    ),
    _claim(
        "slow-old-layers-help",
        "A ten times smaller learning rate for the old layers helps growing",
        ("full, best epoch, slow old layers", "full, best epoch"),
        reported=None,
        expect="below",
        control="untested idea of the seed; both grow from the best epoch",
    ),
    _claim(
        "lpt-base-helps",
        "A base trained with LPT grows better than a standard one",
        ("full, best epoch, LPT base", "full, best epoch"),
        reported=None,
        expect="below",
        control="untested idea of the seed; last-layer loss after growing, best epochs",
    ),
    _claim(
        "grown-matches-scratch",
        "Growing with identity and slow old layers beats scratch at no less compute",
        ("full, best epoch, identity and slow", "scratch, to the last epoch"),
        reported=None,
        expect="below",
        control="scratch trained for all epochs, its best one kept: at least the grown compute",
    ),
    _claim(
        "slow-growth-beats-scratch",
        "Growing from the best epoch with slow old layers beats scratch at no less compute",
        ("full, best epoch, slow old layers", "scratch, to the last epoch"),
        reported=None,
        expect="below",
        control="scratch trained for all epochs, best kept; entered after the results were seen",
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
