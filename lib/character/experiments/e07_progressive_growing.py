"""Experiment 7: does LPT keep a model intact while it grows, and is growing worth its compute?"""

from dataclasses import dataclass
from functools import partial

import numpy as np
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
from lib.results.claims import Measure, Tables, claim_maker
from lib.results.store import Absent
from lib.text.corpus import Corpus
from lib.character.growing import Stage, Stages

EXPERIMENT, SLUG = "exp07", "07_progressive_growing"


@dataclass(frozen=True)
class Exp07(TwoCorpora):
    """Nothing beyond the shared parameters."""


PARAMETERS = Exp07


def grown(depth: int, loss: str, **changes) -> Stages:
    """One layer more a stage, everything trained; in one layer both losses are the same."""
    return (Stage(1), *(Stage(k, loss=loss, **changes) for k in range(2, depth + 1)))


PATHS: dict[str, Stages] = {
    "LPT progressive 1": grown(1, "sum"),
    "Standard progressive 1": grown(1, "last"),
    **{f"LPT progressive {k}": grown(k, "sum") for k in (2, 3, 4)},
    **{f"Standard progressive {k}": grown(k, "last") for k in (2, 3, 4)},
    "Scratch standard": (Stage(4),),
    "Scratch LPT": (Stage(4, loss="sum"),),
    **{f"LPT progressive {k}, best epochs": grown(k, "sum", start="best") for k in (2, 3, 4)},
    **{f"Standard progressive {k}, best epochs": grown(k, "last", start="best") for k in (2, 3, 4)},
}
IDEAS: dict[str, Stages] = {
    "LPT progressive 4, best epochs, identity": grown(4, "sum", start="best", identity=True),
    "LPT progressive 4, best epochs, slow old layers": grown(4, "sum", start="best", old_rate=0.1),
}
RESTARTED: dict[str, Stages] = {  # as many stages as four grown layers
    "1 layer, restarted three times, best epochs": (Stage(1), *(Stage(1, start="best"),) * 3),
}
GROWN = (
    "Scratch LPT",
    "Scratch standard",
    "Standard progressive 4, best epochs",
    "LPT progressive 4, best epochs",
    "LPT progressive 4, best epochs, slow old layers",
    "LPT progressive 4",
)


def run(corpora: list[Corpus], parameters: Exp07) -> pd.DataFrame:
    """Train all paths on all corpora; one row a path, corpus and seed."""
    return train_paths(EXPERIMENT, SLUG, [PATHS, IDEAS, RESTARTED], corpora, parameters)


FIGURES = {
    "perplexity": partial(
        perplexity_figure,
        EXPERIMENT,
        SLUG,
        (*PATHS, *IDEAS, *RESTARTED),
        "Growing from one layer to four",
    ),
    "stages": partial(stages_figure, SLUG, ("LPT progressive 4", "LPT progressive 4, best epochs")),
    "compute": partial(compute_figure, SLUG, GROWN),
}


def at_equal_compute(path: str, scratch: str) -> Measure:
    """Percent by which a path's lowest valid perplexity exceeds scratch's, at scratch's compute.

    The budget of a seed is all that scratch has spent, patience included; the path is scored by
    its best epoch within that budget, at whatever depth it has reached.
    """

    def measure(tables: Tables) -> np.ndarray:
        curve = tables("curve")
        found = []
        for seed in sorted(curve["seed"].unique()):
            own = curve[curve["seed"] == seed]
            one, other = (own[own["variant"] == name] for name in (path, scratch))
            if one.empty or other.empty:
                raise Absent(f"no curve of {path!r} or {scratch!r}")
            inside = one[one["operations"] <= other["operations"].max()]
            if inside.empty:
                raise Absent(f"{path!r} has no epoch within the compute of {scratch!r}")
            found.append(100 * (inside["val_ppl"].min() / other["val_ppl"].min() - 1))
        return np.array(found)

    return measure


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 7", reported_on=REPORTED_ON)

LONGER = "four stages of epochs against one, which on real text ends at their limit"
(ONE_RESTARTED,) = RESTARTED
CLAIMS = (
    _claim(
        "lpt-grows-better",
        "Growing with LPT ends better than growing with the last layer's loss",
        perplexity_change("LPT progressive 4", "Standard progressive 4"),
        "as the seed ran it: every stage starts from the last, overfitted state",
        reported=-23.7,
    ),
    _claim(
        "lpt-grows-better-control",
        "Growing with LPT ends better also when stages start from best epochs",
        perplexity_change("LPT progressive 4, best epochs", "Standard progressive 4, best epochs"),
        "every stage starts from the best epoch of the one before",
    ),
    _claim(
        "growing-degrades",
        "Growing degrades: four layers grown with LPT are worse than the one they began with",
        perplexity_change("LPT progressive 4", "LPT progressive 1"),
        f"as the seed ran it, from the last states; {LONGER}",
        expect="above",
        reported=872.4,
    ),
    _claim(
        "growing-degrades-control",
        "Growing degrades also when stages start from best epochs",
        perplexity_change("LPT progressive 4, best epochs", "LPT progressive 1"),
        f"every stage starts from the best epoch of the one before; {LONGER}",
        expect="above",
    ),
    _claim(
        "restarts-themselves-worsen",
        "Restarting one layer three times makes it worse without any further layer",
        perplexity_change(ONE_RESTARTED, "LPT progressive 1"),
        "the same layer; every restart begins at the best epoch and trains at least one more",
        expect="above",
    ),
    _claim(
        "growing-worse-than-restarts",
        "Four layers grown with LPT are worse than one layer restarted as often",
        perplexity_change("LPT progressive 4, best epochs", ONE_RESTARTED),
        "four stages, limit of epochs and stopping the same in both, all from best epochs",
        expect="above",
    ),
    _claim(
        "scratch-lpt",
        "LPT from scratch beats standard training from scratch",
        perplexity_change("Scratch LPT", "Scratch standard"),
        "same start, data order and stopping",
        reported=-1.1,
    ),
    _claim(
        "scratch-beats-growing",
        "LPT from scratch beats growing with LPT",
        perplexity_change("Scratch LPT", "LPT progressive 4"),
        "as the seed ran it, from the last states",
        reported=-89.9,
    ),
    _claim(
        "equal-compute",
        "With no more compute than scratch spends, a growing model is worse (LPT)",
        at_equal_compute("LPT progressive 4, best epochs", "Scratch LPT"),
        "best epoch within all that scratch has spent, at whatever depth; all stages count; epochs "
        "are chosen and reported on valid, on both texts",
        expect="above",
        unit="% change of valid perplexity",
    ),
    _claim(
        "scratch-beats-growing-control",
        "Scratch beats growing with LPT also when stages start from best epochs",
        perplexity_change("Scratch LPT", "LPT progressive 4, best epochs"),
        "best epochs; growing spends 1.4 to 2 times the compute (column operations)",
    ),
    _claim(
        "identity-helps",
        "Starting each new layer as an identity helps growing with LPT",
        perplexity_change(
            "LPT progressive 4, best epochs, identity", "LPT progressive 4, best epochs"
        ),
        "output projections of the new block start at zero; an idea the seed left untested",
    ),
    _claim(
        "slow-old-layers-help",
        "A ten times smaller learning rate for the old layers helps growing with LPT",
        perplexity_change(
            "LPT progressive 4, best epochs, slow old layers", "LPT progressive 4, best epochs"
        ),
        "discriminative learning rates; an idea the seed left untested",
    ),
    _claim(
        "slow-growth-matches-scratch",
        "With slow old layers a grown model comes within 2 % of LPT from scratch",
        perplexity_change("LPT progressive 4, best epochs, slow old layers", "Scratch LPT"),
        "best epochs; growing spends more compute (column operations)",
        expect="within",
        threshold=2.0,
    ),
)
