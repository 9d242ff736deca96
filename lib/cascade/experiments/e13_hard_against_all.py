"""Experiment 13 (R0): is it hardness that helps a head trained on hard tokens, or wider text?

R0 trains a bare linear head on the base's final states. Every condition has N training tokens, as
many updates, and the same initial weights; all are scored on the same held-out hard tokens. Two
more train on every token of the text, which R0 concludes to be needless: with as many updates, and
for as many epochs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from lib.cascade.claims import against_base, chosen, on_alpaca
from lib.cascade.dataset import LENGTH, TokenDataset
from lib.cascade.figures import hard_tokens
from lib.cascade.parameters import QUICK_WINDOWS, TINY_WINDOWS, CascadeParameters
from lib.cascade.stage_run import StageRun
from lib.cascade.tables import beside_reported
from lib.cascade.variants import Variant, changing
from lib.experiment import Experiment
from lib.parameters import ParameterError, real, whole
from lib.results.claims import Measure, change, level
from lib.results.store import Absent, Results
from lib.results.tables import one
from lib.training.loop import Training

# the size of the first committed tables: less text, a faster rate, the last update counts
SMALL = {
    "train_windows": 512,
    "valid_windows": 64,
    "test_windows": 120,
    "seeds": 3,
    "text_windows": 160,
    "tokens": 2048,
    "hard_ratio": 0.116,
    "steps": 64,
    "learning_rate": 1.0e-3,
    "validations": 1,
}


class Exp13(CascadeParameters):
    """R0's own numbers: 86,784 training tokens of which 10,082 are hard, 10 epochs of 316 updates.

    ``tokens``: N of every condition (0: as many as the ratio makes hard); ``text_windows``: the
    text that the hard condition takes them from (0: all training text). The best of ``validations``
    on hard validation tokens is kept, as in R0, and scored on further text.
    """

    train_windows: int = whole(678, 4, 100_000)
    valid_windows: int = whole(135, 2, 100_000)
    test_windows: int = whole(135, 2, 100_000)
    seeds: int = whole(5, 1, 1_000)
    text_windows: int = whole(0, 0, 100_000)
    tokens: int = whole(0, 0, 10_000_000)
    hard_ratio: float = real(0.116173, 0.01, 0.9)
    steps: int = whole(3160, 1, 1_000_000)
    batch: int = whole(32, 1, 10_000)
    learning_rate: float = real(1.0e-4, 0.0, 1.0, above=True)
    validations: int = whole(10, 1, 1_000)

    LADDER = {
        "third": {
            "train_windows": 226,
            "valid_windows": 45,
            "test_windows": 45,
            "steps": 1053,
        },
        "tenth": {"train_windows": 68, "valid_windows": 14, "test_windows": 14, "steps": 316},
        "small": SMALL,
    }
    QUICK = {
        **SMALL,
        **QUICK_WINDOWS,
        "train_windows": 24,
        "text_windows": 24,
        "tokens": 256,
        "steps": 12,
    }
    TINY = {**SMALL, **TINY_WINDOWS, "text_windows": 20, "tokens": 128, "steps": 8}

    def check(self) -> None:
        """Raises ParameterError if the text does not hold what is asked of it."""
        self.at_most("text_windows", "train_windows")
        if self.tokens > self.hard:
            raise ParameterError(
                f"parameter 'tokens' is {self.tokens}; allowed: at most {self.hard}, as many as "
                f"'hard_ratio' {self.hard_ratio:g} makes hard"
            )

    @property
    def hard(self) -> int:
        """Tokens that the ratio makes hard."""
        return round(self.hard_ratio * self.whole)

    @property
    def whole(self) -> int:
        """Tokens of the training text."""
        return LENGTH * (self.text_windows or self.train_windows)

    @property
    def count(self) -> int:
        """N: training tokens of every condition."""
        return self.tokens or self.hard

    @property
    def steps_of_whole(self) -> int:
        """Updates of as many epochs over the whole text as ``steps`` are over N tokens."""
        epochs = self.steps / -(-self.count // self.batch)
        return round(epochs * -(-self.whole // self.batch))


def _training(p: Exp13, updates: int) -> Training:
    """R0's training for so many updates."""
    return Training(
        epochs=updates,  # the updates end the run
        max_updates=updates,
        validations=p.validations,
        patience=0,
        batch_size=p.batch,
        learning_rate=p.learning_rate,
        clip=0.0,
    )


def _hard(p: Exp13, dataset: TokenDataset, **changes) -> StageRun:
    """The hard condition, some of it changed."""
    config = StageRun(
        dataset,
        _training(p, p.steps),
        criterion="last_layer",
        hard_ratio=p.hard_ratio,
        train_tokens=p.tokens,
        text_windows=p.text_windows,
        arrangement="single",
        layers=0,
    )
    return replace(config, **changes)


def _every(p: Exp13, dataset: TokenDataset, updates: int) -> StageRun:
    """Every token of the training text instead of N."""
    return _hard(p, dataset, selection="all", train_tokens=0, training=_training(p, updates))


_condition = changing(_hard)
VARIANTS = {
    "hard": _condition("Hard tokens", selection="hard"),
    "first": _condition("All tokens (first N)", selection="first"),
    "random": _condition("All tokens (same text)", selection="random"),
    "hard_narrow": Variant(
        "Hard tokens, narrow text",
        lambda p, dataset: _hard(p, dataset, text_windows=max(2, p.count // 128)),
        factors={"selection": "hard"},
    ),
    "all": Variant(
        "All tokens (every one)",
        lambda p, dataset: _every(p, dataset, p.steps),
        factors={"selection": "all"},
    ),
    "all_epochs": Variant(
        "All tokens (every one, as many epochs)",
        lambda p, dataset: _every(p, dataset, p.steps_of_whole),
        factors={"selection": "all"},
    ),
    "loss": _condition("Highest loss", selection="loss"),
    "hard_base_head": _condition("Hard tokens, base's head", selection="hard", head="copied"),
}

TOLD = {  # names of variants in figures, where there is room
    "hard": "N hard tokens of the whole text",
    "first": "The first N tokens",
    "random": "N random tokens of the whole text",
    "hard_narrow": "Hard tokens among the first N",
    "all": "Every token, as many updates",
    "all_epochs": "Every token, as many epochs",
    "loss": "N tokens of highest loss",
    "hard_base_head": "N hard tokens, copy of the base's head",
}


def reported_table(results: Results) -> pd.DataFrame:
    """R0's two conditions beside ours, and the line that it did not draw.

    A condition whose runs are outstanding has an empty cell.
    """
    frame = one(results)()
    means = frame.groupby("variant").mean(numeric_only=True)

    def mean(variant: str, column: str) -> float | None:
        return float(means.loc[variant, column]) if variant in means.index else None

    hard, first = mean("hard", "val_ppl"), mean("first", "val_ppl")
    return beside_reported(
        [
            ("training tokens of each condition", 10_082, mean("hard", "train_tokens")),
            ("hard tokens: PPL of hard validation tokens", 1252, hard),
            ("first N tokens: PPL of hard validation tokens", 3115, first),
            ("ratio of the two", 0.402, hard / first if hard and first else None),
            ("hard tokens: PPL of hard test tokens", None, mean("hard", "test_ppl")),
            ("first N tokens: PPL of hard test tokens", None, mean("first", "test_ppl")),
            (
                "N random tokens of the same text: PPL of hard test tokens",
                None,
                mean("random", "test_ppl"),
            ),
            ("base's own head, untouched: PPL of hard test tokens", None, mean("hard", "base_ppl")),
            ("... without EOS tokens", None, mean("hard", "base_inner_ppl")),
        ],
        frame,
    )


claim = on_alpaca("hard_vs_all", "R0")

CLAIMS = (
    claim(
        "hard-beats-all",
        "Training on hard tokens beats training on all tokens, for hard ones",
        change("hard", "first"),
        "R0's conditions: equal N, but the first N tokens are one ninth of the text",
        reported=100 * (1252 / 3115 - 1),
    ),
    claim(
        "not-coverage",
        "Hard tokens are better than N random tokens of the same text",
        change("hard", "random"),
        "equal N, steps, initial weights and text",
        explains="hard-beats-all",
    ),
    claim(
        "not-hardness",
        "Wider text alone, without any hardness, is better than the first N",
        change("random", "first"),
        "random tokens of the hard condition's text against its first N",
        explains="hard-beats-all",
    ),
    claim(
        "narrow",
        "Hard tokens of the first N tokens' text alone are enough",
        change("hard_narrow", "first"),
        "equal text and steps; the hard ones are a ninth as many tokens",
        explains="hard-beats-all",
    ),
    claim(
        "inside",
        "Hard tokens stay better than random ones without end-of-sequence tokens",
        change("hard", "random", "inner_ppl"),
        "equal N, steps and text; scored without end-of-sequence tokens",
        explains="hard-beats-all",
    ),
    claim(
        "easy-useless",
        "The tokens of truly highest loss are better than a mixture: easy tokens add nothing",
        change("loss", "random"),
        "equal N; highest base loss against random, same text",
        explains="hard-beats-all",
    ),
    claim(
        "saves-data",
        "Hard tokens alone serve as well as the whole text: 88 % of data saved",
        change("hard", "all_epochs"),
        "every token of the text for as many epochs, 8.6 times the updates; at most 1 % worse",
        threshold=1.0,
    ),
    claim(
        "saves-data-updates",
        "Hard tokens serve hard ones at most 1 % worse than the whole text at equal cost",
        change("hard", "all"),
        "every token of the text, as many updates",
        explains="saves-data",
        threshold=1.0,
    ),
    claim(
        "better-than-base",
        "A head trained on hard tokens serves them better than the base's own",
        against_base("hard"),
        "same tokens; the base's own head, not trained on them",
        kind="own",
    ),
    claim(
        "trained-on",
        "A head that starts as the base's own gains on hard tokens",
        against_base("hard_base_head"),
        "same tokens; the head copied and trained on",
        kind="own",
    ),
    claim(
        "trained-on-inside",
        "A head that starts as the base's own gains without end-of-sequence tokens too",
        against_base("hard_base_head", "inner_ppl", "base_inner_ppl"),
        "the label of an end-of-sequence token is the start of an unrelated record",
        kind="own",
    ),
)


def loss(variant: str) -> Measure:
    """Nats a hard validation token."""
    return lambda results: np.log(level(variant, "val_ppl")(results))


def hard_of_text(results: Results) -> np.ndarray:
    """Hard tokens of the training text: N, unless a size trains on fewer."""
    if most := Exp13.at(results.sizes[0]).tokens:
        raise Absent(f"size {results.sizes[0]} trains on at most {most:,} hard tokens")
    return level("hard", "train_tokens")(results)


FIRST = "All tokens (sampled)"  # the report's name for the first N tokens

BESIDE = {
    ("data", "train_tokens"): chosen(Exp13, lambda p: p.train_windows * LENGTH),
    ("data", "val_tokens"): chosen(Exp13, lambda p: p.valid_windows * LENGTH),
    ("data", "train_hard"): hard_of_text,
    ("data", "threshold"): level("hard", "threshold"),
    ("Hard tokens", "val_loss"): loss("hard"),
    (FIRST, "val_loss"): loss("first"),
    **{
        (FIRST, column): level("first", column) for column in ("train_tokens", "val_ppl", "seconds")
    },
}
REMARKS = {
    "Hard tokens: val_*": "our records are other and longer ones: 255 tokens each, the report's 87",
    "data: *_tokens": "a parameter",
    "data: val_hard": "our tables count the hard tokens of test, not those of valid",
    "data: *_samples": "our text is counted in windows of 128 tokens, not in samples",
    "*: seconds": "ours: processor time of the whole run on one core; the report: another machine",
}

E13 = Experiment(
    slug="13_hard_against_all",
    question="Is it hardness that helps a head trained on hard tokens, or wider text?",
    parameters=Exp13,
    texts=Exp13.texts,
    variants=VARIANTS,
    baseline="first",
    report="hard_vs_all",
    figures={
        "hard": hard_tokens.against_base("test_ppl", told=TOLD),
        "inside": hard_tokens.against_base("inner_ppl", told=TOLD),
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
)
