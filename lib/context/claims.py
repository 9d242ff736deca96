"""What claims of the context experiments have in common: R3 measured on UltraChat.

Its tokens and its base are not ours, so every row of a reported claim on another text is a
transfer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from lib.context.forgetting import STEPS
from lib.results.claims import Claim, Measure, at_epoch, claim_maker, level, times

REPORT_TEXTS = ("ultrachat",)


def on_ultrachat(experiment: str, source: str, **shared: Any) -> Callable[..., Claim]:
    """Claims of R3, which measured on UltraChat."""
    return claim_maker(experiment, source, texts=REPORT_TEXTS, **shared)


def valid_accuracy(variant: str, epoch: str = "best_epoch", **where: Any) -> Measure:
    """Percent right on valid at an epoch, which the reports call accuracy."""
    return times(100, at_epoch(variant, "val_acc", epoch, **where))


def disagreement(variant: str) -> Measure:
    """1 - mean cosine between the Phase 1 table and the exact recurrence, seed by seed."""
    return lambda results: 1 - level(variant, "cos_mean")(results)


def remembered(rows: pd.DataFrame) -> str:
    """Tokens until two states agree to cosine 0.99, mean over the runs that measured it.

    A run that never got there within STEPS tokens has no number, and then there is no mean: "> 8".
    Rows without ``iterations`` (windows, end to end, count models) measured nothing: "".
    """
    measured = rows.loc[rows["iterations"].notna(), "memory_tokens"]
    if measured.empty:
        return ""
    return f"> {STEPS}" if measured.isna().any() else f"{np.mean(measured.astype(float)):.2f}"
