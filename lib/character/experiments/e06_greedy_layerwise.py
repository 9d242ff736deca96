"""Experiment 6: does greedy layer-wise training explode, and is greed the reason?"""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from lib.character.experiments.two_corpora import (
    REPORTED_ON,
    TwoCorpora,
    compute_figure,
    perplexity_change,
    perplexity_figure,
    stages_figure,
    train_paths,
)
from lib.results.claims import claim_maker
from lib.text.corpus import Corpus
from lib.character.growing import Stage, Stages

EXPERIMENT, SLUG = "exp06", "06_greedy_layerwise"


@dataclass(frozen=True)
class Exp06(TwoCorpora):
    """Nothing beyond the shared parameters."""


PARAMETERS = Exp06


def greedy(depth: int, start: str = "last", identity: bool = False) -> Stages:
    """One block at a time, everything below frozen, the embedding at random from the outset."""
    first = Stage(1, trains="new")
    above = (Stage(k, "new", start=start, identity=identity) for k in range(2, depth + 1))
    return (first, *above)


def fine_tuned(path: Stages, start: str = "last") -> Stages:
    """All layers together afterwards, at a tenth of the learning rate."""
    return (*path, Stage(path[-1].layers, start=start, rate=0.1))


EMBEDDED = (Stage(1), *(Stage(k, "new", start="best") for k in (2, 3, 4)))
PATHS: dict[str, Stages] = {
    **{f"greedy {k}": greedy(k) for k in (1, 2, 3, 4)},
    "greedy + fine-tune": fine_tuned(greedy(4)),
    "4-layer scratch": (Stage(4),),
    **{f"greedy {k}, best epochs": greedy(k, "best") for k in (2, 3, 4)},
    "greedy + fine-tune, best epochs": fine_tuned(greedy(4, "best"), "best"),
    "greedy 4, best epochs, identity": greedy(4, "best", True),
    "greedy 4, best epochs, trained embedding": EMBEDDED,
}
RESTARTED: dict[str, Stages] = {  # as many stages as greedy 4, the embedding at random throughout
    "greedy 1, restarted three times": (Stage(1),) * 4,
    "greedy 1, restarted three times, best epochs": (Stage(1), *(Stage(1, start="best"),) * 3),
}


def run(corpora: list[Corpus], parameters: Exp06) -> pd.DataFrame:
    """Train all paths on all corpora; one row a path, corpus and seed."""
    return train_paths(EXPERIMENT, SLUG, [PATHS], corpora, parameters, fixed=[RESTARTED])


FIGURES = {
    "perplexity": partial(
        perplexity_figure, EXPERIMENT, SLUG, (*PATHS, *RESTARTED), "Greedy layer by layer"
    ),
    "stages": partial(
        stages_figure,
        SLUG,
        ("greedy + fine-tune", "greedy + fine-tune, best epochs", "4-layer scratch"),
    ),
    "compute": partial(
        compute_figure,
        SLUG,
        (
            "4-layer scratch",
            "greedy + fine-tune, best epochs",
            "greedy 4, best epochs, identity",
            "greedy 4, best epochs, trained embedding",
        ),
    ),
}


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 6", reported_on=REPORTED_ON)

LONGER = "four stages of epochs against one, which on real text ends at their limit"
STAGES = "four stages, limit of epochs and stopping the same in both"
CLAIMS = (
    _claim(
        "greedy-explodes",
        "Greedy layer-wise training harms: four layers are worse than one",
        perplexity_change("greedy 4", "greedy 1"),
        f"as the seed ran it: every stage starts from the last, overfitted state; {LONGER}",
        expect="above",
        reported=1919.2,
    ),
    _claim(
        "greed-itself-explodes",
        "Four greedy layers are worse than one also when stages start from best epochs",
        perplexity_change("greedy 4, best epochs", "greedy 1"),
        f"every stage starts from the best epoch of the one before; {LONGER}",
        expect="above",
    ),
    _claim(
        "restarts-themselves-worsen",
        "Restarting one greedy layer three times makes it worse without any further layer",
        perplexity_change("greedy 1, restarted three times, best epochs", "greedy 1"),
        "the same layer; every restart begins at the best epoch and trains at least one more",
        expect="above",
    ),
    _claim(
        "greed-worse-than-restarts",
        "Four greedy layers are worse than one layer restarted as often, from last states",
        perplexity_change("greedy 4", "greedy 1, restarted three times"),
        f"{STAGES}, every one from the last state",
        expect="above",
    ),
    _claim(
        "greed-worse-than-restarts-control",
        "Four greedy layers are worse than one layer restarted as often, from best epochs",
        perplexity_change("greedy 4, best epochs", "greedy 1, restarted three times, best epochs"),
        f"{STAGES}, every one from the best epoch",
        expect="above",
    ),
    _claim(
        "fine-tuning-worsens",
        "Fine-tuning all layers afterwards makes it worse",
        perplexity_change("greedy + fine-tune", "greedy 4"),
        "as the seed ran it, from the last state at a tenth of the learning rate",
        expect="above",
        reported=93.9,
    ),
    _claim(
        "fine-tuning-worsens-control",
        "Fine-tuning makes it worse also when it starts from the best epochs",
        perplexity_change("greedy + fine-tune, best epochs", "greedy 4, best epochs"),
        "every stage and the fine-tuning start from the best epoch",
        expect="above",
    ),
    _claim(
        "scratch-beats-greedy",
        "Four layers from scratch beat four greedy ones",
        perplexity_change("4-layer scratch", "greedy 4"),
        "as the seed ran it, from the last states",
        reported=-95.5,
    ),
    _claim(
        "scratch-beats-greedy-control",
        "Four layers from scratch beat greedy ones grown from their best epochs",
        perplexity_change("4-layer scratch", "greedy 4, best epochs"),
        "every stage starts from the best epoch; greedy keeps its random embedding",
    ),
    _claim(
        "scratch-beats-fine-tuned",
        "Four layers from scratch beat greedy ones after fine-tuning, from best epochs",
        perplexity_change("4-layer scratch", "greedy + fine-tune, best epochs"),
        "all layers and the embedding trained in the end",
    ),
    _claim(
        "identity-helps-greedy",
        "Starting each new layer as an identity helps greedy training",
        perplexity_change("greedy 4, best epochs, identity", "greedy 4, best epochs"),
        "untested idea of the seed; best epochs in both",
    ),
)
