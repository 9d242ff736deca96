"""Intervals over random seeds: Student's t, of the mean, paired where variants share their seeds.

Ratios are averaged as logarithms, so that no interval of a percent change reaches below -100 %;
shares between two bounds keep their interval inside. For 3 to 10 seeds, as here, a percentile
bootstrap is too short (drawn from a normal, its 95 % interval holds the true mean 75 % of the time
for n = 3) and was never the outer end of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # its parts are loaded when they are first used
from numpy.typing import ArrayLike

LEVEL = 0.95
SHARE = (0.0, 1.0)  # what a share can be
FACTOR = (0.0, np.inf)  # what a ratio of two times or sizes can be


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds and its 95 % interval; for n = 1 both ends are the mean."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if self.n == 1 or self.low == self.high:
            return sensible(self.mean)
        # as many digits as the width of the interval makes meaningful
        places = decimals(self.high - self.low, self.mean)
        mean, low, high = (_rounded(value, places) for value in (self.mean, self.low, self.high))
        return sensible(self.mean) if low == high else f"{mean} [{low}, {high}]"

    def excludes(self, value: float) -> bool:
        """True if the interval lies on one side of ``value``."""
        return self.low > value or self.high < value


def _rounded(value: float, places: int) -> str:
    """A number with so many decimal places, and no sign before a zero."""
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def decimals(width: float, mean: float) -> int:
    """Decimal places that show the first two digits of a width, between 0 and 4."""
    if not np.isfinite(width) or width <= 0:
        return 2
    return int(np.clip(1 - np.floor(np.log10(width)), 0, 4))


def sensible(value: float) -> str:
    """A single number with about four digits."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    places = int(np.clip(3 - np.floor(np.log10(abs(value))), 0, 6))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval(values: ArrayLike) -> Interval:
    """Mean over seeds of values (n,) and its 95 % interval by Student's t.

    Raises ValueError for no values or for one that is not finite: a failed run is not a number.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"needs one value a seed, got an array of shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("a value is not finite: the run behind it failed")
    mean, n = float(sample.mean()), len(sample)
    error = scipy.stats.sem(sample) if n > 1 else 0.0
    if n == 1 or error == 0:
        return Interval(mean, mean, mean, n)
    low, high = scipy.stats.t.interval(LEVEL, n - 1, loc=mean, scale=error)
    return Interval(mean, float(low), float(high), n)


def percent_interval(changes: ArrayLike) -> Interval:
    """The interval of percent changes (n,), averaged as logarithms of ratios."""
    logs = np.log1p(np.asarray(changes, dtype=float) / 100)
    found = interval(logs)
    mean, low, high = (100 * float(np.expm1(x)) for x in (found.mean, found.low, found.high))
    return Interval(mean, low, high, found.n)


def bounded_interval(values: ArrayLike, bounds: tuple[float, float]) -> Interval:
    """The interval of values (n,) that can only lie between ``bounds``, cut to them."""
    found = interval(values)
    low, high = bounds
    return replace(found, low=max(found.low, low), high=min(found.high, high))


def p_value(values: ArrayLike, threshold: float) -> float:
    """Two-sided p of the mean of values (n,) being ``threshold`` (one-sample t); 1 for n < 2.

    Values that all agree give 0 or 1.
    """
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return 1.0
    if np.ptp(sample) == 0:
        return float(sample[0] == threshold)
    return float(scipy.stats.ttest_1samp(sample, threshold).pvalue)


def equivalence_p(values: ArrayLike, low: float, high: float) -> float:
    """p of two one-sided tests that the mean of values (n,) lies between both; 1 for n < 2."""
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return 1.0
    if np.ptp(sample) == 0:
        return float(not low <= sample[0] <= high)
    above = scipy.stats.ttest_1samp(sample, low, alternative="greater").pvalue
    below = scipy.stats.ttest_1samp(sample, high, alternative="less").pvalue
    return float(max(above, below))


def discovery_rate(p: Sequence[float]) -> np.ndarray:
    """q of every p: the false discovery rate of Benjamini and Hochberg (1995)."""
    own = np.asarray(p, dtype=float)
    return scipy.stats.false_discovery_control(own) if len(own) else own


def percent_change(treatment: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """100 (treatment / baseline - 1), seed by seed; both (n,) in the same order of seeds."""
    return 100 * (np.asarray(treatment, dtype=float) / np.asarray(baseline, dtype=float) - 1)
