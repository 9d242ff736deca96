"""Contexts of a whole token stream by three ways behind one door (seed 003).

* ``sequential``  the exact recurrence, token after token.
* ``documents``   the exact recurrence inside each document (state reset at document starts), all
                  documents advanced together as one batch.
* ``parallel``    sweeps over all tokens at once with the previous sweep's contexts shifted by one
                  (Jacobi iteration). After k sweeps a context has seen k tokens and the first k
                  contexts are exact; how near the others are depends on how fast the cell forgets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib.context.block import ContextBlock

METHODS = ("sequential", "documents", "parallel")
CHUNK = 4096  # tokens per batched pass: bounds the memory of one sweep


@dataclass(frozen=True)
class Contexts:
    """Final-layer contexts [N, D] and how they were made.

    ``change`` is the relative change of each sweep; ``error`` the relative error against the exact
    recurrence over the first ``checked`` tokens (None when nothing was checked or not needed).
    """

    final: Tensor
    method: str
    sweeps: int = 0
    change: list[float] = field(default_factory=list)
    error: float | None = None
    checked: int = 0


def zero_start(block: ContextBlock, x: Tensor) -> Tensor:
    """The context [D] before the first token of a stream x [N, m*d]: zeros."""
    return x.new_zeros(block.context_dim)


def shifted(table: Tensor, start: Tensor) -> Tensor:
    """Previous contexts [N, D]: row i holds table[i-1], row 0 holds `start` [D]."""
    return torch.cat([start[None], table[:-1]])


@torch.no_grad()
def sequential_naive(block: ContextBlock, x: Tensor, start: Tensor | None = None) -> Tensor:
    """Exact recurrence with one full block call per token: the reference of the tests."""
    context = (zero_start(block, x) if start is None else start)[None]
    rows = []
    for token in x:
        context = block(context, token[None])[-1]
        rows.append(context)
    return torch.cat(rows)


@torch.no_grad()
def sequential(block: ContextBlock, x: Tensor, start: Tensor | None = None) -> Tensor:
    """Exact recurrence [N, D]; the token halves of all layers are computed in one product first."""
    context = (zero_start(block, x) if start is None else start)[None]
    final = x.new_empty(x.shape[0], block.context_dim)
    for begin in range(0, x.shape[0], CHUNK):
        halves = block.token_halves(x[begin : begin + CHUNK])
        for i in range(min(CHUNK, x.shape[0] - begin)):
            here = [half[i : i + 1] if half.dim() == 2 else half for half in halves]
            context = block.step(context, here)[-1]
            final[begin + i] = context[0]
    return final


@torch.no_grad()
def documents(block: ContextBlock, x: Tensor, lengths: list[int]) -> Tensor:
    """Exact recurrence inside each document, documents advanced together: [N, D].

    `lengths` are the documents' token counts in stream order; each starts from the zero context.
    """
    if sum(lengths) != x.shape[0] or min(lengths, default=0) < 1:
        raise ValueError("lengths must be positive and add up to the number of tokens")
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    order = sorted(range(len(lengths)), key=lambda d: -lengths[d])
    first = starts[order]
    final = x.new_empty(x.shape[0], block.context_dim)
    context = x.new_zeros(len(lengths), block.context_dim)
    active = len(lengths)
    for t in range(lengths[order[0]]):
        while lengths[order[active - 1]] <= t:
            active -= 1
        rows = first[:active] + t
        context = block(context[:active], x[rows])[-1]
        final[rows] = context
    return final


@torch.no_grad()
def sweep(block: ContextBlock, previous: Tensor, x: Tensor) -> Tensor:
    """One batched pass over all tokens: previous contexts [N, D], x [N, m*d] -> [N, D]."""
    parts = [
        block(previous[i : i + CHUNK], x[i : i + CHUNK])[-1] for i in range(0, x.shape[0], CHUNK)
    ]
    return torch.cat(parts)


@torch.no_grad()
def parallel(
    block: ContextBlock,
    x: Tensor,
    sweeps: int,
    start: Tensor | None = None,
    tolerance: float = 0.0,
) -> tuple[Tensor, list[float]]:
    """At most `sweeps` sweeps from zero contexts; stops once the change is <= tolerance."""
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; at least one sweep is needed")
    start = zero_start(block, x) if start is None else start
    table = x.new_zeros(x.shape[0], block.context_dim)
    changes: list[float] = []
    for _ in range(sweeps):
        new = sweep(block, shifted(table, start), x)
        changes.append(relative_error(table, new))
        table = new
        if changes[-1] <= tolerance:
            break
    return table, changes


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """Mean over rows of |a - e| / |e|."""
    return ((approximate - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-12)).mean().item()


def compute_contexts(
    block: ContextBlock,
    x: Tensor,
    method: str,
    *,
    start: Tensor | None = None,
    lengths: list[int] | None = None,
    sweeps: int = 8,
    tolerance: float = 0.0,
    check: int = 0,
) -> Contexts:
    """Contexts of a stream x [N, m*d] by one of METHODS.

    `check` > 0 compares a parallel result with the exact recurrence on the first `check` tokens.
    Raises ValueError for an unknown method, or for ``documents`` without lengths or with a start.
    """
    if method == "sequential":
        return Contexts(sequential(block, x, start), method)
    if method == "documents":
        if lengths is None or start is not None:
            raise ValueError("documents needs `lengths` and always starts from the zero context")
        return Contexts(documents(block, x, lengths), method)
    if method != "parallel":
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    final, changes = parallel(block, x, sweeps, start, tolerance)
    error, checked = None, min(check, x.shape[0])
    if checked:
        error = relative_error(final[:checked], sequential(block, x[:checked], start))
    return Contexts(final, method, len(changes), changes, error, checked)


@torch.no_grad()
def layer_outputs(
    block: ContextBlock, final: Tensor, x: Tensor, starts: Tensor | None = None
) -> list[Tensor]:
    """Outputs of every layer [N, D_l] given final contexts: one batched pass, no recurrence.

    `starts` are the rows that begin a document (zero previous context); default: row 0 only.
    """
    previous = shifted(final, final.new_zeros(final.shape[1]))
    if starts is not None:
        previous[starts] = 0.0
    chunks = [block(previous[i : i + CHUNK], x[i : i + CHUNK]) for i in range(0, x.shape[0], CHUNK)]
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]
