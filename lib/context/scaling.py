"""Power laws of perplexity over tokens, with and without a floor.

ppl = A * tokens^alpha              (seed 003: least squares of ln ppl on ln tokens)
ppl = floor + A * tokens^alpha      (floor scanned, the rest by least squares)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOOR_STEPS = 200


@dataclass(frozen=True)
class PowerLaw:
    """Fitted law; `r2` and `sse` refer to ln ppl for both forms so that they can be compared."""

    alpha: float
    scale: float
    floor: float
    r2: float
    sse: float

    def predict(self, tokens: Sequence[float]) -> np.ndarray:
        """Perplexity of the law at each number of tokens."""
        return self.floor + self.scale * np.asarray(tokens, float) ** self.alpha


def _checked(tokens: Sequence[float], ppl: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    t, p = np.asarray(tokens, float), np.asarray(ppl, float)
    if t.shape != p.shape or t.ndim != 1:
        raise ValueError("tokens and ppl must be two lists of equal length")
    if len(np.unique(t)) < 2 or (t <= 0).any() or not (p > 0).all() or not np.isfinite(p).all():
        raise ValueError("at least two different sizes and positive finite perplexities are needed")
    return t, p


def _line(t: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope, intercept = np.polyfit(np.log(t), np.log(y), 1)
    return float(slope), float(intercept)


def _law(t: np.ndarray, p: np.ndarray, floor: float) -> PowerLaw:
    slope, intercept = _line(t, p - floor)
    residual = np.log(p) - np.log(floor + np.exp(intercept) * t**slope)
    sse = float((residual**2).sum())
    total = float(((np.log(p) - np.log(p).mean()) ** 2).sum())
    r2 = 1 - sse / total if total > 0 else 0.0
    return PowerLaw(slope, float(np.exp(intercept)), float(floor), r2, sse)


def fit_power_law(tokens: Sequence[float], ppl: Sequence[float]) -> PowerLaw:
    """Least squares of ln ppl on ln tokens (no floor)."""
    t, p = _checked(tokens, ppl)
    return _law(t, p, 0.0)


def fit_with_floor(tokens: Sequence[float], ppl: Sequence[float]) -> PowerLaw:
    """Best floor on a grid from 0 to just under the smallest perplexity; needs >= 3 sizes.

    Three parameters: with four sizes one degree of freedom is left, so read the interval.
    """
    t, p = _checked(tokens, ppl)
    if len(np.unique(t)) < 3:
        raise ValueError("a law with a floor has three parameters; at least three sizes are needed")
    floors = np.linspace(0.0, 0.999 * p.min(), FLOOR_STEPS)
    return min((_law(t, p, floor) for floor in floors), key=lambda law: law.sse)


def residual_interval(
    tokens: Sequence[float], ppl: Sequence[float], level: float = 0.95
) -> tuple[float, float]:
    """Interval of alpha from the residuals of one least-squares line (n - 2 degrees of freedom).

    This is what four points of one seed can say: for the seed's table -0.58 to -0.34.
    """
    from scipy import stats

    t, p = _checked(tokens, ppl)
    if len(t) < 3:
        raise ValueError("at least three points are needed for an interval")
    law = _law(t, p, 0.0)
    logs = np.log(t)
    error = np.sqrt(law.sse / (len(t) - 2) / ((logs - logs.mean()) ** 2).sum())
    width = stats.t.ppf(0.5 + level / 2, len(t) - 2) * error
    return law.alpha - width, law.alpha + width
