"""Forward passes of the methods, for training, evaluation and generation.

Everything here runs layer by layer over all new tokens, tokens that have stopped or skip standing
still. Since keys and values of a token depend on its own state and earlier tokens only, this gives
the numbers of running the tokens one after the other (a test does both). With a ``Cache`` the new
tokens continue a text that was run before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.depth.llama import Llama, Pair, run_layer
from lib.depth.methods import Again, Gated

Decide = Callable[[int, list[Tensor], Tensor], Tensor]


@dataclass
class Room:
    """Keys and values [B, kv heads, room, head width] of a layer, the first ``filled`` in use.

    Room is made ahead of need, so that a token more copies its own pair only.
    """

    pair: Pair
    filled: int = 0

    def add(self, new: Pair) -> Pair:
        """Append those of new tokens; all that are in use."""
        start, size = self.filled, self.pair[0].shape[2]
        self.filled += new[0].shape[2]
        if self.filled > size:
            more = max(self.filled, 2 * size) - size
            self.pair = tuple(F.pad(old, (0, 0, 0, more)) for old in self.pair)
        for kept, own in zip(self.pair, new, strict=True):
            kept[:, :, start : self.filled] = own
        return tuple(kept[:, :, : self.filled] for kept in self.pair)


@dataclass
class Cache:
    """Keys and values of ``length`` tokens so far, by layer; those of a second pass by a name of
    their own."""

    rooms: dict[Hashable, Room] = field(default_factory=dict)
    length: int = 0

    def add(self, name: Hashable, new: Pair) -> Pair:
        """Append the keys and values of new tokens; those of all tokens of that name."""
        if name not in self.rooms:
            self.rooms[name] = Room(tuple(part[:, :, :0] for part in new))
        return self.rooms[name].add(new)

    def cut(self, length: int) -> None:
        """Forget all tokens after the first ``length``."""
        for room in self.rooms.values():
            room.filled = min(room.filled, length)
        self.length = length


class Pass:
    """The layers over new tokens ids [B, T], which continue what a cache holds."""

    def __init__(self, llama: Llama, tokens: int, cache: Cache | None):
        self.llama, self.cache = llama, cache
        self.rotation = llama.rotation(cache.length if cache is not None else 0, tokens)

    def layer(
        self,
        number: int,
        x: Tensor,
        active: Tensor | None = None,
        others: Pair | None = None,
        name: Hashable = None,
    ) -> tuple[Tensor, Pair]:
        """``run_layer``; ``name`` is that of the keys in the cache, the layer's number if none."""
        name = number if name is None else name
        extend = partial(self.cache.add, name) if self.cache is not None else None
        return run_layer(self.llama, number, x, self.rotation, active, extend, others)


def through(
    llama: Llama, ids: Tensor, dropout: Tensor | None = None, cache: Cache | None = None
) -> list[Tensor]:
    """States [B, T, d] before the first layer and after each: layers + 1 of them.

    ``dropout`` [layers, B] bool: windows that skip a layer.
    """
    x, passing = llama.embed(ids), Pass(llama, ids.shape[1], cache)
    states = [x]
    for number in range(len(llama.layers)):
        moved, _ = passing.layer(number, x)
        if dropout is not None:
            moved = torch.where(dropout[number][:, None, None], x, moved)
        x = moved
        states.append(x)
    return states


def with_exits(
    llama: Llama, ids: Tensor, exits: tuple[int, ...], decide: Decide, cache: Cache | None = None
) -> tuple[Tensor, Tensor]:
    """States where each token stopped [B, T, d] and after how many layers [B, T].

    ``decide(exit, states, active)``: after layer ``exit``, which of the ``active`` [B, T] tokens
    stop; ``states`` are those before the last two layers, before the last, and now. A token that
    has stopped gives keys and values to all later layers from the state in which it stopped.
    """
    x, passing = llama.embed(ids), Pass(llama, ids.shape[1], cache)
    active = torch.ones_like(ids, dtype=torch.bool)
    depth = torch.full_like(ids, len(llama.layers))
    recent = [x, x]
    for number in range(len(llama.layers)):
        if cache is None and not bool(active.any()):
            break
        x, _ = passing.layer(number, x, active)
        recent = [*recent[-2:], x]
        if number + 1 in exits and bool(active.any()):
            stops = decide(number + 1, recent, active) & active
            depth = torch.where(stops, number + 1, depth)
            active = active & ~stops
    return x, depth


def gate_logits(llama: Llama, x: Tensor) -> Tensor:
    """What the gate of a block says of states [B, T, d] -> [B, T]."""
    return llama.read(x) @ llama.extras["gate"] + llama.extras["gate_bias"]


def through_gated(
    llama: Llama,
    ids: Tensor,
    block: Gated,
    opens: Callable[[Tensor], Tensor],
    cache: Cache | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Last states [B, T, d], gate logits [B, T] and which tokens the block moved [B, T].

    ``opens(logits)`` decides. The gradient of the gate is that of a factor 1 on what the block
    adds (straight-through).
    """
    x, passing = llama.embed(ids), Pass(llama, ids.shape[1], cache)
    logits = active = before = None
    for number in range(len(llama.layers)):
        if number == block.first:
            logits = gate_logits(llama, x)
            active, before = opens(logits), x
        inside = block.first <= number < block.last
        x, _ = passing.layer(number, x, active if inside else None)
        if number + 1 == block.last and torch.is_grad_enabled():
            p = logits.sigmoid()
            x = before + (x - before) * (1 + p - p.detach())[..., None]
    return x, logits, active


def first_pass(
    llama: Llama, ids: Tensor, block: Again, cache: Cache | None = None
) -> tuple[Tensor, Tensor, list[Pair]]:
    """States before and after the block, and the keys and values of its layers."""
    x, passing = llama.embed(ids), Pass(llama, ids.shape[1], cache)
    pairs, before = [], x
    for number in range(block.last):
        if number == block.first:
            before = x
        x, pair = passing.layer(number, x)
        if number >= block.first:
            pairs.append(pair)
    return before, x, pairs


def second_pass(
    llama: Llama,
    block: Again,
    before: Tensor,
    after: Tensor,
    pairs: list[Pair],
    active: Tensor,
    mix: Tensor | float,
    cache: Cache | None = None,
) -> Tensor:
    """Last states [B, T, d]: the block once more over ``active`` tokens, then what follows it.

    Tokens that are not active keep ``after``.
    """
    passing = Pass(llama, active.shape[1], cache)
    x = torch.where(active[..., None], before + mix * (after - before), after)
    for number in range(block.first, block.last):
        others = pairs[number - block.first]
        x, _ = passing.layer(number, x, active, others, f"again {number}")
    for number in range(block.last, len(llama.layers)):
        x, _ = passing.layer(number, x)
    return x


def highest(values: Tensor, share: float) -> Tensor:
    """Which values [B, T] are among the highest ``share`` of them all, bool [B, T]."""
    count = round(share * values.numel())
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    chosen[values.flatten().topk(count).indices] = True
    return chosen.view_as(values)
