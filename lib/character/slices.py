"""Comparisons of other experiments on several slices of the training text: variants and measures.

A slice is a stretch of the training text that shares no character with another; valid and test are
the same for all. Random seeds are crossed with slices: seed s draws the same weights on each.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its parts are loaded when they are first used

from lib.character.objectives import Objective
from lib.character.parameters import CharacterParameters, TwoTexts
from lib.character.variants import Probed, Variant
from lib.experiment import Run
from lib.parameters import ParameterError, Parameters, choice, folder, whole
from lib.results import statistics, tables
from lib.results.claims import Measure, change
from lib.results.statistics import Interval
from lib.results.store import Absent, Results
from lib.text.corpus import NAMES, Corpus, load_corpus

SLICES = 5


class SliceParameters(Parameters):
    """What the experiments share whose comparisons are made on slices; the rest is each one's own.

    ``apart``: characters from the beginning of a slice to that of the next.
    """

    corpus: str = choice("auto", tuple(name for name in NAMES if name != "repeated"))
    data_dir: str = folder()
    train_chars: int = whole(20_000, 100, 10_000_000)
    valid_chars: int = whole(5_000, 100, 100_000)
    test_chars: int = whole(20_000, 100, 900_000)
    slices: int = whole(SLICES, 1, SLICES)
    apart: int = whole(80_000, 100, 10_000_000)
    seeds: int = whole(2, 1, 1_000)
    epochs: int = whole(30, 1, 10_000)

    QUICK = {**TwoTexts.QUICK, "train_chars": 2_200, "slices": 2}
    TINY = {**TwoTexts.TINY, "slices": 2, "apart": 1_100}

    def check(self) -> None:
        if self.apart < self.train_chars:
            raise ParameterError(
                f"parameter 'apart' is {self.apart}; allowed: at least train_chars, "
                f"{self.train_chars}, or slices would share characters"
            )
        self.of(TwoTexts)

    def slice(self, number: int, name: str) -> Corpus:
        """The slice of a number, counted from 1, of the text of that name.

        Raises ValueError for a text that is too short for it.
        """
        asked = name if self.corpus == "auto" else self.corpus
        sizes = (self.train_chars, self.valid_chars, self.test_chars)
        return _slice(asked, self.data_dir, *sizes, (number - 1) * self.apart)

    def texts(self) -> list[Corpus]:
        """The text, as its first slice, printed in a line."""
        first = self.slice(1, "auto")
        print(first.describe(), flush=True)
        return [first]


@functools.cache
def _slice(name: str, data_dir: str, train: int, valid: int, test: int, offset: int) -> Corpus:
    return load_corpus(name, data_dir, train, valid, test, train_offset=offset)


@dataclass(frozen=True)
class Sliced:
    """A variant of an experiment with the parameters ``schema``, trained on one slice only.

    Networks that their experiment takes apart or times are only trained and tested here. ``turn``
    as in Run.
    """

    variant: Any
    schema: type[CharacterParameters]
    slice: int
    label: str = ""
    turn: int = 0
    factors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> tuple[Any, Objective]:
        """The model and how it is used once it is trained."""
        return self.variant.network

    def runs(self, parameters: SliceParameters, corpus: Corpus) -> Iterator[Run]:
        if self.slice > parameters.slices:
            return
        text = parameters.slice(self.slice, corpus.name)
        runs = Variant.runs if isinstance(self.variant, Probed) else type(self.variant).runs
        for run in runs(self.variant, parameters.of(self.schema), text):
            yield replace(run, turn=self.turn)


def of_first(variants: Mapping[str, Any]) -> dict[str, Any]:
    """The variants on the first slice and those of no slice: every network once."""
    return {name: v for name, v in variants.items() if getattr(v, "slice", 1) == 1}


@dataclass(frozen=True)
class Headline:
    """A comparison of ``treatment`` with ``baseline`` in the experiment ``name``, such as exp03.

    ``reported``: the report's percent change, of one run.
    """

    name: str
    words: str
    treatment: str
    baseline: str
    reported: float | None = None

    def variant(self, arm: str, number: int) -> str:
        """The id of an arm on a slice."""
        return f"{self.name}_{arm}_slice_{number}"

    def by_slice(self, results: Results) -> dict[int, np.ndarray]:
        """Percent changes by slice, a value a seed; slices that are not finished are left out.

        Raises Absent if a run diverged: the slices that remain would be a choice.
        """
        found = {}
        for number in range(1, SLICES + 1):
            arms = (self.variant(arm, number) for arm in (self.treatment, self.baseline))
            try:
                found[number] = change(*arms)(results)
            except Absent as missing:
                if "diverged" in str(missing):
                    raise
        return found

    def shown(self, results: Results) -> dict[int, np.ndarray]:
        """The same for tables and figures: nothing where a run diverged."""
        try:
            return self.by_slice(results)
        except Absent:
            return {}

    def over_slices(self) -> Measure:
        """Percent change, one value a slice: the mean over its seeds, by logarithms.

        Raises Absent if no slice is finished.
        """

        def measure(results: Results) -> np.ndarray:
            found = self.by_slice(results)
            if not found:
                raise Absent(f"variant {self.variant(self.treatment, 1)!r} has no test_ppl")
            return np.array([mean(values) for values in found.values()])

        return measure


def mean(changes: np.ndarray) -> float:
    """The mean of percent changes, by logarithms of ratios."""
    return statistics.percent_interval(changes).mean


def over_seeds(found: Mapping[int, np.ndarray]) -> Interval:
    """The same mean with the interval that random seeds alone leave, were these slices all text.

    The variance of seeds within a slice, pooled over slices, by Student's t with as many degrees of
    freedom; n is the number of runs. With one seed a slice both ends are the mean.
    """
    logs = [np.log1p(np.asarray(values) / 100) for values in found.values()]
    middle, runs = float(np.mean([v.mean() for v in logs])), sum(map(len, logs))
    freedom = runs - len(logs)
    width = 0.0
    if freedom:
        pooled = sum(float(((v - v.mean()) ** 2).sum()) for v in logs) / freedom
        error = (pooled * sum(1 / len(v) for v in logs)) ** 0.5 / len(logs)
        width = float(scipy.stats.t.ppf(0.5 + statistics.LEVEL / 2, freedom)) * error
    ends = (100 * float(np.expm1(x)) for x in (middle, middle - width, middle + width))
    return Interval(*ends, runs)


def spreads(found: Mapping[int, np.ndarray]) -> tuple[float, float]:
    """Standard deviations in points of the log ratio: between slices, and of seeds in a slice.

    The first is of the slices' means without what seeds add to it (0 at least); nan where one slice
    or one seed leaves nothing to measure.
    """
    logs = [100 * np.log1p(np.asarray(values) / 100) for values in found.values()]
    freedom = sum(map(len, logs)) - len(logs)
    inside = sum(float(((v - v.mean()) ** 2).sum()) for v in logs) / freedom if freedom else np.nan
    between = np.nan
    if len(logs) > 1 and freedom:
        added = inside * float(np.mean([1 / len(v) for v in logs]))
        between = max(float(np.var([v.mean() for v in logs], ddof=1)) - added, 0.0)
    return between**0.5, inside**0.5


def table(results: Results, headlines: tuple[Headline, ...]) -> pd.DataFrame:
    """A row a headline: the change with its interval over slices, that over seeds, both spreads."""
    rows = []
    for headline in headlines:
        found = headline.shown(results)
        if not found:
            continue
        means = np.array([mean(values) for values in found.values()])
        signs = int((means > 0).sum()), int((means < 0).sum())
        over, between = over_seeds(found), spreads(found)
        rows.append(
            {
                "comparison": headline.words,
                "Δ over slices": f"{statistics.percent_interval(means)} %",
                "slices below/above 0": f"{signs[1]}/{signs[0]}",
                "Δ over seeds": f"{over} %",
                "runs": over.n,
                "spread slices/seeds": "/".join(map(_points, between)),
                "report's": "" if headline.reported is None else f"{headline.reported:.1f} %",
            }
        )
    columns = ["comparison", "Δ over slices", "slices below/above 0"]
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else columns).set_index("comparison")
    said = (
        "percent change of test perplexity; over slices: Student's t over the slices' means, each a"
        " mean over seeds; over seeds: what seeds alone leave, pooled within slices; spreads:"
        " standard deviations in points of the log ratio, of slices without what seeds add"
    )
    stands_on = tables.caption(results()).split("; mean over")[0]
    frame.attrs["caption"] = f"{stands_on.replace('sha256', 'slice 1: sha256')}; {said}"
    return frame


def _points(value: float) -> str:
    return "–" if not np.isfinite(value) else f"{value:.1f}"
