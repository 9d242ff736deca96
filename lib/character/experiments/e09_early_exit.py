"""Experiment 9: does the first layer know when it is right?"""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from lib.character.experiments.e08_layer_contribution import LPT, STANDARD, networks
from lib.character.experiments.probed import (
    at_threshold,
    if_enough_exit,
    pareto_figure,
    probed,
    reliability_figure,
    reported_split,
    sweep_figure,
    train_and_probe,
)
from lib.character.experiments.two_corpora import REPORTED_ON, TwoCorpora
from lib.results.claims import Measure, claim_maker, difference, ratio
from lib.text.corpus import Corpus

EXPERIMENT, SLUG = "exp09", "09_early_exit"


@dataclass(frozen=True)
class Exp09(TwoCorpora):
    """Nothing beyond the shared parameters: the networks are those of Experiment 8."""


PARAMETERS = Exp09


def run(corpora: list[Corpus], parameters: Exp09) -> pd.DataFrame:
    """Train (or find the networks of Experiment 8) and probe; one row a network, corpus, seed."""
    return train_and_probe(EXPERIMENT, SLUG, networks, corpora, parameters)


def summary_table(size: str) -> pd.DataFrame:
    """Always and chosen exits, and calibration (ECE), by corpus, network and epoch.

    Measured on the reported split, means over seeds; what is ``chosen`` was chosen on other text.
    """
    summary = reported_split(SLUG, "summary", size)
    shown = [c for c in summary if c.startswith(("chosen_", "always_")) or "ece" in c]
    return summary.groupby(["corpus", "variant", "state"])[shown].mean().T.round(3)


BOTH = (STANDARD, LPT)
COLUMNS = ("exit_pct", "acc_pct", "agree_correct_pct", "agree_pct")
FIGURES = {
    "thresholds_real": partial(sweep_figure, SLUG, BOTH, COLUMNS, False),
    "thresholds_repeated": partial(sweep_figure, SLUG, BOTH, COLUMNS, True),
    "pareto": partial(pareto_figure, SLUG, BOTH),
    "reliability_real": partial(reliability_figure, SLUG, BOTH, False),
    "reliability_repeated": partial(reliability_figure, SLUG, BOTH, True),
}


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 9", reported_on=REPORTED_ON)


def _gain(state: str, variant: str = STANDARD) -> Measure:
    gain = difference(
        probed(variant, "chosen_acc_pct", state), probed(variant, "always_last_acc_pct", state)
    )
    return if_enough_exit(gain, probed(variant, "chosen_exit_pct", state))


def _at_08(measure: Measure, state: str) -> Measure:
    return if_enough_exit(measure, at_threshold(STANDARD, "exit_pct", state))


SEED = "last epoch, as the seed"
CHOSEN = "threshold chosen on a split that is not reported (on repeated text: equal windows)"
CLAIMS = (
    _claim(
        "losses-correlate",
        "The losses after layers 1 and 4 correlate above 0.9",
        probed(STANDARD, "loss_correlation", "last"),
        SEED,
        expect="above",
        threshold=0.9,
        reported=0.9549,
        unit="Pearson r",
    ),
    _claim(
        "losses-correlate-best",
        "The losses correlate above 0.9 at the best epoch",
        probed(STANDARD, "loss_correlation", "best"),
        "best epoch: no over-confident memory of one sentence",
        expect="above",
        threshold=0.9,
        unit="Pearson r",
    ),
    _claim(
        "confidence-tells",
        "Layer 1 is more confident where layer 4 is right",
        difference(
            probed(STANDARD, "confidence_if_last_correct", "last"),
            probed(STANDARD, "confidence_if_last_wrong", "last"),
        ),
        SEED,
        expect="above",
        reported=0.24,
        unit="difference of mean confidence",
    ),
    _claim(
        "confidence-tells-best",
        "Layer 1 is more confident where layer 4 is right at the best epoch too",
        difference(
            probed(STANDARD, "confidence_if_last_correct", "best"),
            probed(STANDARD, "confidence_if_last_wrong", "best"),
        ),
        "best epoch",
        expect="above",
        unit="difference of mean confidence",
    ),
    _claim(
        "agreement",
        "Above confidence 0.8 layers 1 and 4 agree completely (both right or both wrong)",
        _at_08(at_threshold(STANDARD, "agree_correct_pct", "last"), "last"),
        "the seed's agreement: equal correctness; above 99.5 %",
        expect="above",
        threshold=99.5,
        reported=100.0,
        unit="% of exiting symbols",
    ),
    _claim(
        "agreement-of-predictions",
        "Above confidence 0.8 layers 1 and 4 predict the same symbol",
        _at_08(at_threshold(STANDARD, "agree_pct", "last"), "last"),
        "agreement proper: equal predictions; above 99.5 %",
        expect="above",
        threshold=99.5,
        unit="% of exiting symbols",
    ),
    _claim(
        "no-accuracy-lost",
        "With the best threshold early exit loses no accuracy",
        _gain("last"),
        f"{CHOSEN}; equal within half a point",
        expect="within",
        threshold=0.5,
        reported=0.0,
        unit="points of accuracy",
    ),
    _claim(
        "compute-saved",
        "With the best threshold early exit spends at most 60 % of the compute",
        probed(STANDARD, "chosen_compute_pct", "last"),
        f"{CHOSEN}, for highest accuracy; last epoch",
        threshold=60.0,
        reported=56.5,
        unit="% of the blocks' compute",
    ),
    _claim(
        "compute-saved-lpt",
        "It does so where every layer was trained to predict (LPT), at the best epoch",
        probed(LPT, "chosen_compute_pct", "best"),
        f"LPT network, best epoch, {CHOSEN}",
        threshold=60.0,
        unit="% of the blocks' compute",
    ),
    _claim(
        "no-accuracy-lost-lpt",
        "And loses no accuracy there",
        _gain("best", LPT),
        f"LPT network, best epoch, {CHOSEN}",
        expect="within",
        threshold=0.5,
        unit="points of accuracy",
    ),
    _claim(
        "first-layer-knows",
        "Layer 1 is right on more than 90 % of what layer 4 gets right",
        probed(STANDARD, "exit_correct_if_last_correct_pct", "last"),
        SEED,
        expect="above",
        threshold=90.0,
        reported=91.7,
        unit="%",
    ),
    _claim(
        "loss-of-exiting",
        "Exiting at 0.8 costs no perplexity",
        _at_08(
            ratio(
                at_threshold(STANDARD, "ppl", "best"), probed(STANDARD, "always_last_ppl", "best")
            ),
            "best",
        ),
        "best epoch, same network always four layers deep; equal within 1 %",
        expect="within",
        threshold=1.0,
    ),
)
