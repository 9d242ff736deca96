"""When a token may stop: scores of exits, thresholds calibrated to a cost, random and best exits.

Every score is turned so that a token stops at the first exit where it reaches the threshold. One
threshold serves all exits of a rule. A set of exits is part of the rule: what is not in it is not
read and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from lib.depth.flops import Costs

HEAD_RULES = ("confidence", "entropy", "margin")  # the head reads at every exit that is asked
STATE_RULES = ("similarity", "second_difference", "gate")  # read once, where the token stops
RULES = (*HEAD_RULES, *STATE_RULES)
GATES = {"similarity": 3.0, "second_difference": 5.0, "gate": 1.0}  # widths of multiplications


@dataclass(frozen=True)
class Table:
    """What is known of tokens in window order: ``loss`` [exits + 1, N] (the last read-out last),
    ``scores`` rule -> [exits, N], ``exits`` layers, ``length`` tokens a window."""

    loss: Tensor
    scores: dict[str, Tensor]
    exits: tuple[int, ...]
    depth: int
    length: int


def state_score(rule: str, recent: Sequence[Tensor]) -> Tensor:
    """Score [...] of the last three states [..., d] of a token for a rule that needs no head."""
    first, second, third = recent
    if rule == "similarity":
        return torch.cosine_similarity(second, third, dim=-1)
    bend = (third - 2 * second + first).norm(dim=-1)
    return -bend / third.norm(dim=-1)


def head_scores(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the rules that read the head, from its statistics."""
    return {rule: -found[rule] if rule == "entropy" else found[rule] for rule in HEAD_RULES}


def subsets(exits: int) -> Iterator[tuple[int, ...]]:
    """Every set of exits by index, none left out but the empty one."""
    for size in range(1, exits + 1):
        yield from combinations(range(exits), size)


def stops(scores: Tensor, chosen: tuple[int, ...], threshold: float) -> Tensor:
    """Index of the read-out where each token stops [N]; the number of exits stands for the last."""
    exits, tokens = scores.shape
    found = torch.full((tokens,), exits, device=scores.device)
    for index in reversed(chosen):
        found = torch.where(scores[index] >= threshold, index, found)
    return found


def token_costs(
    table: Table, at: Tensor, chosen: tuple[int, ...], rule: str, costs: Costs, keys: bool = True
) -> Tensor:
    """Cost of each token [N] relative to the base.

    ``keys``: keys and values of the layers above a stop are counted.
    """
    layers = torch.tensor([*table.exits, table.depth], dtype=torch.float64, device=at.device)[at]
    asked = sum((at >= index).double() for index in chosen)  # exits that were asked
    last = (at == len(table.exits)).double()
    heads = asked + last if rule in HEAD_RULES else torch.ones_like(layers)
    gates = asked * GATES.get(rule, 0.0)
    above = (table.depth - layers) * keys
    spent = layers * costs.layer + above * costs.keys + heads * costs.head + gates * costs.gate
    return spent / costs.base


def recomputed_costs(
    table: Table, at: Tensor, chosen: tuple[int, ...], rule: str, costs: Costs
) -> Tensor:
    """Cost of each token [N] if its skipped layers are run as soon as a later token of its window
    goes deeper and needs their keys and values."""
    layers = torch.tensor([*table.exits, table.depth], dtype=torch.float64, device=at.device)[at]
    needed = layers.view(-1, table.length).flip(1).cummax(1).values.flip(1).flatten()
    own = token_costs(table, at, chosen, rule, costs, keys=False)
    return own + (needed - layers) * costs.layer / costs.base


def calibrate(
    table: Table, rule: str, chosen: tuple[int, ...], costs: Costs, target: float
) -> float | None:
    """The highest threshold whose mean cost on a table does not exceed ``target``; None if none.

    A lower threshold stops tokens earlier and so costs less: the sorted scores are bisected.
    """
    scores = table.scores[rule]
    steps = torch.cat([scores[list(chosen)].flatten(), scores.new_tensor([float("inf")])])
    steps = steps.unique()  # ascending

    def cost(threshold: float) -> float:
        at = stops(scores, chosen, threshold)
        return token_costs(table, at, chosen, rule, costs).mean().item()

    low, high = 0, len(steps) - 1
    if cost(steps[low].item()) > target:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if cost(steps[middle].item()) <= target:
            low = middle
        else:
            high = middle - 1
    return steps[low].item()


def loss_at(table: Table, at: Tensor) -> Tensor:
    """Loss of each token [N] where it stops."""
    return table.loss.gather(0, at[None])[0]


def rates(table: Table, at: Tensor) -> list[float]:
    """Share of tokens that stop at each read-out."""
    count = torch.bincount(at, minlength=len(table.exits) + 1).double()
    return (count / count.sum()).tolist()


def random_loss(table: Table, shares: Sequence[float]) -> float:
    """Mean loss if every token stops at random with these shares: an expectation, not a draw."""
    means = table.loss.double().mean(dim=1)
    return sum(s * m for s, m in zip(shares, means.tolist(), strict=True))


def best_stops(table: Table, costs: Costs, target: float) -> Tensor | None:
    """The stops [N] of least loss whose mean cost is at most ``target``: known only afterwards.

    Every token takes the read-out of least loss + price x cost, the price by bisection. None if
    even the first exit for all costs more.
    """
    everywhere = tuple(range(len(table.exits)))
    price = torch.stack(
        [
            token_costs(table, torch.full((1,), i), everywhere, "oracle", costs)[0]
            for i in range(len(table.exits) + 1)
        ]
    ).to(table.loss)
    if price[0] > target:
        return None
    low, high = 0.0, 1e4
    for _ in range(50):
        middle = (low + high) / 2
        at = (table.loss + middle * price[:, None]).argmin(dim=0)
        low, high = (middle, high) if price[at].double().mean() > target else (low, middle)
    return (table.loss + high * price[:, None]).argmin(dim=0)
