"""Loss against cost: operating points chosen on validation text, and what lies between them.

A *curve* is the test loss of one way of choosing at every cost, one value a seed. Between two of
its points it is the straight line in (cost, loss), which a server reaches by running each of the
two for a share of its texts. So its points are the lower hull, in means over seeds on validation
text, of all points that may be chosen; beyond the ends the line of the two nearest goes on. Losses
are the mean of both test texts, each interpolated at the cost that was measured on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import pandas as pd

from lib.depth.evaluation import AIMS
from lib.depth.rules import HEAD_RULES, STATE_RULES
from lib.results.store import Absent, Results

EXIT_NETWORKS = ("exits", "layerskip")
GROUPS = {"head": HEAD_RULES, "state": STATE_RULES, "random": "random", "gated": "gated"}
FIXED = ("last_removed", "middle_removed")
ONCE = ("base", "again_untrained", "again_untrained_middle")  # nothing in them is random
NAMES = {0.5: "50", 0.7: "70", 0.9: "90"}
Curve = Callable[[Results], pd.DataFrame]


def points(results: Results, variant: str, **wanted) -> pd.DataFrame:
    """Rows of the table of points of a variant; ``wanted`` columns equal a value or one of several.

    The runs behind them are noted in ``results.used``. Raises Absent for none.
    """
    frame = results("points")
    frame = frame[frame["variant"] == variant]
    for column, value in wanted.items():
        if column not in frame:  # one that points of other variants have, which are not run yet
            raise Absent(f"variant {variant!r} has no point with a {column}")
        if isinstance(value, (tuple, list)):
            frame = frame[frame[column].isin(value)]
        else:
            frame = frame[frame[column] == value]
    if frame.empty:
        asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
        raise Absent(f"variant {variant!r} has no point{f' with {asked}' if asked else ''}")
    results.used.update(frame["run_id"])
    return frame


def lower(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Those of some points that lie on the lower hull of their mean (cost, loss) on valid.

    ``parts``: the rows of one point each. No straight line between two of them lies below the rest,
    and none of the rest is dearer than all others without being better. Points calibrated to one
    target cost the same but for what calibration misses, so only the best of them may be chosen.
    """
    spots: dict[Hashable, tuple[float, float, int]] = {}
    for index, part in enumerate(parts):
        means = part.loc[part["split"] == "valid", ["flops", "loss"]].mean()
        spot = (float(means["flops"]), float(means["loss"]), index)
        target = part["target"].iloc[0] if "target" in part else math.nan
        name = ("uncalibrated", index) if math.isnan(target) else target
        if name not in spots or spot[1] < spots[name][1]:
            spots[name] = spot
    hull: list[tuple[float, float, int]] = []
    for spot in sorted(spots.values()):
        while len(hull) > 1 and _turn(hull[-2], hull[-1], spot) <= 0:
            hull.pop()
        hull.append(spot)
    while len(hull) > 1 and hull[-1][1] >= hull[-2][1]:  # dearer and no better
        hull.pop()
    return pd.concat([parts[index] for *_, index in hull])


def _turn(a: tuple, b: tuple, c: tuple) -> float:
    """Above 0 if the way from a over b to c turns left: b then lies below the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def fixed(results: Results) -> pd.DataFrame:
    """Fixed depth: the cuts, and the base with all its layers, adapted."""
    cuts = [points(results, f"{kind}_{NAMES[aim]}") for kind in FIXED for aim in AIMS]
    return lower([*cuts, points(results, "adapted")])


def adaptive(results: Results) -> pd.DataFrame:
    """Adaptive depth: every network with exits under its best rule that reads the head and its best
    that does not, keys propagated, and the gated block.

    What a rule does at the ends of its thresholds belongs to it: one read-out for all tokens.
    """
    parts, ends = [], []
    for name in EXIT_NETWORKS:
        own = [p for g in ("head", "state") for aim in AIMS for p in _run(results, name, g, aim)]
        parts += own
        ends += _read_outs(results, name) if own else []
    gated = [part for aim in AIMS for part in _run(results, "gated", "gated", aim)]
    if not [*parts, *gated]:
        raise Absent("no adaptive method has a point with propagated keys")
    return lower([*parts, *gated, *ends, *([full_depth(results, "gated")] if gated else [])])


def whole_texts(network: str) -> Curve:
    """The curve of one network whose every text is read out at one depth: no rule looks at it."""
    return lambda results: lower(_read_outs(results, network))


def grouped(network: str, *groups: str) -> Curve:
    """The curve of one network under kinds of rules (head, state, random), keys propagated."""

    def curve(results: Results) -> pd.DataFrame:
        parts = [own for g in groups for aim in AIMS for own in _run(results, network, g, aim)]
        if not parts:
            raise Absent(f"{network} has no propagated point of a {' or '.join(groups)} rule")
        return lower([*parts, full_depth(results, network)])

    return curve


def single(*variants: str, rule: str = "") -> Curve:
    """All points of some variants, or those of one rule."""
    wanted = {"rule": rule} if rule else {}
    return lambda results: pd.concat([points(results, name, **wanted) for name in variants])


def oracle(results: Results) -> pd.DataFrame:
    """The exits that lose least at every cost, chosen knowing the target, exact keys for nothing:
    what no rule can reach."""
    return points(results, "exits", keys="free", rule="oracle")


def full_depth(results: Results, network: str) -> pd.DataFrame:
    """A network with all its layers: its last read-out, or the gate open for all tokens."""
    if network == "gated":
        return points(results, network, target=1.0)
    own = points(results, network, rule="static")
    return own[own["depth"] == own["depth"].max()]


def _read_outs(results: Results, network: str) -> list[pd.DataFrame]:
    """The points of a network with exits that read out all tokens at one depth, shallow first."""
    return [own for _, own in points(results, network, rule="static").groupby("depth")]


def _run(results: Results, name: str, group: str, aim: float) -> list[pd.DataFrame]:
    """The points of one kind of rule that were run at a cost, none if there are no such."""
    try:
        return [points(results, name, keys="propagated", rule=GROUPS[group], target=aim)]
    except Absent:
        return []


def at(frame: pd.DataFrame, cost: float) -> pd.Series:
    """Test loss at a cost by seed: the mean over texts of the line through the curve's points.

    A variant in which nothing is random counts for all seeds. A seed counts if all others of the
    curve have it: an unfinished sweep has more of one than of another.
    """
    tests = frame[frame["split"] == "test"]
    held = {name: set(rows["seed"]) for name, rows in tests.groupby("variant")}
    several = [seeds for name, seeds in held.items() if name not in ONCE] or [*held.values()]
    found = {}
    for seed in sorted(set.intersection(*several)):
        losses = []
        for _, own in tests.groupby("text"):
            line = own[(own["seed"] == seed) | own["variant"].isin(ONCE)].sort_values("flops")
            losses.append(between(line["flops"].to_numpy(), line["loss"].to_numpy(), cost))
        found[seed] = float(np.mean(losses))
    return pd.Series(found).rename_axis("seed")


def between(costs: np.ndarray, losses: np.ndarray, cost: float) -> float:
    """The value at ``cost`` of the line through points (n,), continued beyond its ends."""
    costs, first = np.unique(costs, return_index=True)
    losses = losses[first]
    if len(costs) == 1:
        return float(losses[0])
    place = int(np.clip(np.searchsorted(costs, cost), 1, len(costs) - 1))
    share = (cost - costs[place - 1]) / (costs[place] - costs[place - 1])
    return float(losses[place - 1] + share * (losses[place] - losses[place - 1]))


def better_by(one: Curve, other: Curve, cost: float | Callable[[Results], float]):
    """Measure: percent change of test perplexity from the other curve to the one at a cost."""

    def measure(results: Results) -> np.ndarray:
        where = cost(results) if callable(cost) else cost
        a, b = at(one(results), where), at(other(results), where)
        shared = a.index.intersection(b.index)
        if shared.empty:
            raise Absent("no seed that both curves have")
        return 100 * np.expm1(a[shared].to_numpy() - b[shared].to_numpy())

    return measure


def cost_of(variant: str) -> Callable[[Results], float]:
    """The cost of a variant that has one point a text."""
    return lambda results: float(points(results, variant, split="test")["flops"].mean())


def rule_against_random(network: str, rule: str, target: float):
    """Measure: percent change of test perplexity from random exits to a rule at equal rates.

    Exact states; the random loss is an expectation, not a draw.
    """

    def measure(results: Results) -> np.ndarray:
        own = points(results, network, keys="free", rule=rule, target=target, split="test")
        means = own.groupby("seed")[["loss", "random_loss"]].mean()
        return 100 * np.expm1((means["loss"] - means["random_loss"]).to_numpy())

    return measure


def recomputed_cost(network: str, target: float):
    """Measure: cost on test of the best rule (on valid) if skipped layers are run when needed."""

    def measure(results: Results) -> np.ndarray:
        own = points(
            results, network, keys="recomputed", rule=HEAD_RULES + STATE_RULES, target=target
        )
        valid = own[own["split"] == "valid"].groupby("rule")["loss"].mean()
        best = own[(own["rule"] == valid.idxmin()) & (own["split"] == "test")]
        return 100 * best.groupby("seed")["flops"].mean().to_numpy()

    return measure
