"""What each layer does to easy, medium and hard symbols: loss through the shared head, and change.

Source: R4, Experiment 8.
"""

import numpy as np
from torch import Tensor

from lib.character.analysis.difficulty import GROUPS


def residual_norms(states: list[Tensor]) -> list[np.ndarray]:
    """Euclidean size of what each block changed, one array (N,) a layer, from states (N, d).

    In a post-norm block this is bounded by the norm gains: the first block turns an embedding of
    size 0.2 into a vector of size sqrt(d), whatever the symbol.
    """
    return [
        (after - before).norm(dim=-1).numpy()
        for before, after in zip(states[:-1], states[1:], strict=True)
    ]


def by_group(losses: list[np.ndarray], norms: list[np.ndarray], group: np.ndarray) -> list[dict]:
    """One row a layer and group: how many symbols, mean loss in nats, mean residual norm."""
    return [
        {
            "layer": layer,
            "group": name,
            "count": int((group == index).sum()),
            "loss": float(loss[group == index].mean()),
            "norm": float(norm[group == index].mean()),
        }
        for layer, (loss, norm) in enumerate(zip(losses, norms, strict=True), start=1)
        for index, name in enumerate(GROUPS)
    ]
