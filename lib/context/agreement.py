"""How near two context tables are: cosine, squared and relative error, by position (R3)."""

import torch
from torch import Tensor

from lib.context.contexts import relative_error


def agreement(parallel: Tensor, exact: Tensor) -> dict[str, float]:
    """Two tables [N, D] -> cos_mean, cos_min, mse, rel_err (mean of |P-S|/|S| over rows).

    Raises ValueError when the shapes differ.
    """
    if parallel.shape != exact.shape:
        raise ValueError(f"tables differ in shape: {parallel.shape} and {exact.shape}")
    cosine = torch.cosine_similarity(parallel, exact, dim=1)
    gap = parallel - exact
    return {
        "cos_mean": cosine.mean().item(),
        "cos_min": cosine.min().item(),
        "mse": gap.square().mean().item(),
        "rel_err": relative_error(parallel, exact),
    }


def by_position(parallel: Tensor, exact: Tensor) -> list[dict]:
    """Agreement of the first, the middle and the last 100 tokens (whole table if shorter)."""
    n = exact.shape[0]
    size = min(100, n)
    middle = max(0, (n - size) // 2)
    places = {"first": 0, "middle": middle, "last": n - size}
    return [
        {"position": name, "tokens": size} | agreement(parallel[i : i + size], exact[i : i + size])
        for name, i in places.items()
    ]
