"""Experiment 10: does routing by confidence beat the full model at less compute?"""

import numpy as np
import pandas as pd

from lib.character.claims import (
    ROUTED,
    at_threshold,
    beside_routed,
    of_blocks,
    on_repeated,
    perplexity_change,
    probed,
)
from lib.character.figures import common, exits
from lib.character.models.compute import Shape
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Routed, Standard
from lib.character.parameters import TwoTexts
from lib.character.variants import Probed, baselines
from lib.experiment import Experiment
from lib.parameters import whole
from lib.results import tables
from lib.results.claims import Measure, difference, ratio
from lib.results.store import Results


class Exp10(TwoTexts):
    """Adds how often each inference is timed; the median counts."""

    timing_repeats: int = whole(7, 1, 1_000)

    QUICK = {**TwoTexts.QUICK, "timing_repeats": 1}
    TINY = {**TwoTexts.TINY, "timing_repeats": 1}


FOUR, TWO = TransformerConfig(layers=4), TransformerConfig(layers=2)
FOUR_B = TransformerConfig(layers=4, initialisation="B")
AUXILIARY = Routed((0, 0.5, 0, 0.5))

# The report's three rows (initialisation A), and the same with that of Experiments 5-9.
VARIANTS = {
    "routed": Probed(FOUR, AUXILIARY, "Confidence-Routed", exit_layer=2, timed=True),
    "full": Probed(FOUR, Standard(), "Standard 4-layer", exit_layer=2),
    "half": Probed(TWO, Standard(), "Standard 2-layer"),
    "routed_b": Probed(FOUR_B, AUXILIARY, "Confidence-Routed, init B", exit_layer=2),
    "full_b": Probed(FOUR_B, Standard(), "Standard 4-layer, init B", exit_layer=2),
}


def batched_table(results: Results) -> pd.DataFrame:
    """Timings of batched inference by corpus, threshold and way to keep an exited symbol's state;
    means over seeds."""
    means = results("batched").groupby(["corpus", "threshold", "keep"]).mean(numeric_only=True)
    shown = means[[c for c in ("speedup", "ideal_speedup", "ppl", "exact_ppl") if c in means]]
    return _timed(shown, results("batched"), results, "mean")


def generated_table(results: Results) -> pd.DataFrame:
    """Timings of generation by corpus, method and threshold (none for the full model); medians over
    seeds: one disturbed second would move a mean."""
    columns = ["speedup", "ideal_speedup", "exit_pct", "same_symbols_pct"]
    by_method = results("generated").groupby(["corpus", "method", "threshold"], dropna=False)
    return _timed(by_method[columns].median(), results("generated"), results, "median")


def _timed(table: pd.DataFrame, timed: pd.DataFrame, results: Results, how: str) -> pd.DataFrame:
    """With what the numbers stand on: runs of some variants, on the windows that were timed."""
    main = results()
    table = tables.captioned(table, main[main["variant"].isin(timed["variant"])], how)
    table.attrs["caption"] += "; of the timed windows, the first ones of the test text, only"
    return table


def with_keys(variant: str, state: str) -> Measure:
    """Percent of the blocks' compute at threshold 0.8 when exited symbols still pay the keys and
    values of the layers they skip, for later symbols. The report's formula leaves them out."""
    paid = at_threshold(variant, "compute_pct", state)
    block = Shape(vocabulary=97)
    left = block.keys_and_values() / block.block()

    def measure(results: Results) -> np.ndarray:
        by_formula = paid(results)
        return by_formula + (100 - by_formula) * left

    return measure


claim = on_repeated("exp10", "R4, Experiment 10")

ROUTED_PPL = at_threshold("routed", "ppl", "best")
DEEP_PPL = probed("routed", "always_last_ppl", "best")
DEEP_ACCURACY = probed("routed", "always_last_acc_pct", "best")

CLAIMS = (
    claim(
        "routed-beats-full",
        "The confidence-routed transformer beats the standard four layers",
        perplexity_change("routed", "full"),
        "initialisation A, each at its best epoch, threshold 0.8 fixed",
        reported=-23.1,
    ),
    claim(
        "routed-beats-full-init-b",
        "It beats them too with the initialisation of Experiments 5-9",
        perplexity_change("routed_b", "full_b"),
        "initialisation B in both; the report's baseline had the worse one",
        explains="routed-beats-full",
    ),
    claim(
        "routed-beats-half",
        "The confidence-routed transformer beats the standard two layers",
        perplexity_change("routed", "half"),
        "initialisation A, each at its best epoch",
        reported=-15.7,
    ),
    claim(
        "routing-itself",
        "The gain is routing: routed predictions beat the same network's deep ones",
        ratio(ROUTED_PPL, DEEP_PPL),
        "same weights, every symbol through all four layers: what is left is routing",
        explains="routed-beats-full",
    ),
    claim(
        "auxiliary-loss-itself",
        "The gain is the auxiliary loss: the routed network's deep output beats the standard one",
        ratio(DEEP_PPL, probed("full", "always_last_ppl", "best")),
        "both always four layers deep; only the training loss differs",
        explains="routed-beats-full",
    ),
    claim(
        "compute-saved",
        "At its best epoch routing spends at most 80 % of the compute",
        at_threshold("routed", "compute_pct", "best"),
        "threshold 0.8, best epoch of the routed perplexity, formula of the report",
        threshold=80.0,
        reported=76.2,
        unit="% of the blocks' compute",
        bounds=(0, 100),
    ),
    claim(
        "compute-saved-with-keys",
        "... also when exited symbols pay for the keys and values that later ones need",
        with_keys("routed", "best"),
        "the same runs and exits; keys and values are a ninth of a block",
        threshold=80.0,
        unit="% of the blocks' compute",
        explains="compute-saved",
        bounds=(0, 100),
    ),
    claim(
        "compute-saved-after-training",
        "After training routing spends at most 65 % of the compute",
        at_threshold("routed", "compute_pct", "last"),
        "threshold 0.8, last epoch: the report's threshold table, another state than 76.2 %",
        threshold=65.0,
        reported=59.8,
        unit="% of the blocks' compute",
        bounds=(0, 100),
    ),
    claim(
        "last-state-worse",
        "The state of the threshold table is worse than the one of the headline",
        ratio(at_threshold("routed", "ppl", "last"), ROUTED_PPL),
        "one run, last epoch against best epoch, threshold 0.8",
        expect="above",
        kind="own",
    ),
    claim(
        "threshold-hardly-matters",
        "Perplexity hardly depends on the threshold between 0.5 and 0.9",
        ratio(
            at_threshold("routed", "ppl", "last", 0.5), at_threshold("routed", "ppl", "last", 0.9)
        ),
        "last epoch as the report's table; equal within 5 %",
        expect="within",
        threshold=5.0,
        reported=0.8,
    ),
    claim(
        "confidence-beats-random",
        "Confidence chooses better than random exits at the same rate",
        ratio(ROUTED_PPL, at_threshold("routed", "random_ppl", "best")),
        "same network, same share of exits, drawn at random (expectation)",
        explains="routed-beats-full",
    ),
    claim(
        "accuracy",
        "Routing raises accuracy over the standard four layers",
        difference(
            at_threshold("routed", "acc_pct", "best"), probed("full", "always_last_acc_pct", "best")
        ),
        "threshold 0.8 fixed, best epochs",
        expect="above",
        reported=3.5,
        unit="points of accuracy",
    ),
    claim(
        "accuracy-routing-itself",
        "The gain in accuracy is routing: routed predictions are more often right than deep ones",
        difference(at_threshold("routed", "acc_pct", "best"), DEEP_ACCURACY),
        "same weights, every symbol through all four layers: what is left is routing",
        expect="above",
        unit="points of accuracy",
        explains="accuracy",
    ),
    claim(
        "accuracy-auxiliary-loss",
        "The gain in accuracy is the auxiliary loss: it is there without any exit",
        difference(DEEP_ACCURACY, probed("full", "always_last_acc_pct", "best")),
        "both always four layers deep, best epochs; only the training loss differs",
        expect="above",
        unit="points of accuracy",
        explains="accuracy",
    ),
)

BESIDE = {
    **beside_routed(
        {"Confidence-Routed": "routed"},
        best=("acc_pct", "compute_pct"),
        last=tuple(ROUTED),
        thresholds=(0.5, 0.6, 0.7, 0.8, 0.9),
    ),
    ("Standard 4-layer", "acc_pct"): probed("full", "always_last_acc_pct", "best"),
    ("Standard 2-layer", "acc_pct"): probed("half", "always_last_acc_pct", "best"),
    ("Standard 4-layer", "compute_pct"): of_blocks(FOUR.layers, FOUR.layers),
    ("Standard 2-layer", "compute_pct"): of_blocks(TWO.layers, FOUR.layers),
}
REMARKS = {"Standard ?-layer: compute_pct": "by definition"}

COLUMNS = ("exit_pct", "ppl", "acc_pct")

E10 = Experiment(
    slug="10_confidence_routing",
    question="Does routing by confidence beat the full model at less compute?",
    parameters=Exp10,
    texts=Exp10.texts,
    variants={**VARIANTS, **baselines()},
    baseline="full",
    report="exp10",
    figures={
        "perplexity": common.perplexity(list(VARIANTS), ("routed", "full"), "exp10"),
        "pareto": exits.pareto(("routed", "full")),
        "thresholds": exits.thresholds(("routed", "full"), COLUMNS),
        "speed": exits.speed(),
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
)
