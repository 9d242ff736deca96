"""Claims of the reports, each decided by a comparison that is computed from committed results.

A claim holds what a report said and reported, a *measure* (one value a random seed, for one text
and size) and where that value must lie for the claim to hold. The verdict follows from the interval
of the measure over seeds, and from how many claims were tried, never from a hand.

Kinds of rows. ``reported``: a report states it, on the text of the report or what stands in for it
(WikiText-2 without its train file, another part of Alpaca), at its size. ``transfer``: the same on
another text or size. ``explanation``: a control that explains a reported claim, its
``parent``. ``own``: ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib.parameters import FULL
from lib.results import statistics
from lib.results.schema import DIVERGED
from lib.results.statistics import Interval, percent_change
from lib.results.store import Absent, Results

REPORTED, TRANSFER, EXPLANATION, OWN = KINDS = ("reported", "transfer", "explanation", "own")
OWN_TEXT = "the report's text or its stand-in"  # what rows of the kind ``reported`` stand on
REPLICATED, REVERSED = "replicated", "reversed"  # of reported and transfer rows
SUPPORTED, CONTRADICTED = "supported", "contradicted"  # of explanation and own rows
UNDECIDED, NOT_MEASURABLE = "undecided", "not measurable here"
DETERMINISTIC = "(deterministic)"  # in the reason of a row in which chance had no part
VERDICTS = (REPLICATED, REVERSED, SUPPORTED, CONTRADICTED, UNDECIDED, NOT_MEASURABLE)
EXPECTATIONS = ("below", "above", "within")
SIGNIFICANT = 0.05
SEEDS = 5  # at least so many for a decided row of the committed results
PERCENT = "% change of perplexity"

Measure = Callable[[Results], np.ndarray | pd.Series]  # a series: by seed


@dataclass(frozen=True)
class Claim:
    """One statement and the comparison that decides it.

    ``expect``: the measure must lie ``below`` or ``above`` ``threshold``, or ``within`` +-
    ``threshold`` of zero (claims of equality, decided by two one-sided tests). ``reported`` is the
    report's own value of the measure. ``texts``: names of corpora begin so on which the report
    measured it; elsewhere the row is a ``transfer`` and shows no reported value. ``only``: the
    claim is decided on corpora that begin so (none named: all). ``control`` says in words what is
    compared and held equal. ``bounds`` of a share or accuracy keep its interval inside.
    ``deterministic`` comparisons have no interval. ``over``: what the measure has a value of each
    for. ``unanimous``: undecided too where the single values lie on both sides of the line.
    ``judges``: the claim that is undecided on a text and size where this one's values do so.
    """

    id: str
    experiment: str
    source: str
    statement: str
    measure: Measure
    control: str
    kind: str = REPORTED
    parent: str = ""
    reported: float | None = None
    unit: str = PERCENT
    expect: str = "below"
    threshold: float = 0.0
    texts: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    deterministic: bool = False
    over: str = "seeds"
    unanimous: bool = False
    judges: str = ""

    def __post_init__(self):
        if self.expect not in EXPECTATIONS:
            raise ValueError(f"expect is {self.expect!r}; allowed: {', '.join(EXPECTATIONS)}")
        if self.kind not in (REPORTED, EXPLANATION, OWN):
            raise ValueError(f"kind is {self.kind!r}; allowed: reported, explanation, own")
        if (self.kind == EXPLANATION) != bool(self.parent):
            raise ValueError(f"{self.id}: an explanation has a parent, other kinds have none")

    def kind_on(self, corpus: str, size: str) -> str:
        """The kind of this claim's row for a text and size."""
        here = corpus.startswith(self.texts) and size == FULL
        return TRANSFER if self.kind == REPORTED and not here else self.kind

    def interval(self, values: np.ndarray) -> Interval:
        """The interval of the measure, as its unit asks: percent changes by logarithms."""
        if self.bounds:
            return statistics.bounded_interval(values, self.bounds)
        sign = self._change(values)
        if not sign:
            return statistics.interval(values)
        found = statistics.percent_interval(sign * np.asarray(values, dtype=float))
        low, high = sorted((sign * found.low, sign * found.high))
        return statistics.Interval(sign * found.mean, low, high, found.n)

    def p(self, values: np.ndarray) -> float:
        """The p of the measure against the threshold, on the scale of its interval.

        For ``within``: of being equal where the mean lies inside, else of being outside.
        """
        sign = self._change(values)
        scale = (lambda v: sign * np.log1p(sign * v / 100)) if sign else (lambda v: v)
        own = scale(np.asarray(values, dtype=float))
        high = float(scale(self.threshold))
        if self.expect != "within":
            return statistics.p_value(own, high)
        low, mean = float(scale(-self.threshold)), float(np.mean(own))
        if not low <= mean <= high:  # what may be shown is that it lies outside
            return statistics.p_value(own, high if mean > high else low)
        return statistics.equivalence_p(own, low, high)

    def _change(self, values: np.ndarray) -> int:
        """1 where the values are percent changes, -1 where they are falls, 0 where neither has a
        logarithm."""
        word = self.unit.removeprefix("% ").split(" ")[0]
        sign = {"change": 1, "fall": -1}.get(word, 0)
        seen = np.append(np.asarray(values, dtype=float), self.threshold)
        return sign if bool((sign * seen > -100).all()) else 0


def claim_maker(experiment: str, source: str, **shared: Any) -> Callable[..., Claim]:
    """``claim(name, statement, measure, control, **own)`` for the claims of one experiment.

    The id is ``experiment-name``. ``shared`` and ``own`` are fields of Claim; ``explains=NAME``
    makes an explanation of the claim of that name.
    """

    def claim(name: str, statement: str, measure: Measure, control: str, **own: Any) -> Claim:
        fields = {"source": source, **shared, **own}
        if explains := fields.pop("explains", ""):
            fields |= {"kind": EXPLANATION, "parent": f"{experiment}-{explains}"}
        about = {"statement": statement, "measure": measure, "control": control}
        return Claim(f"{experiment}-{name}", experiment, **about, **fields)

    return claim


def change(treatment: str, baseline: str, metric: str = "test_ppl") -> Measure:
    """Percent change of a metric from one variant to another, seed by seed (paired).

    A baseline that is a count model, a single row without ``params``, is the same for every seed.
    Raises Absent if a variant is not there, or if no seed has both.
    """

    def measure(results: Results) -> np.ndarray:
        new, old = (by_seed(results, variant, metric) for variant in (treatment, baseline))
        if not _is_constant(results(), baseline):
            new, old = _paired(new, old)
        return percent_change(new, old)

    return measure


def _is_constant(frame: pd.DataFrame, variant: str) -> bool:
    """Whether a variant is a count model: one row, and no parameters that a seed could set."""
    rows = frame[frame["variant"] == variant]
    return len(rows) == 1 and "params" in rows and bool(rows["params"].isna().all())


def level(variant: str, metric: str) -> Measure:
    """The metric of one variant itself, seed by seed."""
    return lambda results: by_seed(results, variant, metric)


def difference(one: Measure, other: Measure) -> Measure:
    """One measure minus another, seed by seed.

    Raises Absent if no seed has both, ValueError for unequally many values that name no seed.
    """
    return lambda results: np.subtract(*_paired(one(results), other(results)))


def ratio(one: Measure, other: Measure) -> Measure:
    """Percent change from the other measure to the one, seed by seed. Raises as ``difference``."""
    return lambda results: percent_change(*_paired(one(results), other(results)))


def _paired(one: np.ndarray | pd.Series, other: np.ndarray | pd.Series) -> tuple[Any, Any]:
    """The values of the seeds that both have: an unfinished sweep may hold more of the one."""
    if isinstance(one, pd.Series) and isinstance(other, pd.Series):
        shared = one.index.intersection(other.index)
        if shared.empty:
            raise Absent("no seed that both variants have")
        return one[shared], other[shared]
    if np.shape(one) != np.shape(other):
        raise ValueError(f"{np.size(one)} and {np.size(other)} values do not pair seed by seed")
    return one, other


def by_seed(results: Results, variant: str, metric: str) -> pd.Series:
    """A metric of a variant indexed by seed; the runs behind it are noted in ``results.used``.

    Raises Absent if the variant is not there, has no value, or diverged; ValueError if only some of
    its seeds have a value, and KeyError for a metric that is no column.
    """
    frame = results()
    rows = frame[frame["variant"] == variant].set_index("seed").sort_index()
    if "status" in rows and (rows["status"] == DIVERGED).any():
        count = int((rows["status"] == DIVERGED).sum())
        raise Absent(f"variant {variant!r} diverged in {count} of {len(rows)} seeds")
    if rows.empty:  # before its first run a table need not have its columns
        raise Absent(f"variant {variant!r} has no {metric}")
    values = filled(rows[metric], f"variant {variant!r} has no {metric}").astype(float)
    results.used.update(rows["run_id"])
    return values


def at_epoch(variant: str, column: str, epoch: int | str, **where: Any) -> Measure:
    """A column of the curve at an epoch, of the seeds that were trained so long.

    ``epoch``: a number, or the column of the main table that has it; ``where`` selects rows of the
    curve. Raises Absent if no seed got there, ValueError for several rows a seed.
    """

    def measure(results: Results) -> pd.Series:
        curve = results("curve")
        own = curve[curve["variant"] == variant]
        for name, value in where.items():
            own = own[own[name] == value]
        named = isinstance(epoch, str)
        number = own["seed"].map(by_seed(results, variant, epoch)) if named else epoch
        own = own[own["epoch"] == number].sort_values("seed")
        if own.empty:
            raise Absent(f"variant {variant!r} is not trained up to epoch {epoch}")
        if own["seed"].duplicated().any():
            raise ValueError(f"several rows a seed for epoch {epoch} of {variant!r}")
        results.used.update(own["run_id"])
        values = own.set_index("seed")[column]
        return filled(values, f"variant {variant!r} has no {column} at epoch {epoch}").astype(float)

    return measure


def times(factor: float, measure: Measure) -> Measure:
    """A measure in another unit, such as percent instead of a share."""
    return lambda results: factor * measure(results)


def filled(values: pd.Series, complaint: str) -> pd.Series:
    """The values, none of them empty. Raises Absent with the complaint if there is none at all,
    ValueError if only some are empty: a run failed, which must not pass for one not made."""
    if values.isna().all():
        raise Absent(complaint)
    if values.isna().any():
        raise ValueError(f"{complaint} in {values.isna().sum()} of {len(values)} rows")
    return values


def decide(claim: Claim, results: Results | None, least: int = SEEDS) -> list[dict]:
    """Rows for a claim: one for every text and size of its results, one without if there are none.

    ``least``: seeds that a decided row needs. The verdict is not yet corrected for how many claims
    were tried; ``corrected`` does that.
    """
    if results is None:
        return [_empty(claim, "", "", "no results are committed")]
    frame = results()
    if claim.only:
        frame = frame[frame["corpus"].str.startswith(claim.only)]
    cases = frame[["corpus", "size"]].drop_duplicates().itertuples(index=False)
    rows = [_row(claim, results.on(c.corpus, c.size), c.corpus, c.size, least) for c in cases]
    return rows or [_empty(claim, "", "", f"no results on {' or '.join(claim.only)}")]


def _row(claim: Claim, results: Results, corpus: str, size: str, least: int) -> dict:
    results.used.clear()
    try:
        values = np.asarray(claim.measure(results), dtype=float)
    except (Absent, FileNotFoundError) as missing:
        return _empty(claim, corpus, size, f"not decided: {missing.args[0]}")
    except (KeyError, ValueError) as error:
        error.add_note(f"while deciding claim {claim.id} on {corpus}, size {size}")
        raise
    if lost := _diverged(results):
        return _empty(claim, corpus, size, f"not decided: {lost}")
    found = claim.interval(values)
    p = None if claim.deterministic or found.n < 2 else claim.p(values)
    row = _head(claim, corpus, size) | {
        "ours": found.mean,
        "ci_low": None if found.n < 2 or claim.deterministic else found.low,
        "ci_high": None if found.n < 2 or claim.deterministic else found.high,
        "n": found.n,
        "p": p,
        **_runs(results),
    }
    if claim.deterministic:
        verdict, why = place(found.mean, found.mean, claim, p)
        return row | {"verdict": verdict, "reason": f"{why} {DETERMINISTIC}; {claim.control}"}
    if found.n < least:
        counted = f"{found.n} {claim.over if found.n > 1 else claim.over.removesuffix('s')}"
        reason = f"{counted}, {least} needed; {claim.control}"
        return row | {"verdict": UNDECIDED, "reason": reason, "tested": False}
    verdict, why = place(found.low, found.high, claim, p)
    row["divided"] = claim.unanimous and len({bool(v > claim.threshold) for v in values}) == 2
    if row["divided"]:
        verdict, row["tested"] = UNDECIDED, False
        why = f"{claim.over} lie on both sides of {claim.threshold:g}; {why}"
    return row | {"verdict": verdict, "reason": f"{why}; {claim.control}"}


def overruled(rows: list[dict], judge: Claim, judged: list[dict]) -> None:
    """Make undecided what ``judge`` judges, on the texts where the judge's own values are divided
    or all lie on the other side.

    ``judged``: the rows of the judge.
    """
    cases = {}
    for row in judged:
        if row.get("divided"):
            cases[row["corpus"], row["size"]] = f"the sign changes with the {judge.over}"
        elif row["verdict"] == CONTRADICTED:
            cases[row["corpus"], row["size"]] = f"the {judge.over} say the opposite"
    for row in rows:
        why = cases.get((row["corpus"], row["size"])) if row["id"] == judge.judges else None
        if why and row["verdict"] not in (UNDECIDED, NOT_MEASURABLE):
            reason = f"{why} (claim {judge.id}); {row['reason']}"
            row |= {"verdict": UNDECIDED, "reason": reason, "tested": False}


def _diverged(results: Results) -> str:
    """Which of the runs that a measure has looked at, in whatever table, diverged; or ""."""
    if "status" not in results():
        return ""
    frame = results.looked_at()
    lost = frame[frame["status"] == DIVERGED]
    names = ", ".join(repr(name) for name in lost["variant"].unique())
    return f"runs of {names} diverged" if names else ""


def _runs(results: Results) -> dict[str, str]:
    """The runs that a measure has looked at, and the commits that made them."""
    own = results.looked_at() if results.used else results()
    commits = own["commit"].dropna().unique() if "commit" in own else ()
    return {
        "run_ids": " ".join(sorted(results.used)),
        "commit": " ".join(sorted(str(c) for c in commits)),
    }


def place(low: float, high: float, claim: Claim, p: float | None) -> tuple[str, str]:
    """The verdict of an interval in the words of the claim's kind, and where it lies."""
    line = claim.threshold
    holds, fails = (REPLICATED, REVERSED) if claim.kind == REPORTED else (SUPPORTED, CONTRADICTED)
    if claim.expect == "within":
        if low > line or high < -line:
            return fails, f"the interval lies outside +-{line:g}"
        inside = -line <= low and high <= line
        if p is not None:
            inside = p <= SIGNIFICANT and -line <= (low + high) / 2 <= line
        if inside:
            return holds, f"equal within +-{line:g} (two one-sided tests)"
        return UNDECIDED, f"not shown equal within +-{line:g}"
    if low > line or high < line:
        side = "above" if low > line else "below"
        return (holds if side == claim.expect else fails), f"the interval lies {side} {line:g}"
    return UNDECIDED, f"the interval holds {line:g}"


def corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with ``q``, the false discovery rate over the tested rows of their kind; decided
    rows whose q is above 5 % become undecided.

    Rows of too few seeds, or of divided values, are not ``tested``: they cannot be discoveries, and
    their small p would make it easier for others to be one.
    """
    frame = frame.copy()
    frame["q"] = np.nan
    for _, own in frame[frame["p"].notna() & frame["tested"]].groupby("kind"):
        frame.loc[own.index, "q"] = statistics.discovery_rate(own["p"])
    decided = ~frame["verdict"].isin((UNDECIDED, NOT_MEASURABLE))
    fallen = decided & (frame["q"] > SIGNIFICANT)
    for row in frame.index[fallen]:
        q, reason = frame.loc[row, "q"], frame.loc[row, "reason"]
        frame.loc[row, "reason"] = (
            f"the interval alone would decide, but not among so many claims (q {q:.3f}); {reason}"
        )
    frame.loc[fallen, "verdict"] = UNDECIDED
    return frame


def _head(claim: Claim, corpus: str, size: str) -> dict:
    kind = claim.kind_on(corpus, size)
    return {
        "id": claim.id,
        "kind": kind,
        "tested": True,
        "parent": claim.id if kind == TRANSFER else claim.parent,
        "experiment": claim.experiment,
        "source": claim.source,
        "statement": claim.statement,
        "reported": None if kind == TRANSFER else claim.reported,
        "unit": claim.unit,
        "corpus": corpus,
        "size": size,
        "expect": claim.expect,
        "threshold": claim.threshold,
    }


def _empty(claim: Claim, corpus: str, size: str, reason: str) -> dict:
    blank = dict.fromkeys(("ours", "ci_low", "ci_high", "p"))
    rest = {"n": 0, "run_ids": "", "commit": "", "verdict": NOT_MEASURABLE, "reason": reason}
    return {**_head(claim, corpus, size), **blank, **rest}
