"""Experiment 12 (R2): do two layers trained on hard tokens improve them, against the base itself?

R2 packs 128 hard tokens into a sequence and trains two Llama layers with a new head on the base's
final states. Every control has equal updates, tokens an update and rate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.cascade.base_twice_run import BaseTwice, run_base_twice
from lib.cascade.claims import against_base, chosen, on_alpaca, on_wikitext
from lib.cascade.dataset import LENGTH, TokenDataset
from lib.cascade.figures import hard_tokens
from lib.cascade.parameters import QUICK_WINDOWS, TINY_WINDOWS, CascadeParameters
from lib.cascade.stage_run import StageRun
from lib.cascade.tables import beside_reported
from lib.cascade.variants import Variant, changing
from lib.experiment import Experiment
from lib.parameters import ParameterError, real, whole
from lib.results.claims import Measure, change, level, ratio
from lib.results.statistics import percent_change
from lib.results.store import Results
from lib.results.tables import one
from lib.training.loop import Training

# the size of the first committed tables: less text; the controls shorter and faster than the report
SMALL = {
    "train_windows": 512,
    "valid_windows": 64,
    "test_windows": 120,
    "seeds": 3,
    "report_batch": 4,
    "steps": 60,
    "batch": 1,
    "learning_rate": 1.0e-3,
    "base_head_rate": 3.0e-4,
    "natural_windows": 16,
    "validations": 1,
}
TIMES = (2, 3)  # times the hard ratio, in two controls
SHORT = {"wikitext_windows": 0, "report_steps": 2, "report_batch": 1, "steps": 2}


class Exp12(CascadeParameters):
    """R2's own numbers: 192,512 training tokens, 150 packs of 128 hard ones, 100 updates of 16
    packs at 5e-5, linearly to 0, and 20,480 validation tokens.

    ``report_*`` are of the report's row, ``steps``, ``batch`` and ``learning_rate`` of the controls
    (``base_head_rate`` of those that start from the base's head): equal at the full size.
    """

    train_windows: int = whole(1504, 4, 100_000)
    valid_windows: int = whole(160, 2, 100_000)
    test_windows: int = whole(160, 2, 100_000)
    seeds: int = whole(5, 1, 1_000)
    wikitext_windows: int = whole(40, 0, 10_000)
    hard_ratio: float = real(0.1, 0.01, 0.9)
    report_steps: int = whole(100, 1, 1_000_000)
    report_batch: int = whole(16, 1, 10_000)
    report_rate: float = real(5.0e-5, 0.0, 1.0, above=True)
    steps: int = whole(100, 1, 1_000_000)
    batch: int = whole(16, 1, 10_000)
    learning_rate: float = real(5.0e-5, 0.0, 1.0, above=True)
    base_head_rate: float = real(5.0e-5, 0.0, 1.0, above=True)
    natural_windows: int = whole(160, 1, 10_000)
    validations: int = whole(10, 1, 1_000)

    LADDER = {
        "third": {
            "train_windows": 501,
            "valid_windows": 53,
            "test_windows": 53,
            "report_steps": 33,
            "steps": 33,
            "natural_windows": 53,
        },
        "tenth": {
            "train_windows": 150,
            "valid_windows": 16,
            "test_windows": 16,
            "report_steps": 10,
            "steps": 10,
            "natural_windows": 16,
        },
        "small": SMALL,
    }
    QUICK = {**SMALL, **QUICK_WINDOWS, **SHORT, "natural_windows": 2}
    TINY = {**SMALL, **TINY_WINDOWS, **SHORT, "natural_windows": 2}

    def check(self) -> None:
        """Raises ParameterError unless every control finds its tokens."""
        if TIMES[-1] * self.hard_ratio >= 1:
            raise ParameterError(
                f"parameter 'hard_ratio' is {self.hard_ratio}; allowed: below 1/{TIMES[-1]}, since "
                f"a control takes {TIMES[-1]} times as many tokens"
            )
        self.check_pack(self.hard_ratio)
        self.at_most("natural_windows", "valid_windows")

    def counts(self) -> dict[str, int]:
        """With WikiText windows, if any are asked for."""
        more = {"wikitext": self.wikitext_windows} if self.wikitext_windows else {}
        return super().counts() | more


def _training(p: Exp12, steps: int, batch: int, rate: float) -> Training:
    """Updates at a rate that falls to 0; the last weights count, as in R2."""
    return Training(
        epochs=steps,  # the updates end the run
        max_updates=steps,
        validations=p.validations,
        patience=0,
        batch_size=batch,
        learning_rate=rate,
        weight_decay=0.0,
        clip=1.0,
        schedule="linear",
        restore="last",
    )


def _report(p: Exp12, dataset: TokenDataset) -> StageRun:
    """The report's own stage."""
    training = _training(p, p.report_steps, p.report_batch, p.report_rate)
    return StageRun(dataset, training, hard_ratio=p.hard_ratio, natural_windows=p.natural_windows)


def _hard(p: Exp12, dataset: TokenDataset, rate: float = 0.0, **changes) -> StageRun:
    """The stage that controls are compared with, some of it changed. Where it is trained as the
    report's is, it is the report's."""
    report = _report(p, dataset)
    own = _training(p, p.steps, p.batch, p.learning_rate)
    if own != report.training or changes or rate:
        report = replace(report, natural_windows=0)
    training = replace(own, learning_rate=rate) if rate else own
    return replace(report, training=training, **changes)


_control = changing(_hard)


def _single(p: Exp12, dataset: TokenDataset) -> StageRun:
    """Every token alone, as many tokens an update as in packs."""
    config = _hard(p, dataset, arrangement="single")
    return replace(config, training=replace(config.training, batch_size=p.batch * 128))


# stages that start from the base's head, at a rate of their own
_from_base = changing(lambda p, dataset, **changes: _hard(p, dataset, p.base_head_rate, **changes))


def _times(factor: int) -> Variant:
    """The stage on so many times as many tokens of the same text."""
    return Variant(
        f"Hard ratio x{factor}",
        lambda p, dataset: _hard(p, dataset, hard_ratio=factor * p.hard_ratio),
        factors={"times": factor},
    )


def _twice(p: Exp12, dataset: TokenDataset) -> BaseTwice:
    windows = min(p.natural_windows, p.test_windows)
    return BaseTwice(dataset, hard_ratio=p.hard_ratio, natural_windows=windows)


def _half(p: Exp12, dataset: TokenDataset) -> StageRun:
    tokens = max(1, round(p.hard_ratio * p.train_windows / 2)) * 128
    return _hard(p, dataset, train_tokens=tokens)


VARIANTS = {
    "base_twice": Variant("Base applied twice", _twice, run_base_twice, seeds=1),
    "report": Variant("R2's training", _report),
    "hard": _control("Hard"),
    "random": _control("Random tokens", selection="random"),
    "first": _control("First tokens", selection="first"),
    "loss": _control("Highest loss", selection="loss"),
    "without_ends": _control("Hard, no EOS tokens", without_ends=True),
    "single": Variant("Length 1", _single, factors={"arrangement": "single"}),
    "full_context": _control("Full context", arrangement="full"),
    "half_text": Variant("Hard, half the text", _half),
    **{f"ratio_{factor}": _times(factor) for factor in TIMES},
    "layers_4": _control("4 layers", layers=4),
    "base_head": _from_base("Base's head, trained on", head="copied"),
    "zero_start": _from_base("Base's head, starts as the base", head="shared", start="identity"),
}

TOLD = {  # names of variants in figures, where there is room
    "base_twice": "Base applied twice (the report's slip)",
    "report": "R2's training, new head",
    "hard": "Hard tokens, new head",
    "random": "Random tokens instead",
    "first": "First tokens of the text instead",
    "loss": "Tokens of highest loss instead",
    "without_ends": "Hard tokens without EOS",
    "single": "Hard tokens, each alone",
    "full_context": "Hard tokens, read in their text",
    "half_text": "Hard tokens of half the text",
    "ratio_2": "Twice as many hard tokens",
    "ratio_3": "Three times as many hard tokens",
    "layers_4": "Hard tokens, 4 layers",
    "base_head": "Hard tokens, copy of the base's head",
    "zero_start": "Hard tokens, zero start, base's head",
}


def reported_table(results: Results) -> pd.DataFrame:
    """R2's figures beside ours, each under the name of what it really is."""
    frame = one(results)()
    twice = frame[frame["variant"] == "base_twice"].iloc[0]
    stage = frame[frame["variant"] == "report"].mean(numeric_only=True)
    return beside_reported(
        [
            ("threshold (10 % quantile of train cosines)", 0.9341, twice["threshold"]),
            ("base, all tokens, one pass: PPL", 12.50, twice["base_all_ppl"]),
            (
                "base, hard tokens, two passes: PPL (the report's 'LLM 0 hard')",
                24343.01,
                twice["val_ppl"],
            ),
            ("... of test", None, twice["test_ppl"]),
            ("base, the same hard tokens, one pass: PPL", None, twice["base_ppl"]),
            ("... without EOS tokens", None, twice["base_inner_ppl"]),
            ("base, easy tokens, one pass: PPL", None, twice["base_easy_ppl"]),
            ("share of EOS tokens: among hard tokens", None, twice["boundary_share"]),
            ("share of EOS tokens: among all tokens", None, twice["boundary_all_share"]),
            ("'true early exit' (two passes): share that exits", 0.755, twice["exit_rate"]),
            ("... accuracy of those", 0.0207, twice["exit_accuracy"]),
            ("... PPL of all tokens", 13847.47, twice["twice_all_ppl"]),
            ("base, all tokens, one pass: accuracy", None, twice["base_all_accuracy"]),
            (
                "stage before training, ALL tokens in text order: PPL",
                57792.05,
                stage["natural_before_ppl"],
            ),
            (
                "stage after training, ALL tokens in text order: PPL",
                11618.66,
                stage["natural_after_ppl"],
            ),
            ("stage after training, hard tokens of test: PPL", None, stage["test_ppl"]),
            ("... without EOS tokens", None, stage["inner_ppl"]),
        ],
        frame,
    )


BASE_LAYERS, STAGE_LAYERS = 30, 2


def early_exit(what: str) -> Measure:
    """R2's count of its "true early exit" on whole windows, from the share that exits.

    ``in``: tokens that enter the base; ``exit``: that exit there; ``deferred``: that the stage gets
    in packs, remainder dropped; ``compute``: percent, by its formula: layers that the tokens pass
    of base and stage, against all of them for every token; ``over_base``: against the base's.
    """
    share = level("base_twice", "exit_rate")
    tokens = chosen(Exp12, lambda p: min(p.natural_windows, p.test_windows) * LENGTH)

    def measure(results: Results) -> np.ndarray:
        whole, exits = tokens(results), np.round(share(results) * tokens(results))
        packed = (whole - exits) // LENGTH * LENGTH
        passed = 100 * (whole * BASE_LAYERS + packed * STAGE_LAYERS) / whole
        return {
            "in": whole,
            "exit": exits,
            "deferred": packed,
            "compute": passed / (BASE_LAYERS + STAGE_LAYERS),
            "over_base": passed / BASE_LAYERS,
        }[what]

    return measure


def layers_saved(what: str) -> Measure:
    """Percent change of layers passed, of a count of ``early_exit``; below 0: fewer."""
    count = early_exit(what)
    return lambda results: count(results) - 100


def as_printed(results: Results) -> np.ndarray:
    """R2's own comparison, in percent: its stage on all tokens in text order, after training,
    against the base applied twice to packs of hard tokens, seed by seed; both of valid."""
    stage = level("report", "natural_after_ppl")(results)
    return percent_change(stage, level("base_twice", "val_ppl")(results).item())


claim = on_alpaca("cascade_two_layer", "R2")

CLAIMS = (
    claim(
        "improves",
        "By R2's own count a two-layer stage beats the base on hard tokens",
        as_printed,
        "as the report ran it: the stage on all tokens, the base twice on packs of hard ones",
        reported=-52.3,
    ),
    claim(
        "trains",
        "Training makes the stage better on all tokens in text order",
        ratio(level("report", "natural_after_ppl"), level("report", "natural_before_ppl")),
        "as the report ran it: the same stage before training, drawn at random; a weak test",
        reported=-79.9,
    ),
    claim(
        "improves-hard",
        "A two-layer stage improves the hard tokens it is trained on",
        against_base("report"),
        "same tokens, base applied once (the report applied it twice)",
        explains="improves",
    ),
    claim(
        "ten-times-worse",
        "By R2's own count the base is at least ten times worse on hard tokens than on all",
        against_base("base_twice", "test_ppl", "base_all_ppl"),
        "as the report ran it: the base applied twice to hard tokens, once to all; no randomness",
        expect="above",
        threshold=900.0,
        reported=100 * (24343.01 / 12.5 - 1),
        deterministic=True,
    ),
    claim(
        "one-pass",
        "The base is at least ten times worse on hard tokens when it is applied to them once",
        against_base("base_twice", "base_ppl", "base_all_ppl"),
        "base applied once to both; no randomness",
        expect="above",
        threshold=900.0,
        deterministic=True,
        explains="ten-times-worse",
    ),
    claim(
        "double-pass",
        "The 24,343 is the base applied to its own output",
        against_base("base_twice"),
        "identical packed tokens, two passes against one; no randomness",
        expect="above",
        threshold=10_000.0,
        deterministic=True,
        explains="improves",
    ),
    claim(
        "low-cosine-is-hard",
        "Low-cosine tokens are harder for the base than the others",
        against_base("base_twice", "base_ppl", "base_easy_ppl"),
        "one pass, split by the report's rule",
        expect="above",
        deterministic=True,
        explains="ten-times-worse",
    ),
    claim(
        "low-cosine-is-hard-inside",
        "Low-cosine tokens are harder for the base without end-of-sequence tokens too",
        against_base("base_twice", "base_inner_ppl", "base_easy_inner_ppl"),
        "the label of an end-of-sequence token is the start of an unrelated record",
        expect="above",
        deterministic=True,
        explains="ten-times-worse",
    ),
    claim(
        "saves",
        "Early exit saves computation, against base and stage for every token",
        layers_saved("compute"),
        "the report's count of layers that tokens pass; it falls once a pack exits: a weak test",
        reported=-4.7,
        unit="% change of layers passed",
        deterministic=True,
    ),
    claim(
        "saves-over-base",
        "It saves computation against the base alone",
        layers_saved("over_base"),
        "the same count of layers; without a stage a token passes 30 layers",
        unit="% change of layers passed",
        deterministic=True,
        explains="saves",
    ),
    claim(
        "improves-all",
        "Deferring hard tokens to the stage improves the perplexity of all tokens",
        against_base("report", "cascade_all_ppl", "base_all_ppl"),
        "all test tokens, each answered by the model at which it stops",
        kind="own",
    ),
    claim(
        "hard-beats-random",
        "Training on hard tokens is better for them than on random ones",
        change("hard", "random"),
        "equal tokens, steps, rate and initial weights",
        explains="improves",
    ),
    claim(
        "hard-beats-random-inside",
        "Training on hard tokens is better for them without end-of-sequence tokens too",
        change("hard", "random", "inner_ppl"),
        "scored without end-of-sequence tokens; equal tokens, steps, rate and initial weights",
        explains="improves",
    ),
    claim(
        "without-ends-random",
        "Hard tokens other than end-of-sequence ones are better to train on than random ones",
        change("without_ends", "random", "inner_ppl"),
        "no end-of-sequence token is trained on or scored; equal tokens and steps",
        explains="improves",
    ),
    claim(
        "hard-beats-first",
        "Training on hard tokens is better for them than on the first tokens of the text",
        change("hard", "first"),
        "equal tokens, steps, rate and initial weights",
        explains="improves",
    ),
    claim(
        "hard-beats-loss",
        "Training on hard tokens is better for them than on those of highest true loss",
        change("hard", "loss"),
        "equal tokens, steps, rate and initial weights",
        explains="improves",
    ),
    claim(
        "packs-beat-single",
        "A pack of hard tokens is a useful context for each other",
        change("hard", "single"),
        "packs of 128 against every token alone",
        explains="improves",
    ),
    claim(
        "full-context",
        "Reading the whole text beats reading other hard tokens alone",
        change("full_context", "hard"),
        "equal trained tokens an update, and equal updates",
        explains="improves",
    ),
    claim(
        "four-layers",
        "Four added layers are better than two",
        change("layers_4", "hard"),
        "equal tokens and steps; open list of R2",
        kind="own",
    ),
    claim(
        "more-data",
        "More text is better at equal steps",
        change("hard", "half_text"),
        "equal steps; open list of R2",
        kind="own",
    ),
    claim(
        "larger-ratio",
        "A hard ratio of 30 % is better over all tokens than 10 %",
        change("ratio_3", "hard", "cascade_all_ppl"),
        "all test tokens; equal steps and tokens an update; open list of R2",
        kind="own",
    ),
    claim(
        "head",
        "The report's two layers improve hard tokens once their head starts as the base's",
        against_base("base_head"),
        "layers drawn as in the report, trained head a copy of the base's; base applied once",
        explains="improves",
    ),
    claim(
        "head-inside",
        "They do so without end-of-sequence tokens too",
        against_base("base_head", "inner_ppl", "base_inner_ppl"),
        "the same stage, scored without end-of-sequence tokens",
        explains="improves",
    ),
    claim(
        "base-head-hard",
        "A stage that starts as the base improves hard tokens",
        against_base("zero_start"),
        "same tokens, base applied once, base's frozen head",
        kind="own",
    ),
    claim(
        "base-head-inside",
        "A stage that starts as the base improves hard tokens without end-of-sequence tokens too",
        against_base("zero_start", "inner_ppl", "base_inner_ppl"),
        "an end-of-sequence token is always followed by the template's first word",
        kind="own",
    ),
    claim(
        "wikitext",
        "The cascade of R2 improves WikiText-2 as well",
        on_wikitext(against_base("report", "wikitext_cascade_all_ppl", "wikitext_base_all_ppl")),
        "all tokens of another corpus; open list of R2",
        kind="own",
    ),
)

# All that R2 trains is its stage, scored on ALL validation tokens in text order.
BESIDE = {
    ("LLM 0", "params"): level("base_twice", "params"),
    ("LLM 0", "val_ppl_all"): level("base_twice", "base_all_ppl"),
    ("LLM 0", "val_ppl_hard"): level("base_twice", "val_ppl"),
    ("LLM 0", "threshold"): level("base_twice", "threshold"),
    ("LLM 0", "hard_tokens"): level("report", "train_tokens"),
    ("LLM 1", "params"): level("report", "params"),
    ("LLM 1", "trainable"): level("report", "params"),
    ("LLM 1", "val_ppl_before"): level("report", "natural_before_ppl"),
    ("LLM 1", "val_ppl_after"): level("report", "natural_after_ppl"),
    ("LLM 1 epoch 10", "val_ppl"): level("report", "natural_after_ppl"),
    ("early exit", "llm0_in"): early_exit("in"),
    ("early exit", "llm0_exit"): early_exit("exit"),
    ("early exit", "llm1_in"): early_exit("deferred"),
    ("early exit", "compute_pct"): early_exit("compute"),
}
REMARKS = {
    "LLM 0: trainable": "the base is frozen by construction: nothing of it is counted as trained",
    "LLM 0: val_ppl_hard": "base applied twice, as the report did",
    "LLM 0: val_ppl_all": "test text",
    "LLM 1: trainable": "all of the stage is trained",
    "LLM 1 epoch 10: val_ppl": "after the last update",
    "LLM 1 epoch ?: val_ppl": "our curve is of hard tokens; all tokens, as here, are scored before"
    " and after training only",
    "early exit: acc_pct": "no run of ours mixes the base applied twice with the stage; column"
    " exit_accuracy is of the tokens that exit",
    "early exit: val_ppl": "no run of ours mixes the base applied twice with the stage; column"
    " twice_all_ppl is of two passes for all tokens",
    "early exit: llm?_*": "from the share that exits; the number of tokens is a parameter",
}

E12 = Experiment(
    slug="12_two_layer_stage",
    question="Do two layers trained on hard tokens improve them, against the base itself?",
    parameters=Exp12,
    texts=Exp12.texts,
    variants=VARIANTS,
    baseline="hard",
    report="cascade_two_layer",
    figures={
        "hard": hard_tokens.against_base("test_ppl", told=TOLD),
        "inside": hard_tokens.against_base("inner_ppl", told=TOLD),
        "all": hard_tokens.against_base("cascade_all_ppl", ("base_twice",), TOLD),
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
)
