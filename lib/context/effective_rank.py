"""Effective rank of a context table, the report's definition and a centred one side by side.

The report takes the entropy of the plain singular values of the *un-centred* table, which a common
mean lowers and which grows with the number of rows. Roy & Vetterli (2007) name the same functional;
the covariance form (entropy of the eigenvalues of the centred covariance) is the usual one for
representations. The two must not be compared with each other.
"""

import torch
from torch import Tensor

MAX_ROWS = 10_000  # the report takes a random subset of this many rows


def _entropy_rank(weights: Tensor) -> float:
    p = weights / weights.sum()
    p = p[p > 0]
    return torch.exp(-(p * p.log()).sum()).item()


def _rows(table: Tensor) -> Tensor:
    if table.dim() != 2 or min(table.shape) < 1:
        raise ValueError(f"a table [rows, dims] is needed, not a tensor of shape {table.shape}")
    if table.shape[0] > MAX_ROWS:
        generator = torch.Generator().manual_seed(0)
        table = table[torch.randperm(table.shape[0], generator=generator)[:MAX_ROWS]]
    if not torch.isfinite(table).all():
        raise ValueError("the table holds values that are not finite")
    return table.double()


def _singular_values(table: Tensor) -> Tensor:
    # eigenvalues of the Gram matrix: D x D instead of N x D, in double precision
    return torch.linalg.eigvalsh(table.t() @ table).clamp_min(0).sqrt()


def effective_rank(table: Tensor) -> float:
    """exp(entropy of singular values) of the un-centred table [n, D]; 1 to D (R3)."""
    rows = _rows(table)
    values = _singular_values(rows)
    if values.sum() == 0:
        raise ValueError("the table is all zeros; its effective rank is not defined")
    return _entropy_rank(values)


def covariance_rank(table: Tensor) -> float:
    """exp(entropy of covariance eigenvalues) of the centred table [n, D]; between 1 and D."""
    rows = _rows(table)
    rows = rows - rows.mean(0)
    values = _singular_values(rows).square()
    if values.sum() == 0:
        raise ValueError("all rows are equal; the covariance effective rank is not defined")
    return _entropy_rank(values)


def rank_shares(table: Tensor) -> dict[str, float | None]:
    """Both ranks in per cent of the width; None for that of equal rows, which have no spread."""
    width = table.shape[1]
    return {
        "er_pct": 100 * effective_rank(table) / width,
        "covariance_er_pct": None if _all_equal(table) else 100 * covariance_rank(table) / width,
    }


def _all_equal(table: Tensor) -> bool:
    rows = _rows(table)
    return bool(((rows - rows.mean(0)) == 0).all())
