"""What a row of ``results/NN_slug.csv`` must hold."""

import re

import pandas as pd

from lib.parameters import SIZES

COLUMNS = (
    "experiment", "variant", "label", "corpus", "corpus_sha256", "size", "seed", "status",
    "params", "best_epoch", "val_ppl", "test_ppl", "seconds", "device", "torch", "code_hash",
    "commit", "run_id"
)  # fmt: skip
KEYS = ("variant", "corpus", "size", "seed", "run_id")  # what names a run in the further tables
FILLED = ("experiment", *KEYS, "label", "status", "corpus_sha256", "seconds", "device", "code_hash")
OK, DIVERGED = "ok", "diverged"  # ``status``: a diverged run is shown, never averaged or decisive
WORSE_THAN_BLIND = 2.0  # times as perplexed as blind guessing: such a run has diverged
MOST_SYMBOLS = 500_000  # no vocabulary has more
THEIRS = "(yours)"  # marks the variants of a reader
REAL = "wikipedia"  # the text that everyone has, and no report used
CORPORA = (REAL, "wikitext-2", "repeated", "alpaca", "python-docs", "ultrachat", "embedded")


class SchemaError(ValueError):
    """A table of results that breaks a rule; the message names the rule."""


def status(ppl: float | None, symbols: int = MOST_SYMBOLS) -> str:
    """Whether a perplexity is that of a model, or worse than blind guessing among ``symbols`` by a
    wide margin. A run without a perplexity is ok."""
    return OK if ppl is None or ppl <= WORSE_THAN_BLIND * symbols else DIVERGED


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the fixed columns first, or SchemaError.

    Absent numbers stay empty (never 0); perplexities are finite and at least 1 unless the run
    diverged; one row a variant, corpus, size and seed.
    """
    frame = frame.copy()
    for column in FILLED:
        if column not in frame:
            raise SchemaError(f"column {column} is missing")
        if frame[column].isna().any():
            raise SchemaError(f"column {column} has empty cells")
    for column in COLUMNS:
        if column not in frame:
            frame[column] = None
    if not frame["size"].isin((*SIZES, "custom")).all():
        raise SchemaError(f"size must be one of {', '.join((*SIZES, 'custom'))}")
    if not frame["status"].isin((OK, DIVERGED)).all():
        raise SchemaError(f"status must be {OK} or {DIVERGED}")
    if not frame["corpus"].str.startswith(CORPORA).all():
        raise SchemaError(f"corpus names begin with one of {', '.join(CORPORA)}")
    if not frame["corpus_sha256"].map(lambda text: bool(re.fullmatch("[0-9a-f]{64}", text))).all():
        raise SchemaError("corpus_sha256 must be 64 hex digits")
    for column in ("val_ppl", "test_ppl"):
        values = pd.to_numeric(frame.loc[frame["status"] == OK, column]).dropna()
        if not (values.between(1, float("inf"), inclusive="left")).all():
            raise SchemaError(f"{column} must be finite and at least 1")
    if frame.duplicated(["variant", "corpus", "size", "seed"]).any():
        raise SchemaError("two rows for one variant, corpus, size and seed")
    rest = [column for column in frame if column not in COLUMNS]
    return frame[[*COLUMNS, *rest]]
