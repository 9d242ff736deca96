"""Text written token by token with a cache, each method at its own depth.

``Session.feed`` runs new tokens and gives the logits of the next one; what was fed before lies in
the cache. A token that stops early gives keys and values to all later layers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lib.depth import forward, rules
from lib.depth.exit_gate import ExitGate
from lib.depth.forward import Cache
from lib.depth.llama import Llama
from lib.depth.methods import Method
from lib.depth.reading import statistics


@dataclass(frozen=True)
class Policy:
    """How a network is run: the rule of its exits, or the threshold of its gate or second pass.

    ``rule`` empty: every token takes all layers, or the whole of the method. ``threshold`` None
    stops nowhere. ``gate`` serves the rule of that name. ``mix`` is that of an untrained second
    pass.
    """

    rule: str = ""
    threshold: float | None = None
    exits: tuple[int, ...] = ()
    gate: ExitGate | None = field(default=None, compare=False)
    mix: float = 1.0

    @classmethod
    def at(cls, point: Mapping[str, Any], gate: ExitGate | None = None) -> Policy:
        """The policy of a row of the table ``points``; ``gate`` holds the exits' gates."""
        own, threshold = {}, point.get("threshold")
        if point["rule"] in rules.RULES:
            exits = tuple(int(e) for e in point["exits"].split())
            own = {"rule": point["rule"], "exits": exits}
        if point.get("mix") is not None:
            own["mix"] = point["mix"]
        return cls(threshold=threshold, gate=gate, **own)


def usable(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The points of valid that a user would run: whole networks, rules with propagated keys."""
    valid = [row for row in points if row["split"] == "valid" and row["rule"] != "random"]
    return [row for row in valid if row["rule"] == "fixed" or row["keys"] == "propagated"]


class Stop:
    """Decides which tokens stop at an exit.

    With ``keep``, ``logits`` [B, T, V] are those that were read last to decide (None: none were).
    """

    def __init__(self, llama: Llama, method: Method, policy: Policy, keep: bool = False):
        self.llama, self.method, self.policy, self.keep = llama, method, policy, keep
        self.logits: Tensor | None = None

    def __call__(self, layers: int, recent: list[Tensor], active: Tensor) -> Tensor:
        policy = self.policy
        if policy.threshold is None:
            return torch.zeros_like(active)
        now = recent[-1][active]  # [N, d]
        if policy.rule in rules.HEAD_RULES and self.keep:
            score = self._read(now, active)
        elif policy.rule in rules.HEAD_RULES:
            found = statistics(self.llama, now, now.new_zeros(len(now), dtype=torch.long))
            score = rules.head_scores(found)[policy.rule]
        elif policy.rule == "gate":
            score = policy.gate.score(self.method.exits.index(layers), self.llama.read(now))
        else:
            score = rules.state_score(policy.rule, [x[active] for x in recent])
        return torch.zeros_like(active).masked_scatter(active, score >= policy.threshold)

    def _read(self, now: Tensor, active: Tensor) -> Tensor:
        logits = self.llama.logits(now)
        if self.logits is None:
            self.logits = logits.new_empty(*active.shape, logits.shape[1])
        self.logits[active] = logits
        logs = logits.log_softmax(-1)
        if self.policy.rule == "entropy":
            return (logs.exp() * logs).sum(-1)
        best = logs.topk(2, dim=-1).values.exp()
        return best[:, 0] - (best[:, 1] if self.policy.rule == "margin" else 0.0)


class Session:
    """A batch of texts of equal length, and what the network remembers of them."""

    def __init__(self, llama: Llama, method: Method, policy: Policy | None = None):
        self.llama, self.method, self.policy = llama, method, policy or Policy()
        self.cache = Cache()

    def feed(self, ids: Tensor) -> Tensor:
        """Run new tokens [B, T]; logits [B, V] of what follows the last one."""
        if ids.shape[1] == 1:
            logits = self.logits(ids)[:, -1]
        else:
            logits = self.llama.logits(self._states(ids)[0][:, -1])
        self.cache.length += ids.shape[1]
        return logits

    def logits(self, ids: Tensor) -> Tensor:
        """Logits [B, T, V] of all new tokens. What an exit has read is not read again."""
        stop = Stop(self.llama, self.method, self.policy, keep=True)
        states, depth = self._states(ids, stop)
        if stop.logits is None:
            return self.llama.logits(states)
        last = depth == len(self.llama.layers)
        stop.logits[last] = self.llama.logits(states[last])
        return stop.logits

    def _states(self, ids: Tensor, stop: Stop | None = None) -> tuple[Tensor, Tensor | None]:
        """States [B, T, d] that the head reads; after how many layers [B, T] where exits decide."""
        llama, method, policy, cache = self.llama, self.method, self.policy, self.cache
        if method.exits and policy.rule:
            stop = stop or Stop(llama, method, policy)
            return forward.with_exits(llama, ids, policy.exits, stop, cache)
        if method.gated is not None:
            least = policy.threshold if policy.threshold is not None else float("-inf")
            states, *_ = forward.through_gated(llama, ids, method.gated, lambda x: x > least, cache)
            return states, None
        if method.again is not None:
            return self._again(ids), None
        return forward.through(llama, ids, cache=cache)[-1], None

    def _again(self, ids: Tensor) -> Tensor:
        block, policy = self.method.again, self.policy
        before, after, pairs = forward.first_pass(self.llama, ids, block, self.cache)
        active = torch.ones_like(ids, dtype=torch.bool)
        if block.which == "hard" and policy.threshold is not None:
            entropy = statistics(self.llama, after, torch.zeros_like(ids))["entropy"]
            active = entropy > policy.threshold
        mix = self.llama.extras.get("mix", policy.mix)
        return forward.second_pass(self.llama, block, before, after, pairs, active, mix, self.cache)


def repetition(ids: Tensor, length: int = 4) -> float:
    """Share of the groups of ``length`` tokens of texts [B, T] that stand in their text before;
    mean over texts. seq-rep-4 of Welleck et al. (2020). Raises ValueError for shorter texts."""
    if ids.shape[1] < length:
        raise ValueError(f"texts of {ids.shape[1]} tokens hold no {length}; allowed: longer ones")
    shares = []
    for text in ids.unfold(1, length, 1):  # [T - length + 1, length]
        shares.append(1 - len(text.unique(dim=0)) / len(text))
    return sum(shares) / len(shares)


@torch.inference_mode()
def write(
    session: Session, ids: Tensor, tokens: int, draw: torch.Generator | None = None
) -> Tensor:
    """``tokens`` new tokens after ids [B, T]: the likeliest, or drawn; [B, tokens]."""
    found = []
    for _ in range(tokens):
        logits = session.feed(ids)
        if draw is None:
            ids = logits.argmax(-1, keepdim=True)
        else:
            ids = torch.multinomial(logits.softmax(-1), 1, generator=draw)
        found.append(ids)
    return torch.cat(found, dim=1)
