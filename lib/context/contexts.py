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
    """Final-layer contexts [N, D] and the relative change of each sweep (parallel only)."""

    final: Tensor
    changes: list[float] = field(default_factory=list)


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


def document_starts(lengths: list[int]) -> Tensor:
    """Rows [number of documents] at which documents of `lengths` tokens begin in their stream."""
    return torch.tensor([0, *lengths[:-1]]).cumsum(0)


@torch.no_grad()
def documents(block: ContextBlock, x: Tensor, lengths: list[int]) -> Tensor:
    """Exact recurrence inside each document, documents advanced together: [N, D].

    `lengths` are the documents' token counts in stream order; each starts from the zero context.
    """
    if sum(lengths) != x.shape[0] or min(lengths, default=0) < 1:
        raise ValueError("lengths must be positive and add up to the number of tokens")
    starts = document_starts(lengths)
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
    tolerance: float = 0.0,
) -> tuple[Tensor, list[float]]:
    """At most `sweeps` sweeps from zero contexts; stops once the change is <= tolerance."""
    if sweeps < 1:
        raise ValueError(f"sweeps is {sweeps}; at least one sweep is needed")
    start = zero_start(block, x)
    table = x.new_zeros(x.shape[0], block.context_dim)
    changes: list[float] = []
    for _ in range(sweeps):
        new = sweep(block, shifted(table, start), x)
        changes.append(relative_error(table, new))
        table = new
        if changes[-1] <= tolerance:
            break
    return table, changes


def cut_contexts(block: ContextBlock, x: Tensor, memory: int) -> Tensor:
    """Table [N, D] from which `layer_outputs` makes contexts of the last `memory` tokens only.

    `layer_outputs` applies the block once more, so this is `memory` - 1 sweeps (1: all zeros): row
    i of the layer contexts depends on tokens i - memory + 1 .. i and on no other.
    Raises ValueError when `memory` is below 1.
    """
    if memory < 1:
        raise ValueError(f"memory is {memory}; a context has seen at least its own token")
    if memory == 1:
        return x.new_zeros(x.shape[0], block.context_dim)
    return parallel(block, x, memory - 1)[0]


def relative_error(approximate: Tensor, exact: Tensor) -> float:
    """Mean over rows of |a - e| / |e|."""
    return ((approximate - exact).norm(dim=1) / exact.norm(dim=1).clamp_min(1e-12)).mean().item()


def compute_contexts(
    block: ContextBlock,
    x: Tensor,
    method: str,
    *,
    lengths: list[int] | None = None,
    sweeps: int = 8,
    tolerance: float = 0.0,
) -> Contexts:
    """Contexts of a stream x [N, m*d] by one of METHODS.

    Raises ValueError for an unknown method, or for ``documents`` without lengths.
    """
    if method == "sequential":
        return Contexts(sequential(block, x))
    if method == "documents":
        if lengths is None:
            raise ValueError("documents needs `lengths`")
        return Contexts(documents(block, x, lengths))
    if method != "parallel":
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    return Contexts(*parallel(block, x, sweeps, tolerance))


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
