"""What a row of ``results/NN_slug.csv`` must hold."""

import re

import pandas as pd

COLUMNS = (
    "experiment",
    "variant",
    "corpus",
    "corpus_sha256",
    "size",
    "seed",
    "params",
    "best_epoch",
    "val_ppl",
    "test_ppl",
    "seconds",
    "device",
    "torch",  # the version a run was made with; tables older than this column have it empty
    "code_hash",
    "run_id",
)
KEYS = ("variant", "corpus", "seed", "run_id")  # what names a run in the further tables
FILLED = ("experiment", *KEYS, "corpus_sha256", "size", "seconds", "device", "code_hash")
SIZES = ("full", "quick", "tiny", "custom")
CORPORA = ("wikitext-2", "repeated", "alpaca", "python-docs", "ultrachat")


class SchemaError(ValueError):
    """A table of results that breaks a rule; the message names the rule."""


def check(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the fixed columns first, or SchemaError.

    Absent numbers stay empty (never 0); perplexities are finite and at least 1; one row a variant,
    corpus and seed.
    """
    frame = frame.copy()
    for column in COLUMNS:
        if column not in frame:
            if column in FILLED:
                raise SchemaError(f"column {column} is missing")
            frame[column] = None
    for column in FILLED:
        if frame[column].isna().any():
            raise SchemaError(f"column {column} has empty cells")
    if not frame["size"].isin(SIZES).all():
        raise SchemaError(f"size must be one of {', '.join(SIZES)}")
    if not frame["corpus"].str.startswith(CORPORA).all():
        raise SchemaError(f"corpus names begin with one of {', '.join(CORPORA)}")
    if not frame["corpus_sha256"].map(lambda text: bool(re.fullmatch("[0-9a-f]{64}", text))).all():
        raise SchemaError("corpus_sha256 must be 64 hex digits")
    for column in ("val_ppl", "test_ppl"):
        values = pd.to_numeric(frame[column]).dropna()
        if not (values.between(1, float("inf"), inclusive="left")).all():
            raise SchemaError(f"{column} must be finite and at least 1")
    if frame.duplicated(["variant", "corpus", "seed"]).any():
        raise SchemaError("two rows for one variant, corpus and seed")
    rest = [column for column in frame if column not in COLUMNS]
    return frame[[*COLUMNS, *rest]]
