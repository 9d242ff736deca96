"""Contexts of a whole token stream, by several ways (R3).

* ``sequential``  the exact recurrence. ``steps`` walks token after token; ``lanes`` cuts a long
                  stream into lanes that advance together, each begun ``BURN`` tokens early from
                  zeros. A cell that forgets has the exact state by then, which is checked at every
                  border: the lane before arrives there with the true one. ``exact`` takes lanes
                  where they pass, else steps.
* ``documents``   the exact recurrence inside each document (state reset at document starts), all
                  documents advanced together as one batch.
* ``parallel``    sweeps over all tokens at once with the previous sweep's contexts shifted by one
                  (Jacobi iteration). After k sweeps a context has seen k tokens and the first k
                  contexts are exact; how near the others are depends on how fast the cell forgets.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lib.context.block import ContextBlock

CHUNK = 4096  # tokens per batched pass: bounds the memory of one sweep
LANES, BURN = 64, 40
WORTH = 4 * BURN  # tokens a lane from which lanes are worth their early begin
LANE_ERROR = 1e-5  # largest relative error at a border; rounding alone makes about 1e-6


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


def _stepper(block: ContextBlock) -> Callable[[Tensor, list[Tensor]], Tensor]:
    """c_t [D] from c_{t-1} [D] and the token halves: matrix times vector on contiguous weights.

    At one token a step the weights' way from memory is all of the cost.
    """
    parts = []
    for layer in block.layers:
        weight = layer.linear.weight[:, : layer.a].contiguous()
        residual = layer.residual and (layer.residual.weight, layer.residual.bias)
        parts.append((weight, residual, layer.a == layer.b, layer.norm))

    def step(h: Tensor, halves: list[Tensor]) -> Tensor:
        for (weight, residual, equal, norm), half in zip(parts, halves, strict=True):
            delta = torch.addmv(half, weight, h).relu_()
            if residual:
                delta += torch.addmv(residual[1], residual[0], h)
            elif equal:
                delta += h
            h = torch.layer_norm(delta, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return h

    return step


@torch.no_grad()
def steps(block: ContextBlock, x: Tensor, start: Tensor | None = None) -> Tensor:
    """Exact recurrence [N, D], token after token; the token halves are computed in chunks first."""
    context = zero_start(block, x) if start is None else start
    final = x.new_empty(x.shape[0], block.context_dim)
    step = _stepper(block)
    for begin in range(0, x.shape[0], CHUNK):
        halves = block.token_halves(x[begin : begin + CHUNK])
        for i in range(min(CHUNK, x.shape[0] - begin)):
            context = step(context, [half[i] if half.dim() == 2 else half for half in halves])
            final[begin + i] = context
    return final


@torch.no_grad()
def lanes(
    block: ContextBlock, x: Tensor, start: Tensor | None = None, count: int = LANES
) -> tuple[Tensor, float]:
    """Contexts [N, D] by `count` lanes, and the largest relative error at a border.

    The error is that of the state with which a lane begins against the one with which the lane
    before arrives. Raises ValueError for a stream shorter than BURN tokens a lane.
    """
    n, length = x.shape[0], -(-x.shape[0] // count)
    if length < BURN:
        raise ValueError(f"{n} tokens are too few for {count} lanes of at least {BURN}")
    count = -(-n // length)
    first = torch.arange(count) * length
    final = x.new_empty(count, length, block.context_dim)
    context = x.new_zeros(count, block.context_dim)
    for t in range(-BURN, length):
        if t == 0:
            context[0] = zero_start(block, x) if start is None else start
            begun = context.clone()
        # lane 0 begins at its start whatever it read before; the last lane may end early
        context = block(context, x[(first + t).clamp(0, n - 1)])[-1]
        if t >= 0:
            final[:, t] = context
    arrived = final[:-1, -1]
    gap = (begun[1:] - arrived).norm(dim=1) / arrived.norm(dim=1).clamp_min(1e-12)
    return final.flatten(0, 1)[:n], gap.max().item() if count > 1 else 0.0


def exact(
    block: ContextBlock, x: Tensor, start: Tensor | None = None, least: int = WORTH
) -> tuple[Tensor, str]:
    """The exact recurrence [N, D], and how it was found.

    "lanes" where each would hold `least` tokens (BURN or more) and they pass their check, else
    "steps".
    """
    if x.shape[0] >= least * LANES:
        final, error = lanes(block, x, start, LANES)
        if error <= LANE_ERROR:
            return final, "lanes"
    return steps(block, x, start), "steps"


def sequential(block: ContextBlock, x: Tensor, start: Tensor | None = None) -> Tensor:
    """The exact recurrence [N, D] by `exact`."""
    return exact(block, x, start)[0]


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
    final = x.new_empty(x.shape[0], block.context_dim)
    for i in range(0, x.shape[0], CHUNK):
        final[i : i + CHUNK] = block(previous[i : i + CHUNK], x[i : i + CHUNK])[-1]
    return final


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
    """Table [N, D] that gives layer contexts of the last `memory` tokens only.

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
    found = [x.new_empty(x.shape[0], width) for width in block.widths]
    for i in range(0, x.shape[0], CHUNK):
        outputs = block(previous[i : i + CHUNK], x[i : i + CHUNK])
        for whole, part in zip(found, outputs, strict=True):
            whole[i : i + CHUNK] = part
    return found
