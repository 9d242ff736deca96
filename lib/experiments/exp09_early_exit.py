"""Experiment 9: does the first layer know when it is right?"""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from lib.experiments.exp08_layer_contribution import LPT, STANDARD, networks
from lib.experiments.probed import (
    difference,
    pareto_figure,
    probed,
    ratio,
    reliability_figure,
    sweep_figure,
    train_and_probe,
)
from lib.experiments.two_corpora import TwoCorpora
from lib.results.claims import Claim, Measure
from lib.text.corpus import Corpus

EXPERIMENT, SLUG = "exp09", "09_early_exit"


@dataclass(frozen=True)
class Exp09(TwoCorpora):
    """Nothing beyond the shared parameters: the networks are those of Experiment 8."""


PARAMETERS = Exp09


def run(corpora: list[Corpus], parameters: Exp09) -> pd.DataFrame:
    """Train (or find the networks of Experiment 8) and probe; one row a network, corpus, seed."""
    return train_and_probe(EXPERIMENT, SLUG, networks, corpora, parameters)


BOTH = (STANDARD, LPT)
COLUMNS = ("exit_pct", "acc_pct", "agree_correct_pct", "agree_pct")
FIGURES = {
    "thresholds_real": partial(sweep_figure, SLUG, BOTH, COLUMNS, False),
    "thresholds_repeated": partial(sweep_figure, SLUG, BOTH, COLUMNS, True),
    "pareto": partial(pareto_figure, SLUG, BOTH),
    "reliability_real": partial(reliability_figure, SLUG, BOTH, False),
    "reliability_repeated": partial(reliability_figure, SLUG, BOTH, True),
}


def _claim(name: str, statement: str, measure: Measure, unit: str, **more) -> Claim:
    return Claim(
        id=f"{EXPERIMENT}-{name}",
        experiment=EXPERIMENT,
        slug=SLUG,
        source="seed 004, Experiment 9",
        statement=statement,
        measure=measure,
        unit=unit,
        **more,
    )


def _at(column: str, state: str, threshold: float = 0.8, variant: str = STANDARD) -> Measure:
    return probed(variant, column, state, table="exits", threshold=threshold)


def _gain(state: str, variant: str = STANDARD) -> Measure:
    return difference(
        probed(variant, "chosen_acc_pct", state), probed(variant, "always_last_acc_pct", state)
    )


SEED = "last epoch, as the seed"
CLAIMS = (
    _claim(
        "losses-correlate",
        "The losses after layers 1 and 4 correlate above 0.9",
        probed(STANDARD, "loss_correlation", "last"),
        "Pearson r",
        reported=0.9549,
        expect="above",
        threshold=0.9,
        control=SEED,
    ),
    _claim(
        "losses-correlate-best",
        "The losses correlate above 0.9 at the best epoch",
        probed(STANDARD, "loss_correlation", "best"),
        "Pearson r",
        reported=None,
        expect="above",
        threshold=0.9,
        control="best epoch: no over-confident memory of one sentence",
    ),
    _claim(
        "confidence-tells",
        "Layer 1 is more confident where layer 4 is right",
        difference(
            probed(STANDARD, "confidence_if_last_correct", "last"),
            probed(STANDARD, "confidence_if_last_wrong", "last"),
        ),
        "difference of mean confidence",
        reported=0.24,
        expect="above",
        control=SEED,
    ),
    _claim(
        "confidence-tells-best",
        "Layer 1 is more confident where layer 4 is right at the best epoch too",
        difference(
            probed(STANDARD, "confidence_if_last_correct", "best"),
            probed(STANDARD, "confidence_if_last_wrong", "best"),
        ),
        "difference of mean confidence",
        reported=None,
        expect="above",
        control="best epoch",
    ),
    _claim(
        "agreement",
        "Above confidence 0.8 layers 1 and 4 agree completely (both right or both wrong)",
        _at("agree_correct_pct", "last"),
        "% of exiting symbols",
        reported=100.0,
        expect="above",
        threshold=99.5,
        control="the seed's agreement: equal correctness; above 99.5 %",
    ),
    _claim(
        "agreement-of-predictions",
        "Above confidence 0.8 layers 1 and 4 predict the same symbol",
        _at("agree_pct", "last"),
        "% of exiting symbols",
        reported=None,
        expect="above",
        threshold=99.5,
        control="agreement proper: equal predictions; above 99.5 %",
    ),
    _claim(
        "no-accuracy-lost",
        "With the best threshold early exit loses no accuracy",
        _gain("last"),
        "points of accuracy",
        reported=0.0,
        expect="within",
        threshold=0.5,
        control="threshold chosen on text that is not reported; equal within half a point",
    ),
    _claim(
        "compute-saved",
        "With the best threshold early exit spends at most 60 % of the compute",
        probed(STANDARD, "chosen_compute_pct", "last"),
        "% of the blocks' compute",
        reported=56.5,
        expect="below",
        threshold=60.0,
        control="threshold of highest accuracy, chosen on text that is not reported; last epoch",
    ),
    _claim(
        "compute-saved-lpt",
        "It does so where every layer was trained to predict (LPT), at the best epoch",
        probed(LPT, "chosen_compute_pct", "best"),
        "% of the blocks' compute",
        reported=None,
        expect="below",
        threshold=60.0,
        control="LPT network, best epoch, threshold chosen on text that is not reported",
    ),
    _claim(
        "no-accuracy-lost-lpt",
        "And loses no accuracy there",
        _gain("best", LPT),
        "points of accuracy",
        reported=None,
        expect="within",
        threshold=0.5,
        control="LPT network, best epoch, threshold chosen on text that is not reported",
    ),
    _claim(
        "first-layer-knows",
        "Layer 1 is right on more than 90 % of what layer 4 gets right",
        probed(STANDARD, "exit_correct_if_last_correct_pct", "last"),
        "%",
        reported=91.7,
        expect="above",
        threshold=90.0,
        control=SEED,
    ),
    _claim(
        "loss-of-exiting",
        "Exiting at 0.8 costs no perplexity",
        ratio(_at("ppl", "best"), probed(STANDARD, "always_last_ppl", "best")),
        "% change of perplexity",
        reported=None,
        expect="within",
        threshold=1.0,
        control="best epoch, same network always four layers deep; equal within 1 %",
    ),
)
