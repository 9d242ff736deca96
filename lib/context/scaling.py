"""Power laws of perplexity over tokens, with and without a floor.

ppl = A * tokens^alpha              (R3: least squares of ln ppl on ln tokens)
ppl = floor + A * tokens^alpha      (the floor by a bounded minimisation, the rest as above)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when they are first used

HIGHEST = 0.999  # share of the smallest perplexity below which the floor stays


@dataclass(frozen=True)
class PowerLaw:
    """Fitted law; `r2` and `sse` refer to ln ppl for both forms so that they can be compared.

    `error` is the standard error of alpha of the straight line.
    """

    alpha: float
    scale: float
    floor: float
    r2: float
    sse: float
    error: float

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


def _law(t: np.ndarray, p: np.ndarray, floor: float) -> PowerLaw:
    line = scipy.stats.linregress(np.log(t), np.log(p - floor))
    residual = np.log(p) - np.log(floor + np.exp(line.intercept) * t**line.slope)
    sse = float((residual**2).sum())
    total = float(((np.log(p) - np.log(p).mean()) ** 2).sum())
    r2 = 1 - sse / total if total > 0 else 0.0
    return PowerLaw(
        float(line.slope), float(np.exp(line.intercept)), float(floor), r2, sse, float(line.stderr)
    )


def fit_power_law(tokens: Sequence[float], ppl: Sequence[float]) -> PowerLaw:
    """Least squares of ln ppl on ln tokens (no floor)."""
    t, p = _checked(tokens, ppl)
    return _law(t, p, 0.0)


def fit_with_floor(tokens: Sequence[float], ppl: Sequence[float]) -> PowerLaw:
    """Best floor from 0 to just under the smallest perplexity; needs >= 3 sizes.

    Three parameters: with four sizes one degree of freedom is left, so read the interval.
    """
    t, p = _checked(tokens, ppl)
    if len(np.unique(t)) < 3:
        raise ValueError("a law with a floor has three parameters; at least three sizes are needed")
    found = scipy.optimize.minimize_scalar(
        lambda floor: _law(t, p, floor).sse,
        bounds=(0.0, HIGHEST * p.min()),
        method="bounded",
        options={"xatol": 1e-6 * p.min()},
    )
    # the search never tries the bounds themselves, and no floor is a bound
    return min((_law(t, p, floor) for floor in (0.0, found.x)), key=lambda law: law.sse)


def residual_interval(tokens: Sequence[float], ppl: Sequence[float]) -> tuple[float, float]:
    """95 % interval of alpha from the residuals of one least-squares line (Student, n - 2).

    This is what four points of one run can say: for the report's table -0.58 to -0.34.
    """
    t, p = _checked(tokens, ppl)
    if len(t) < 3:
        raise ValueError("at least three points are needed for an interval")
    law = _law(t, p, 0.0)
    width = scipy.stats.t.ppf(0.975, len(t) - 2) * law.error
    return law.alpha - width, law.alpha + width
