"""Experiment 9: does the first layer know when it is right?"""

import pandas as pd

from lib.character.claims import (
    among_exits,
    at_threshold,
    if_enough_exit,
    of_blocks,
    on_repeated,
    probed,
)
from lib.character.figures import exits
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Standard
from lib.character.parameters import TwoTexts
from lib.character.variants import Probed, baselines
from lib.experiment import Experiment
from lib.results import tables
from lib.results.claims import Measure, difference, ratio
from lib.results.store import Results

# The networks are those of Experiment 8: where they are trained already, they are only read again.
MODEL = TransformerConfig(layers=4, initialisation="B")
VARIANTS = {
    "standard": Probed(MODEL, Standard(), "Standard 4-layer"),
    "lpt": Probed(MODEL, LayerLosses((1, 1, 1, 1)), "LPT 4-layer"),
}

AT_CHOSEN = ("chosen_ppl", "always_last_ppl", "chosen_exit_pct", "chosen_threshold")
CALIBRATION = ("exit_ece_raw", "exit_ece_tempered", "chosen_exit_temperature")


def summary_tables(results: Results) -> list[pd.DataFrame]:
    """What exits at the chosen threshold do, and calibration; a row a text, network and epoch.

    Measured on the reported split, means over seeds; what is ``chosen`` was chosen on other text.
    """
    means = exits.reported_split(results, "summary").groupby(["corpus", "variant", "state"])
    shown = (AT_CHOSEN, CALIBRATION)
    return [tables.captioned(means[list(c)].mean().round(3), results()) for c in shown]


def gain(state: str, variant: str = "standard") -> Measure:
    """Points of accuracy gained by exits at the chosen threshold, on the same symbols."""
    found = difference(
        probed(variant, "chosen_acc_pct", state),
        probed(variant, "always_last_acc_pct", state, "report"),
    )
    return if_enough_exit(found, probed(variant, "chosen_exit_pct", state))


def at_08(measure: Measure, state: str) -> Measure:
    """The measure where enough symbols exit at confidence 0.8."""
    return if_enough_exit(measure, at_threshold("standard", "exit_pct", state))


claim = on_repeated("exp09", "R4, Experiment 9")

LAST = "last epoch, as the report"
CHOSEN = "threshold chosen on a split that is not reported (on repeated text: equal windows)"

CLAIMS = (
    claim(
        "losses-correlate",
        "The losses after layers 1 and 4 correlate above 0.9",
        probed("standard", "loss_correlation", "last"),
        LAST,
        expect="above",
        threshold=0.9,
        reported=0.9549,
        unit="Pearson r",
        bounds=(-1, 1),
    ),
    claim(
        "losses-correlate-best",
        "The losses correlate above 0.9 at the best epoch",
        probed("standard", "loss_correlation", "best"),
        "best epoch: no over-confident memory of one sentence",
        expect="above",
        threshold=0.9,
        unit="Pearson r",
        explains="losses-correlate",
        bounds=(-1, 1),
    ),
    claim(
        "confidence-tells",
        "Layer 1 is more confident where layer 4 is right",
        difference(
            probed("standard", "confidence_if_last_correct", "last"),
            probed("standard", "confidence_if_last_wrong", "last"),
        ),
        LAST,
        expect="above",
        reported=0.24,
        unit="difference of mean confidence",
    ),
    claim(
        "confidence-tells-best",
        "Layer 1 is more confident where layer 4 is right at the best epoch too",
        difference(
            probed("standard", "confidence_if_last_correct", "best"),
            probed("standard", "confidence_if_last_wrong", "best"),
        ),
        "best epoch",
        expect="above",
        unit="difference of mean confidence",
        explains="confidence-tells",
    ),
    claim(
        "agreement",
        "Above confidence 0.8 layers 1 and 4 agree completely (both right or both wrong)",
        at_08(at_threshold("standard", "agree_correct_pct", "last"), "last"),
        "the report's agreement: equal correctness; above 99.5 %",
        expect="above",
        threshold=99.5,
        reported=100.0,
        unit="% of exiting symbols",
        bounds=(0, 100),
    ),
    claim(
        "agreement-of-predictions",
        "Above confidence 0.8 layers 1 and 4 predict the same symbol",
        at_08(at_threshold("standard", "agree_pct", "last"), "last"),
        "agreement proper: equal predictions; above 99.5 %",
        expect="above",
        threshold=99.5,
        unit="% of exiting symbols",
        explains="agreement",
        bounds=(0, 100),
    ),
    claim(
        "no-accuracy-lost",
        "With the best threshold early exit loses no accuracy",
        gain("last"),
        f"{CHOSEN}; equal within half a point; a weak test: chosen for accuracy",
        expect="within",
        threshold=0.5,
        reported=0.0,
        unit="points of accuracy",
    ),
    claim(
        "compute-saved",
        "With the best threshold early exit spends at most 60 % of the compute",
        probed("standard", "chosen_compute_pct", "last"),
        f"{CHOSEN}, for highest accuracy; last epoch",
        threshold=60.0,
        reported=56.5,
        unit="% of the blocks' compute",
        bounds=(0, 100),
    ),
    claim(
        "compute-saved-lpt",
        "It does so where every layer was trained to predict (LPT), at the best epoch",
        probed("lpt", "chosen_compute_pct", "best"),
        f"LPT network, best epoch, {CHOSEN}",
        threshold=60.0,
        unit="% of the blocks' compute",
        explains="compute-saved",
        bounds=(0, 100),
    ),
    claim(
        "no-accuracy-lost-lpt",
        "And loses no accuracy there",
        gain("best", "lpt"),
        f"LPT network, best epoch, {CHOSEN}",
        expect="within",
        threshold=0.5,
        unit="points of accuracy",
        explains="no-accuracy-lost",
    ),
    claim(
        "first-layer-knows",
        "Layer 1 is right on more than 90 % of what layer 4 gets right",
        probed("standard", "exit_correct_if_last_correct_pct", "last"),
        LAST,
        expect="above",
        threshold=90.0,
        reported=91.7,
        unit="%",
        bounds=(0, 100),
    ),
    claim(
        "loss-of-exiting",
        "Exiting at 0.8 costs no perplexity",
        at_08(
            ratio(
                at_threshold("standard", "ppl", "best"),
                probed("standard", "always_last_ppl", "best"),
            ),
            "best",
        ),
        "best epoch, same network always four layers deep; equal within 1 %",
        expect="within",
        threshold=1.0,
        explains="no-accuracy-lost",
    ),
)

EXITS = {
    "l1_acc_pct": "exit_shallow_acc_pct",
    "l4_acc_pct": "exit_deep_acc_pct",
    "agreement_pct": "agree_correct_pct",
}

# The report's tables are of the last epoch on all of valid, where it chose its threshold too.
BESIDE = {
    ("L1-L4 loss correlation", "pearson_r"): probed("standard", "loss_correlation", "last"),
    **{
        (f"L1 confidence | L4 {word}", "mean"): probed(
            "standard", f"confidence_if_last_{word}", "last"
        )
        for word in ("correct", "wrong")
    },
    **{
        (f"threshold {threshold}", "exit_pct"): at_threshold(
            "standard", "exit_pct", "last", threshold
        )
        for threshold in (0.5, 0.7, 0.8, 0.9)
    },
    **{
        (f"threshold {threshold}", metric): among_exits("standard", column, "last", threshold)
        for threshold in (0.5, 0.7, 0.8, 0.9)
        for metric, column in EXITS.items()
    },
    ("always L1", "acc_pct"): probed("standard", "always_exit_acc_pct", "last"),
    ("always L4", "acc_pct"): probed("standard", "always_last_acc_pct", "last"),
    ("always L1", "compute_pct"): of_blocks(1, MODEL.layers),
    ("always L4", "compute_pct"): of_blocks(4, MODEL.layers),
    **{
        ("adaptive 0.8", metric): at_threshold("standard", metric, "last")
        for metric in ("acc_pct", "compute_pct")
    },
    ("L1 correct given L4 correct", "pct"): probed(
        "standard", "exit_correct_if_last_correct_pct", "last"
    ),
}
REMARKS = {
    "always L?: compute_pct": "by definition",
    "threshold 0.9: *_acc_pct": "of the n seeds in which a symbol exits",
    "threshold 0.9: agreement_pct": "of the n seeds in which a symbol exits",
}

BOTH = tuple(VARIANTS)
COLUMNS = ("exit_pct", "acc_pct", "agree_pct")

E09 = Experiment(
    slug="09_early_exit",
    question="Does the first layer know when it is right?",
    parameters=TwoTexts,
    texts=TwoTexts.texts,
    variants={**VARIANTS, **baselines()},
    baseline="standard",
    report="exp09",
    figures={
        "thresholds": exits.thresholds(BOTH, COLUMNS),
        "pareto": exits.pareto(BOTH),
        "reliability": exits.reliability(BOTH),
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
)
