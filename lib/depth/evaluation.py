"""What a trained network is worth at every cost: rows of the table ``points``.

A point is one way to use a network: text and split, rule, exits, threshold, its loss (nats a token)
and its cost relative to the untouched base. ``keys`` says where the keys and values of skipped
layers come from:

* ``propagated``: from the state in which a token stopped; the whole window is run that way.
* ``recomputed``: the skipped layers are run, whole, when a later token needs them; states are
  exact, so the losses are those of one pass through all layers, and the cost is that of the
  recomputation. It is an upper bound: of the last of these layers keys and values would do.
* ``free``: exact states at the cost of propagation. Nobody can run this; it chooses rules and
  thresholds on valid, and compares rules at equal rates.
* ``none``: nothing is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib.depth import forward, rules
from lib.depth.exit_gate import ExitGate
from lib.depth.flops import Costs
from lib.depth.generation import Policy, Stop
from lib.depth.llama import Llama
from lib.depth.methods import Method
from lib.depth.reading import statistics, token_losses
from lib.depth.texts import DepthText, Windows
from lib.runs import files

TARGETS = (0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
AIMS = (0.5, 0.7, 0.9)  # costs at which claims are decided
AGAIN_RATES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
MIXES = (0.1, 0.25, 0.5, 1.0)  # of a second pass that nobody trained
Row = dict[str, Any]


class Pieces:
    """Finished parts of an evaluation, kept until the run is: a killed one goes on from them."""

    def __init__(self, path: Path):
        self.path, self.held = path, files.kept(path, files.read_record) or {}

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """The part of that name, made now if it is not there; plain JSON values only."""
        if name not in self.held:
            self.held[name] = make()
            files.write_record(self.path, self.held)
        return self.held[name]


@dataclass(frozen=True)
class Evaluation:
    """A network for use, its method, costs, text and, of a network with exits, their gates."""

    llama: Llama
    method: Method
    costs: Costs
    text: DepthText
    pieces: Pieces
    seed: int
    gate: ExitGate | None = None

    @property
    def device(self) -> torch.device:
        return self.llama.embedding.device

    @property
    def splits(self) -> list[tuple[str, str, Windows]]:
        """(text, split, windows): valid of both texts together, then the test of each."""
        tests = [(name, "test", self.text.parts[name]["test"]) for name in self.text.texts]
        return [("both", "valid", self.text.joined("valid")), *tests]

    def points(self) -> list[Row]:
        """All points of the network."""
        if self.method.exits:
            return self._exits()
        if self.method.gated is not None:
            return self._gated()
        if self.method.again is not None:
            return self._again()
        return self.pieces("whole", self._whole)

    # ------------------------------------------------------------------ fixed depth

    def _whole(self) -> list[Row]:
        cost = self.costs.relative(self.method.depth)
        found = []
        for text, split, windows in self.splits:
            losses = [
                token_losses(self.llama, forward.through(self.llama, ids)[-1], labels).flatten()
                for ids, labels in windows.batches(self.device)
            ]
            loss = torch.cat(losses).double().mean().item()
            found.append(point(text, split, "fixed", "none", loss, cost, depth=self.method.depth))
        return found

    # ------------------------------------------------------------------ exits

    def _exits(self) -> list[Row]:
        rows = self.pieces("exact", self._exact)
        chosen = [r for r in rows if r["split"] == "valid" and r["keys"] == "free"]
        for rule, row in self.to_propagate(chosen):
            name = f"{rule} {row['target']}"
            rows = rows + self.pieces(name, lambda r=row, n=rule: self._propagated(n, r))
        return rows

    def table(self, windows: Windows) -> rules.Table:
        """Losses and scores of all tokens at all exits, from one pass with exact states."""
        losses: list[Tensor] = []
        scores: dict[str, list[Tensor]] = {rule: [] for rule in rules.RULES}
        for ids, labels in windows.batches(self.device):
            states = forward.through(self.llama, ids)
            own: dict[str, list[Tensor]] = {rule: [] for rule in rules.RULES}
            at_exits = []
            for i, e in enumerate(self.method.exits):
                found = statistics(self.llama, states[e], labels)
                at_exits.append(found["loss"].flatten())
                recent = (states[max(0, e - 2)], states[e - 1], states[e])
                for rule, values in rules.head_scores(found).items():
                    own[rule].append(values.flatten())
                for rule in ("similarity", "second_difference"):
                    own[rule].append(rules.state_score(rule, recent).flatten())
                own["gate"].append(self.gate.score(i, self.llama.read(states[e])).flatten())
            at_exits.append(token_losses(self.llama, states[-1], labels).flatten())
            losses.append(torch.stack(at_exits))
            for rule, values in own.items():
                scores[rule].append(torch.stack(values))
        found = {rule: torch.cat(values, dim=1) for rule, values in scores.items()}
        length = windows.inputs.shape[1]
        return rules.Table(
            torch.cat(losses, dim=1), found, self.method.exits, self.method.depth, length
        )

    def _exact(self) -> list[Row]:
        """Points with exact states: each exit for all tokens, and every rule at every target."""
        tables = {(text, split): self.table(windows) for text, split, windows in self.splits}
        rows = []
        for (text, split), table in tables.items():
            for index, layers in enumerate((*self.method.exits, self.method.depth)):
                cost = self.costs.relative(layers)
                loss = table.loss[index].double().mean().item()
                rows.append(point(text, split, "static", "none", loss, cost, depth=layers))
        valid = tables["both", "valid"]
        for rule in rules.RULES:
            for target in TARGETS:
                if best := self._best_subset(valid, rule, target):
                    for where, table in tables.items():
                        at = rules.stops(table.scores[rule], *best)
                        rows += self._exact_points(where, table, at, rule, target, *best)
        everywhere = tuple(range(len(self.method.exits)))
        for target in TARGETS:
            for where, table in tables.items():
                at = rules.best_stops(table, self.costs, target)
                if at is not None:
                    rows += self._exact_points(where, table, at, "oracle", target, everywhere)
        return rows

    def _best_subset(
        self, valid: rules.Table, rule: str, target: float
    ) -> tuple[tuple[int, ...], float] | None:
        """The exits and the threshold of least loss on valid at a mean cost of ``target``."""
        found = []
        for chosen in rules.subsets(len(self.method.exits)):
            threshold = rules.calibrate(valid, rule, chosen, self.costs, target)
            if threshold is not None:
                at = rules.stops(valid.scores[rule], chosen, threshold)
                found.append((rules.loss_at(valid, at).mean().item(), chosen, threshold))
        return min(found)[1:] if found else None

    def _exact_points(
        self,
        where: tuple[str, str],
        table: rules.Table,
        at: Tensor,
        rule: str,
        target: float,
        chosen: tuple[int, ...],
        threshold: float | None = None,
    ) -> list[Row]:
        """Stops ``at`` with keys free and recomputed; ``where``: text and split."""
        loss = rules.loss_at(table, at).double().mean().item()
        shares = rules.rates(table, at)
        cost = rules.token_costs(table, at, chosen, rule, self.costs).mean().item()
        again = rules.recomputed_costs(table, at, chosen, rule, self.costs).mean().item()
        exits = " ".join(str(table.exits[i]) for i in chosen)
        layers = (*table.exits, table.depth)
        said = {"target": target, "threshold": threshold, "exits": exits}
        said["depth"] = sum(s * d for s, d in zip(shares, layers, strict=True))
        said["rates"] = " ".join(f"{share:.4f}" for share in shares)
        said["random_loss"] = rules.random_loss(table, shares)
        return [
            point(*where, rule, "free", loss, cost, **said),
            point(*where, rule, "recomputed", loss, again, **said),
        ]

    def to_propagate(self, valid: list[Row]) -> list[tuple[str, Row]]:
        """Points of valid that are run with propagated keys, with their rule.

        At the costs of the claims: the best rule that reads the head at every exit, the best that
        does not, and tokens stopped at random at the rates of the better one of the two.
        """
        found: dict[str, list[Row]] = {}
        for aim in AIMS:
            here = [r for r in valid if r["target"] == aim]
            best = []
            for group in (rules.HEAD_RULES, rules.STATE_RULES):
                if own := [r for r in here if r["rule"] in group]:
                    best.append(min(own, key=lambda r: r["loss"]))
            for row in best:
                found.setdefault(row["rule"], []).append(row)
            if best:
                found.setdefault("random", []).append(min(best, key=lambda r: r["loss"]))
        return [(rule, row) for rule, own in found.items() for row in own]

    def _propagated(self, rule: str, row: Row) -> list[Row]:
        """A point of valid again, on all splits, with keys and values from where tokens stopped."""
        exits = tuple(int(e) for e in row["exits"].split())
        chosen = tuple(self.method.exits.index(e) for e in exits)
        found = []
        for text, split, windows in self.splits:
            if rule == "random":
                decide = random_stops(self.method, row, self.seed)
            else:
                decide = Stop(self.llama, self.method, Policy.at(row, self.gate))
            losses, ats = [], []
            for ids, labels in windows.batches(self.device):
                states, depth = forward.with_exits(self.llama, ids, exits, decide)
                losses.append(token_losses(self.llama, states, labels).flatten())
                ats.append(depth.flatten())
            depth, loss = torch.cat(ats), torch.cat(losses).double().mean().item()
            reads = torch.tensor(self.method.reads, device=depth.device)
            at = torch.searchsorted(reads, depth)
            table = rules.Table(
                torch.empty(0), {}, self.method.exits, self.method.depth, windows.inputs.shape[1]
            )
            cost = rules.token_costs(table, at, chosen, rule, self.costs).mean().item()
            said = {key: row[key] for key in ("target", "threshold", "exits")}
            said["depth"] = depth.double().mean().item()
            said["rates"] = " ".join(f"{share:.4f}" for share in rules.rates(table, at))
            if rule == "random":
                said |= {"threshold": None, "matched": row["rule"]}
            found.append(point(text, split, rule, "propagated", loss, cost, **said))
        return found

    # ------------------------------------------------------------------ a gated block

    def _gated(self) -> list[Row]:
        """At each cost the threshold that lets the share of valid through that costs it."""
        logits = []
        for ids, _ in self.text.joined("valid").batches(self.device):
            _, asked, _ = forward.through_gated(
                self.llama, ids, self.method.gated, lambda logits: logits > float("inf")
            )
            logits.append(asked.flatten())
        asked = torch.cat(logits).sort(descending=True).values
        least, most = self._gated_cost(0.0), self._gated_cost(1.0)
        rows = []
        for aim in (*AIMS, 1.0):
            rate = 1.0 if aim == 1.0 else min((aim - least) / (most - least), 1.0)
            if rate >= 0:
                place = min(len(asked) - 1, round(rate * len(asked)))
                threshold = asked[place].item() if rate < 1 else float("-inf")
                rows += self.pieces(f"gated {aim}", lambda a=aim, t=threshold: self._gated_at(a, t))
        return rows

    def _gated_cost(self, rate: float) -> float:
        block, depth = self.method.gated, self.method.depth
        skipped = (block.last - block.first) * (1 - rate)
        return self.costs.relative(depth - skipped, skipped, gates=1)

    def _gated_at(self, aim: float, threshold: float) -> list[Row]:
        found = []
        for text, split, windows in self.splits:
            losses, moved = 0.0, 0
            for ids, labels in windows.batches(self.device):
                states, _, active = forward.through_gated(
                    self.llama, ids, self.method.gated, lambda logits: logits > threshold
                )
                losses += token_losses(self.llama, states, labels).double().sum().item()
                moved += int(active.sum())
            rate = moved / windows.tokens
            said = {"target": aim, "threshold": threshold if rate < 1 else None}
            said |= {"rate": rate, "exits": f"{self.method.gated.first}-{self.method.gated.last}"}
            loss, cost = losses / windows.tokens, self._gated_cost(rate)
            found.append(point(text, split, "gated", "propagated", loss, cost, **said))
        return found

    # ------------------------------------------------------------------ a second pass

    def _again(self) -> list[Row]:
        block = self.method.again
        if "mix" not in self.llama.extras:  # nobody trained it: the mix is chosen on valid
            rows = []
            for mix in MIXES:
                rows += self.pieces(f"mix {mix}", lambda m=mix: self._again_at(m, {1.0: None}))
            return rows
        mix = self.llama.extras["mix"]
        if block.which == "all":
            return self.pieces("all", lambda: self._again_at(mix, {1.0: None}))
        if block.which == "random":
            rates = dict.fromkeys(AGAIN_RATES)
            return self.pieces("random", lambda: self._again_at(mix, rates))
        return self.pieces("hard", lambda: self._again_at(mix, self._entropies()))

    def _entropies(self) -> dict[float, float | None]:
        """Thresholds on the entropy of the first read-out by the share of valid above them."""
        found = []
        for ids, labels in self.text.joined("valid").batches(self.device):
            _, after, _ = forward.first_pass(self.llama, ids, self.method.again)
            found.append(statistics(self.llama, after, labels)["entropy"].flatten())
        ranked = torch.cat(found).sort(descending=True).values
        places = {rate: min(len(ranked) - 1, round(rate * len(ranked))) for rate in AGAIN_RATES}
        return {r: ranked[p].item() if r < 1 else float("-inf") for r, p in places.items()}

    def _again_at(self, mix: Tensor | float, wanted: dict[float, float | None]) -> list[Row]:
        """Points at every rate; the first pass is run once for all of them.

        ``wanted``: rate -> threshold on entropy; None takes tokens at random, or all.
        """
        block, found = self.method.again, []
        hard = block.which == "hard"
        for text, split, windows in self.splits:
            generator = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + 7)
            losses, taken = dict.fromkeys(wanted, 0.0), dict.fromkeys(wanted, 0)
            for ids, labels in windows.batches(self.device):
                before, after, pairs = forward.first_pass(self.llama, ids, block)
                draws = torch.rand(labels.shape, generator=generator).to(ids.device)
                if hard:
                    entropy = statistics(self.llama, after, labels)["entropy"]
                for rate, threshold in wanted.items():
                    active = entropy > threshold if hard else draws < rate
                    states = forward.second_pass(
                        self.llama, block, before, after, pairs, active, mix
                    )
                    each = token_losses(self.llama, states, labels).double()
                    losses[rate] += each.sum().item()
                    taken[rate] += int(active.sum())
            for rate in wanted:
                share = taken[rate] / windows.tokens
                layers = self.method.depth + share * (block.last - block.first)
                cost = self.costs.relative(layers, heads=1 + share * hard)
                said = {"target": rate, "threshold": wanted[rate], "rate": share}
                said["exits"] = f"{block.first}-{block.last}"
                said["mix"] = mix if isinstance(mix, float) else None
                loss = losses[rate] / windows.tokens
                found.append(point(text, split, f"again_{block.which}", "none", loss, cost, **said))
        return found


def point(text: str, split: str, rule: str, keys: str, loss: float, flops: float, **own) -> Row:
    """A row of the table ``points``."""
    row = {"text": text, "split": split, "rule": rule, "keys": keys, "loss": loss, "flops": flops}
    endless = (float("inf"), float("-inf"))  # a threshold that nothing or all reaches
    return row | {name: None if value in endless else value for name, value in own.items()}


def random_stops(method: Method, row: Row, seed: int) -> forward.Decide:
    """Tokens stop at random, at each exit as many as in a point of valid."""
    shares = dict(zip(method.reads, map(float, row["rates"].split()), strict=True))
    left, chance = 1.0, {}
    for layers in method.exits:
        chance[layers] = shares[layers] / left if left > 0 else 0.0
        left -= shares[layers]
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + 11)

    def decide(layers: int, recent: list[Tensor], active: Tensor) -> Tensor:
        draws = torch.rand(active.shape, generator=generator)
        return (draws < chance[layers]).to(active.device)

    return decide
