"""Claims of the seeds, each decided by a comparison that is computed from committed results.

A claim holds what the seed said and reported, a *measure* (one value a seed of the experiment,
for one corpus) and where that value must lie for the claim to hold. The verdict follows from the
bootstrap interval of the measure over seeds, never from a hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lib.analysis.statistics import bootstrap, percent_change
from lib.results import store

REPLICATED, REVERSED = "replicated", "reversed"
NO_DIFFERENCE, NOT_MEASURABLE = "no difference seen", "not measurable here"
EXPECTATIONS = ("below", "above", "within")


class Tables:
    """The committed tables of one experiment restricted to one corpus."""

    def __init__(self, slug: str, corpus: str, size: str = store.FULL):
        self.slug, self.corpus, self.size = slug, corpus, size

    def __call__(self, table: str = "") -> pd.DataFrame:
        frame = store.read(self.slug, table, self.size)
        return frame[frame["corpus"] == self.corpus]


Measure = Callable[[Tables], np.ndarray]


@dataclass(frozen=True)
class Claim:
    """One statement of a seed and the comparison that decides it.

    ``expect``: the measure must lie ``below`` or ``above`` ``threshold``, or ``within`` +-
    ``threshold`` of zero (for claims of equality). ``reported`` is the seed's own value of the
    measure, None for a control that the seed did not run; it is shown for corpora whose name begins
    as one of ``reported_on`` (none named: all). ``control`` says in words what is compared and held
    equal. ``corpora`` limits the claim to corpora whose name begins so.
    """

    id: str
    experiment: str
    slug: str
    source: str
    statement: str
    reported: float | None
    unit: str
    measure: Measure
    expect: str
    control: str
    threshold: float = 0.0
    min_seeds: int = 5
    corpora: tuple[str, ...] = ()
    reported_on: tuple[str, ...] = ()

    def __post_init__(self):
        if self.expect not in EXPECTATIONS:
            raise ValueError(f"expect is {self.expect!r}; allowed: {', '.join(EXPECTATIONS)}")

    def reported_for(self, corpus: str) -> float | None:
        """The seed's value beside a corpus: None where the seed measured it on another one."""
        here = not self.reported_on or corpus.startswith(self.reported_on)
        return self.reported if here else None


def claim_maker(area: str, slug: str, source: str, **shared: Any) -> Callable[..., Claim]:
    """``claim(name, statement, measure, control, **own)`` for the claims of one experiment.

    The id is ``area-name``. Unless ``shared`` or ``own`` (fields of Claim) say otherwise, the
    experiment is the area itself, the seed reported nothing, and a percent change of perplexity is
    expected below zero.
    """
    usual = {"experiment": area, "reported": None, "unit": "% change of perplexity"}
    fields = {**usual, "expect": "below", "slug": slug, "source": source, **shared}

    def claim(name: str, statement: str, measure: Measure, control: str, **own: Any) -> Claim:
        written = {"statement": statement, "measure": measure, "control": control}
        return Claim(id=f"{area}-{name}", **written, **{**fields, **own})

    return claim


def change(treatment: str, baseline: str, metric: str = "test_ppl") -> Measure:
    """Percent change of a metric from one variant to another, seed by seed (paired).

    A baseline that is a count model, a single row without ``params``, is the same for every seed.
    Raises Absent if a variant is not there, ValueError if the seeds do not match.
    """

    def measure(tables: Tables) -> np.ndarray:
        frame = tables()
        new, old = (by_seed(frame, variant, metric) for variant in (treatment, baseline))
        if not _is_constant(frame, baseline) and list(new.index) != list(old.index):
            raise ValueError(f"{treatment} and {baseline} do not share their seeds")
        return percent_change(new.to_numpy(), old.to_numpy())

    return measure


def _is_constant(frame: pd.DataFrame, variant: str) -> bool:
    """Whether a variant is a count model: one row, and no parameters that a seed could set."""
    rows = frame[frame["variant"] == variant]
    return len(rows) == 1 and "params" in rows and bool(rows["params"].isna().all())


def level(variant: str, metric: str) -> Measure:
    """The metric of one variant itself, seed by seed."""
    return lambda tables: by_seed(tables(), variant, metric).to_numpy()


def difference(one: Measure, other: Measure) -> Measure:
    """One measure minus another, seed by seed; ValueError if they have unequally many values."""
    return lambda tables: np.subtract(*_paired(one(tables), other(tables)))


def ratio(one: Measure, other: Measure) -> Measure:
    """Percent change from the other measure to the one, seed by seed; ValueError as above."""
    return lambda tables: percent_change(*_paired(one(tables), other(tables)))


def _paired(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(one) != np.shape(other):
        raise ValueError(f"{np.size(one)} and {np.size(other)} values do not pair seed by seed")
    return one, other


def by_seed(frame: pd.DataFrame, variant: str, metric: str) -> pd.Series:
    """A metric of a variant indexed by seed.

    Raises Absent if the variant is not there or has no value, ValueError if only some of its seeds
    have one, and KeyError for a metric that is no column.
    """
    rows = frame[frame["variant"] == variant].set_index("seed").sort_index()
    return filled(rows[metric], f"variant {variant!r} has no {metric}").astype(float)


def filled(values: pd.Series, complaint: str) -> pd.Series:
    """The values, none of them empty. Raises Absent with the complaint if there is none at all,
    ValueError if only some are empty: a run failed, which must not pass for one not made."""
    if values.isna().all():
        raise store.Absent(complaint)
    if values.isna().any():
        raise ValueError(f"{complaint} in {values.isna().sum()} of {len(values)} rows")
    return values


def decide(claim: Claim, size: str = store.FULL) -> list[dict]:
    """Rows of ``claims.csv`` for a claim: one for every corpus its results hold, of those in
    ``claim.corpora`` if it names any; one without a corpus if there are
    no results on any."""
    head = {
        "id": claim.id,
        "experiment": claim.experiment,
        "source": claim.source,
        "statement": claim.statement,
        "reported": claim.reported,
    }
    try:
        corpora = sorted(store.read(claim.slug, size=size)["corpus"].unique())
    except FileNotFoundError as missing:
        return [{**head, **_empty("", str(missing)), "unit": claim.unit}]
    if claim.corpora:
        corpora = [name for name in corpora if name.startswith(claim.corpora)]
    if not corpora:
        wanted = f"no results on {' or '.join(claim.corpora)}"
        return [{**head, **_empty("", wanted), "unit": claim.unit}]
    return [
        {
            **head,
            "reported": claim.reported_for(corpus),
            **_verdict(claim, Tables(claim.slug, corpus, size)),
            "unit": claim.unit,
        }
        for corpus in corpora
    ]


def _verdict(claim: Claim, tables: Tables) -> dict:
    try:
        values = claim.measure(tables)
    except (store.Absent, FileNotFoundError) as missing:
        return _empty(tables.corpus, f"not decided: {missing.args[0]}")
    except (KeyError, ValueError) as error:
        error.add_note(f"while deciding claim {claim.id} on {tables.corpus}")
        raise
    found = bootstrap(values)
    row = {
        "ours": found.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": found.n,
        "corpus": tables.corpus,
    }
    if found.n < claim.min_seeds:
        reason = f"{found.n} seeds, {claim.min_seeds} needed; {claim.control}"
        return {**row, "verdict": NOT_MEASURABLE, "reason": reason}
    verdict, why = place(found.low, found.high, claim.expect, claim.threshold)
    return {**row, "verdict": verdict, "reason": f"{why}; {claim.control}"}


def place(low: float, high: float, expect: str, threshold: float) -> tuple[str, str]:
    """The verdict of an interval, and in words where it lies."""
    if expect == "within":
        if -threshold <= low and high <= threshold:
            return REPLICATED, f"the interval lies inside +-{threshold:g}"
        if low > threshold or high < -threshold:
            return REVERSED, f"the interval lies outside +-{threshold:g}"
        return NO_DIFFERENCE, f"the interval crosses +-{threshold:g}"
    if low > threshold or high < threshold:
        side = "above" if low > threshold else "below"
        verdict = REPLICATED if side == expect else REVERSED
        return verdict, f"the interval lies {side} {threshold:g}"
    return NO_DIFFERENCE, f"the interval holds {threshold:g}"


def _empty(corpus: str, reason: str) -> dict:
    blank = dict.fromkeys(("ours", "ci_low", "ci_high"))
    return {**blank, "n": 0, "corpus": corpus, "verdict": NOT_MEASURABLE, "reason": reason}
