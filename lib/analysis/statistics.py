"""Intervals over seeds: a seeded percentile bootstrap that is never narrower than Student's t.

Both are of the mean over seeds, and paired where variants share them. A percentile bootstrap alone
is too short for few seeds: drawn from a normal, its 95 % interval holds the true mean 75 % of the
time for n = 3 (it is then the range of the values), 84 % for 5 and 91 % for 10.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds and its 95 % interval; for n = 1 both ends are the mean."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        digits = 0 if abs(self.mean) >= 1000 else 2
        return f"{self.mean:,.{digits}f} [{self.low:,.{digits}f}, {self.high:,.{digits}f}]"

    def excludes(self, value: float) -> bool:
        """True if the interval lies on one side of ``value``."""
        return self.low > value or self.high < value


def bootstrap(values: ArrayLike, seed: int = 0) -> Interval:
    """Mean over seeds of values (n,) and its 95 % interval.

    Each end is the outer one of two: the percentile of 10,000 resampled means (Efron 1979), which
    follows skewed values, and Student's t (1908), which knows how little few seeds say.

    Raises ValueError for no values or for one that is not finite: a failed run is not a number.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"needs one value a seed, got an array of shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError("a value is not finite: the run behind it failed")
    generator = np.random.default_rng(seed)
    means = sample[generator.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean, n = sample.mean(), len(sample)
    if n > 1:
        half = student.ppf((1 + LEVEL) / 2, n - 1) * sample.std(ddof=1) / np.sqrt(n)
        low, high = min(low, mean - half), max(high, mean + half)
    return Interval(float(mean), float(low), float(high), n)


def percent_change(treatment: ArrayLike, baseline: ArrayLike) -> np.ndarray:
    """100 (treatment / baseline - 1), seed by seed; both (n,) in the same order of seeds."""
    return 100 * (np.asarray(treatment, dtype=float) / np.asarray(baseline, dtype=float) - 1)
