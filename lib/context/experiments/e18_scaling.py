"""Experiment 18: how does perplexity fall with training tokens; did early stopping distort it?"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.checks import CheckFailed
from lib.context import figures as contexts
from lib.context.claims import on_ultrachat, valid_accuracy
from lib.context.early_stopping import stop_epoch
from lib.context.parameters import (
    LAYOUTS,
    QUICK_TEXT,
    REPORT_TOKENS,
    SMALL_TEXT,
    ContextParameters,
    ContextText,
)
from lib.context.phase_two import recipe
from lib.context.scaling import PowerLaw, fit_power_law, fit_with_floor, residual_interval
from lib.context.scaling_run import Recipe, ScalingRun, column, last_column, run_scaling
from lib.context.variants import Language, Sources, block, matched, window
from lib.experiment import Experiment, Run
from lib.parameters import ParameterError, whole, wholes
from lib.results import store, tables
from lib.results.claims import Measure, by_seed, difference, filled, level
from lib.results.statistics import interval
from lib.results.store import Results

REPORT = "context_scaling"
SAMPLES = (50, 100, 200, 500)  # conversations of the report's four sizes
FIXED, OWN, EQUAL = "fixed", "report", "equal_updates"
# the stopping rules (patience; 0: none) that are read off the curve of each recipe
RULES = {FIXED: (0, 1, 3), OWN: (1,), EQUAL: (0,)}
# the report's batches followed free memory: tokens / batch at its four sizes (reconstructed)
REPORT_UPDATES_PER_EPOCH = (8, 17, 40, 342)
SCHEDULES = {
    "fixed batch, fixed epochs": column(FIXED, 0, "test_ppl"),
    "fixed batch, patience 1": column(FIXED, 1, "test_ppl"),
    "fixed batch, patience 3": column(FIXED, 3, "test_ppl"),
    "the report's growing number of updates, patience 1": column(OWN, 1, "test_ppl"),
    "equal budget of updates, best epoch": column(EQUAL, 0, "test_ppl"),
    "equal updates, last one": last_column(EQUAL, "test_ppl"),
}
LEAST_SIZES, MOST_SIZES = 3, 6
MOST_WINDOWS = 6
ROUNDING = 1e-5  # of a number in a table: two epochs may stand there as equal


class Exp18(ContextParameters):
    """R3's four sizes of text; what the text does not hold becomes all it has.

    ``largest_seeds``: random seeds at the largest size. ``equal_updates``: a budget of updates for
    every size, ten epochs of the smallest. ``controls``: random seeds of the controls (no Phase 1,
    equal parameters, k-token MLPs up to ``windows``), 0 for none of them.
    """

    tokens: int = whole(529_173, 100, 10_000_000)
    text_sizes: str = wholes("56602,110516,216119,529173", 50, 10_000_000)
    largest_seeds: int = whole(5, 1, 1_000)
    equal_updates: int = whole(1_110, 1, 1_000_000)
    controls: int = whole(1, 0, 1_000)
    windows: int = whole(6, 1, MOST_WINDOWS)

    QUICK = {
        **QUICK_TEXT,
        "tokens": 3_000,
        "text_sizes": "750,1500,3000",
        "seeds": 2,
        "largest_seeds": 2,
        "batch": 128,
        "epochs": 4,
        "equal_updates": 40,
        "controls": 0,
    }
    TINY = {
        **ContextParameters.TINY,
        "text_sizes": "150,300,600",
        "batch": 64,
        "equal_updates": 4,
        "controls": 0,
    }
    LADDER = {
        "third": {
            "tokens": 176_391,
            "text_sizes": "18867,36839,72040,176391",
            "equal_updates": 370,
        },
        "tenth": {
            "tokens": 52_917,
            "text_sizes": "5660,11052,21612,52917",
            "equal_updates": 120,
        },
        "small": {
            **SMALL_TEXT,
            "tokens": 16_000,
            "text_sizes": "2000,4000,8000,16000",
            "width": 128,
            "largest_seeds": 3,
            "batch": 256,
            "equal_updates": 320,
            "controls": 0,
        },
    }

    def check(self) -> None:
        """Raises ParameterError unless ``text_sizes`` are 3 to 6, rise, end at ``tokens``, and the
        first gives more than one batch."""
        super().check()
        sizes = self.numbers("text_sizes")
        if not LEAST_SIZES <= len(sizes) <= MOST_SIZES or any(a >= b for a, b in pairwise(sizes)):
            raise ParameterError(
                f"parameter 'text_sizes' is {self.text_sizes!r}; allowed: three to {MOST_SIZES} "
                "whole numbers that strictly rise, since a law with a floor has three parameters."
            )
        if sizes[-1] != self.tokens:
            raise ParameterError(
                f"the largest of text_sizes ({self.text_sizes}) must equal tokens ({self.tokens})."
            )
        if self.batch >= sizes[0]:
            raise ParameterError(
                f"parameter 'batch' is {self.batch}; allowed: below the smallest of 'text_sizes', "
                f"{sizes[0]:g}"
            )

    def load(self) -> ContextText:
        """Text and embedding. Raises ParameterError where two sizes become all of the text."""
        text, second = super().load(), self.numbers("text_sizes")[-2]
        if text.available <= second:
            raise ParameterError(
                f"parameter 'text_sizes' is {self.text_sizes!r}; the text holds {text.available:,} "
                "tokens; allowed: all sizes but the largest below that"
            )
        return text

    def size_at(self, place: int) -> int | None:
        """Tokens asked for at a place of ``text_sizes``, counted from 1; None beyond the last."""
        sizes = self.numbers("text_sizes")
        return sizes[place - 1] if place <= len(sizes) else None

    def seeds_at(self, place: int) -> int:
        """Random seeds at a place of ``text_sizes``."""
        last = place == len(self.numbers("text_sizes"))
        return min(self.seeds, self.largest_seeds) if last else self.seeds


# --------------------------------------------------------------------------- variants


def report_batch(tokens: int, place: int, count: int) -> int:
    """Batch that gives the report's number of updates an epoch at this place of the sizes (from
    0): the smallest one, as the last token of a text has no next one to predict."""
    position = place * (len(REPORT_UPDATES_PER_EPOCH) - 1) / max(1, count - 1)
    logs = np.log(REPORT_UPDATES_PER_EPOCH)
    updates = round(np.exp(np.interp(position, range(len(logs)), logs)))
    return max(1, -(-(tokens - 1) // updates))


def recipes(parameters: Exp18, layout: str, tokens: int, place: int) -> tuple[Recipe, ...]:
    """Fixed batch for both layouts; for the report's layout also its recipe and an equal budget.

    The equal budget is ``equal_updates`` updates of one batch at every size; the last epoch ends
    where it is spent. ``place`` counts from 0.
    """
    rate, sizes = parameters.learning_rate, parameters.numbers("text_sizes")
    batch, epochs = parameters.batch, parameters.epochs
    found = [Recipe(FIXED, recipe(batch, rate, epochs, 0), RULES[FIXED])]
    if layout == "first_layer":
        theirs = report_batch(tokens, place, len(sizes))
        found.append(Recipe(OWN, recipe(theirs, rate, epochs, 1), RULES[OWN]))
        per_epoch = -(-(tokens - 1) // batch)
        spent = -(-parameters.equal_updates // per_epoch)
        budget = recipe(batch, rate, spent, 0, parameters.equal_updates)
        found.append(Recipe(EQUAL, budget, RULES[EQUAL]))
    return tuple(found)


@dataclass(frozen=True)
class Scaling:
    """A layout at one size: exact contexts, every recipe."""

    layout: str
    place: int
    label: str = ""
    factors: Mapping[str, Any] = field(default_factory=dict)

    def runs(self, parameters: Exp18, text: ContextText) -> Iterator[Run]:
        asked = parameters.size_at(self.place)
        if asked is None:
            return
        data = text.choose(parameters, tokens=asked)
        source = block(self.layout)(parameters, text.width(parameters))
        chosen = recipes(parameters, self.layout, data.tokens, self.place - 1)
        config = ScalingRun(data, source, chosen)
        for seed in range(parameters.seeds_at(self.place)):
            yield Run(run_scaling, config, seed)


def _control(label: str, sources: Sources, place: int, layout: str, contexts: str, k=None):
    """A control at one size: the fixed batch alone, stopped by ``patience``. All of them come
    after the main rows of every seed, which the report's claims stand on."""

    def data(parameters: Exp18) -> dict[str, Any] | None:
        asked = parameters.size_at(place)
        return None if asked is None else {"tokens": asked}

    def seeds(parameters: Exp18) -> int:
        return min(parameters.controls, parameters.seeds_at(place))

    factors = {"layout": layout, "contexts": contexts, "size_place": place, "k": k}
    return Language(f"{label}, size {place}", sources, factors, data, seeds, turn=1)


PLACES = range(1, MOST_SIZES + 1)
MAIN = {
    f"{layout}_size_{place}": Scaling(
        layout,
        place,
        f"{label}, size {place}",
        {"layout": layout, "contexts": "phase 1", "size_place": place, "k": None},
    )
    for place in PLACES
    for layout, label in LAYOUTS.items()
}
CONTROLS: dict[str, Language] = {}
for _place in PLACES:
    CONTROLS[f"first_layer_matched_size_{_place}"] = _control(
        f"{LAYOUTS['first_layer']}, equal parameters",
        matched,
        _place,
        "first_layer",
        "phase 1, equal parameters",
    )
    for _layout, _label in LAYOUTS.items():
        CONTROLS[f"{_layout}_random_size_{_place}"] = _control(
            f"{_label}, no Phase 1", block(_layout, phase_one=None), _place, _layout, "random"
        )
    for _k in range(1, MOST_WINDOWS + 1):
        CONTROLS[f"window_{_k}_size_{_place}"] = _control(
            f"{_k}-token MLP", window(_k), _place, "", "window", _k
        )
VARIANTS = {**MAIN, **CONTROLS}

# --------------------------------------------------------------------------- tables


def main_rows(results: Results, layout: str) -> pd.DataFrame:
    """The rows of a layout after Phase 1 at all sizes."""
    frame = results()
    return frame[(frame["layout"] == layout) & (frame["contexts"] == "phase 1")]


def sizes_asked(results: Results) -> int:
    """How many sizes of text the parameters of these results (of one text and size) ask for.

    Tables are published part by part: that a size is absent is not seen in them. A custom size's
    parameters lie beside its tables; without a folder, what is there counts as all.
    """
    size = results.sizes[0]
    if size in Exp18.sizes():
        return len(Exp18.at(size).numbers("text_sizes"))
    if given := store.parameters(results):
        return len(given["text_sizes"].split(","))
    return max(LEAST_SIZES, int(results()["size_place"].max()))


def grid(results: Results, layout: str, metric: str, whole_range: bool = True) -> pd.DataFrame:
    """Values of a metric, seeds x training tokens, without gaps.

    ``whole_range``: the seeds that have every size asked for; else the sizes that every seed has.
    Raises Absent when the layout has no value, when no seed has every size, and for fewer than
    three sizes in common; ValueError when only some of its runs have a value.
    """
    own, label = main_rows(results, layout), LAYOUTS[layout]
    if own.empty:  # before its first run a table need not have its columns
        raise store.Absent(f"{label} has no {metric}")
    filled(own[metric], f"{label} has no {metric}")
    wide = own.pivot(index="seed", columns="tokens", values=metric).astype(float)
    wide = wide.dropna(axis="index" if whole_range else "columns")
    asked = sizes_asked(results) if whole_range else LEAST_SIZES
    if wide.empty or len(wide.columns) < asked:
        lack = f"no seed of {label} has all {asked} sizes of text"
        few = f"the seeds of {label} have fewer than {asked} sizes of text in common"
        raise store.Absent(lack if whole_range else few)
    results.used.update(own["run_id"])
    return wide


def laws(results: Results, layout: str, metric: str) -> dict[str, PowerLaw]:
    """Fits through all runs at once, without and with a floor. Raises Absent below three sizes."""
    own = main_rows(results, layout)
    tokens, values = own["tokens"].to_numpy(float), own[metric].to_numpy(float)
    if len(set(tokens)) < LEAST_SIZES:
        raise store.Absent(f"{LAYOUTS[layout]} has fewer than {LEAST_SIZES} sizes of text")
    return {"no floor": fit_power_law(tokens, values), "floor": fit_with_floor(tokens, values)}


def reported_ppl() -> list[float]:
    """The report's validation perplexities at its four sizes."""
    return [store.reported_value(REPORT, f"{n} samples", "val_ppl") for n in SAMPLES]


def scaling_table(results: Results) -> pd.DataFrame:
    """Exponent by layout and schedule with interval over seeds, and the report's own fit.

    Schedules without enough sizes to be fitted are left out.
    """
    results, rows, ppl = tables.one(results.sound()), {}, reported_ppl()
    low, high = residual_interval(REPORT_TOKENS, ppl)
    law, floored = fit_power_law(REPORT_TOKENS, ppl), fit_with_floor(REPORT_TOKENS, ppl)
    rows["report: first layer, one run"] = _row(
        f"{law.alpha:.3f} [{low:.3f}, {high:.3f}]", law, f"{floored.alpha:.3f}", floored, "4, 1"
    )
    for layout, label in LAYOUTS.items():
        for name, metric in SCHEDULES.items():
            for found in _grids(results, layout, metric):
                both = laws(results, layout, metric)
                sizes = f"{len(found.columns)} sizes"
                rows[f"{label}: {name}, {sizes}"] = _row(
                    _over_seeds(found, fit_power_law),
                    both["no floor"],
                    _over_seeds(found, fit_with_floor),
                    both["floor"],
                    f"{len(found.columns)}, {len(found)}",
                )
    return tables.captioned(pd.DataFrame(rows).T.rename_axis("layout: schedule"), results())


def _grids(results: Results, layout: str, metric: str) -> list[pd.DataFrame]:
    """The grids of a schedule that can be fitted: of the whole range and of what is common, one of
    them where they are equal."""
    found: list[pd.DataFrame] = []
    for whole_range in (True, False):
        try:
            wide = grid(results, layout, metric, whole_range)
        except KeyError:  # Absent, or a recipe of the report's layout only
            continue
        if not any(wide.equals(other) for other in found):
            found.append(wide)
    return found


def _over_seeds(wide: pd.DataFrame, fit: Callable[..., PowerLaw]) -> str:
    """Mean [95 % interval] of the exponents that ``fit`` finds seed by seed."""
    found = interval(seed_exponents(wide, fit))
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def seed_exponents(wide: pd.DataFrame, fit: Callable[..., PowerLaw]) -> list[float]:
    """The exponent that ``fit`` finds for each seed."""
    return [fit(list(wide.columns), row).alpha for row in wide.to_numpy()]


def _row(exponent: str, law: PowerLaw, floor_exponent: str, floored: PowerLaw, n: str) -> dict:
    """``law`` and ``floored`` are fitted through all runs at once."""
    return {
        "exponent": exponent,
        "sizes, n": n,
        "change by twice the data": f"{100 * (2**law.alpha - 1):.1f} %",
        "R²": f"{law.r2:.3f}",
        "exponent with floor": floor_exponent,
        "floor": f"{floored.floor:.0f}",
    }


def sizes_table(results: Results) -> pd.DataFrame:
    """Every layout and number of tokens: perplexity, that with patience 1, accuracy, rank."""
    results, rows = tables.one(results.sound()), {}
    frame = results()
    for variant in frame.loc[frame["contexts"] == "phase 1", "variant"].unique():
        own = frame[frame["variant"] == variant]
        name = re.sub(r", size \d+$", "", results.labels[variant])
        rows[f"{name}, {own['tokens'].iloc[0]:,.0f} tokens"] = {
            "test PPL": str(tables.seeds_interval(frame, variant, "test_ppl")),
            "n": len(own),
            "unigram": f"{own['unigram_test_ppl'].mean():.0f}",
            "with patience 1": f"{own[column(FIXED, 1, 'test_ppl')].mean():.0f}",
            "accuracy %": f"{own['test_acc_pct'].mean():.1f}",
            "effective rank %": f"{own['er_pct'].mean():.1f}",
        }
    return tables.captioned(pd.DataFrame(rows).T.rename_axis("layout, training text"), frame)


def controls_table(results: Results) -> pd.DataFrame:
    """Test perplexity of the controls and of the main rows, contexts by training tokens."""
    frame = tables.one(results.sound())()
    names = frame["label"].str.replace(r", size \d+$", "", regex=True)
    found = frame.assign(contexts=names).pivot_table(
        index="contexts", columns="tokens", values="test_ppl", sort=False
    )
    return tables.captioned(found.round(1), frame)


# --------------------------------------------------------------------------- figures


def draw_laws(results: Results) -> Figure:
    """Both layouts under the fixed schedule, with the fits without and with a floor.

    Exponents are those of the table: means over random seeds where every size has been run. A
    layout that no seed has at every size is drawn without a fit. Raises Absent where there is no
    run of either.
    """
    results = tables.one(results)
    series, fits = {}, {}
    by = {"no floor": fit_power_law, "floor": fit_with_floor}
    for layout, label in LAYOUTS.items():
        rows = main_rows(results, layout)
        if rows.empty:
            continue
        series[label] = pd.DataFrame({"tokens": rows["tokens"], "ppl": rows["test_ppl"]})
        try:
            wide = grid(results, layout, "test_ppl")
        except store.Absent:
            continue
        fits[label] = [
            (name, law, float(np.mean(seed_exponents(wide, by[name]))))
            for name, law in laws(results, layout, "test_ppl").items()
        ]
    if not series:
        raise store.Absent("no run after Phase 1 has ended")
    title = f"Test perplexity over training tokens ({tables.corpora(results())})"
    return contexts.power_laws(series, fits, title)


def draw_schedules(results: Results) -> Figure:
    """Exponents of the report's layout under every schedule, seed by seed, beside the report's.

    Of the seeds that have every size: a schedule that none has is left out.
    """
    results = tables.one(results)
    found = {}
    for name, metric in SCHEDULES.items():
        with contextlib.suppress(store.Absent):
            found[name] = seed_exponents(grid(results, "first_layer", metric), fit_power_law)
    ppl = reported_ppl()
    alpha = fit_power_law(REPORT_TOKENS, ppl).alpha
    reported = (alpha, *residual_interval(REPORT_TOKENS, ppl))
    means = sorted(np.mean(values) for values in found.values())
    span = f"lie between {means[0]:.2f} and {means[-1]:.2f}" if means else "are not measured"
    own = tables.corpora(main_rows(results, "first_layer"))
    title = f"Mean exponents {span}; the report's is {alpha:.2f}".replace("-", "−")
    return contexts.exponents(found, reported, f"{title}\n({LAYOUTS['first_layer']}, {own})")


# --------------------------------------------------------------------------- checks


def check_replay(results: Results) -> None:
    """Raises CheckFailed unless every reported number is found again in the curves.

    For every recipe and stopping rule: the epoch lies where the rule still runs, no epoch before
    its end has a lower validation perplexity, so that test did not choose it, and both reported
    perplexities are of that epoch. For the equal budget also: the last columns are those of the
    last epoch, and of equally many updates at every number of training tokens.
    """
    for corpus, size in results()[["corpus", "size"]].drop_duplicates().itertuples(index=False):
        updates = _check_replay(results.on(corpus, size))
        if len(updates) > 1:
            raise CheckFailed(f"updates differ between training texts: {sorted(updates)}")
        every = f"; {updates.pop()} updates with every training text" if updates else ""
        print(f"{corpus}, size {size}: reported epochs are those of the curves{every}")


def _check_replay(results: Results) -> set[int]:
    """Check one text and size; the numbers of updates of the equal budget."""
    rows = results().set_index(["variant", "seed"])
    curve = results("curve")
    curves = curve[curve["recipe"].notna()].groupby(["recipe", "variant", "seed"])
    updates = set()
    for (name, variant, seed), own in curves:
        own = own.sort_values("epoch").set_index("epoch")
        row, where = rows.loc[(variant, seed)], f"{variant}, seed {seed}, {name}"
        for patience in RULES[name]:
            end = stop_epoch(own["valid_loss"].tolist(), patience)
            epoch = int(row[column(name, patience, "epoch")])
            if epoch > end:
                raise CheckFailed(f"{where}, patience {patience}: epoch {epoch} is after {end}")
            valid = own["val_ppl"].loc[:end]
            if valid[epoch] > valid.min() * (1 + ROUNDING):
                raise CheckFailed(
                    f"{where}, patience {patience}: epoch {epoch} has a valid perplexity of "
                    f"{valid[epoch]:.6g}, epoch {valid.idxmin()} the lower {valid.min():.6g}"
                )
            metrics = ("val_ppl", "test_ppl")
            _compare(row, {column(name, patience, key): own[key][epoch] for key in metrics}, where)
        if name == EQUAL:
            last = own.iloc[-1]
            metrics = ("test_ppl", "val_ppl", "updates")
            _compare(row, {last_column(EQUAL, key): last[key] for key in metrics}, where)
            updates.add(int(last["updates"]))
    return updates


def _compare(row: pd.Series, expected: dict[str, float], where: str) -> None:
    for name, value in expected.items():
        if not np.isclose(row[name], value, rtol=1e-4):
            raise CheckFailed(f"{where}: {name} is {row[name]}, the curve says {value}")


# --------------------------------------------------------------------------- claims


def exponents(
    layout: str, metric: str = "test_ppl", whole_range: bool = True, part: str = "alpha"
) -> Measure:
    """Exponent of the law without floor, or another ``part`` of it (``r2``), one a seed."""

    def measure(results: Results) -> np.ndarray:
        wide = grid(results, layout, metric, whole_range)
        laws = [fit_power_law(list(wide.columns), row) for row in wide.to_numpy()]
        return np.array([getattr(law, part) for law in laws])

    return measure


def exponent_gap(layout: str, metric: str, baseline: str) -> Measure:
    """Difference of exponents of two schedules, seed by seed, over the sizes all seeds have."""
    return difference(exponents(layout, metric, False), exponents(layout, baseline, False))


def step(layout: str, metric: str) -> Measure:
    """Change of a metric from the second largest to the largest size, seed by seed."""

    def measure(results: Results) -> np.ndarray:
        wide = grid(results, layout, metric)
        return (wide.iloc[:, -1] - wide.iloc[:, -2]).to_numpy()

    return measure


def patience_cost(patience: int) -> Measure:
    """Percent by which stopping early raises test perplexity at the largest size."""

    def measure(results: Results) -> np.ndarray:
        early = grid(results, "first_layer", column(FIXED, patience, "test_ppl"))
        fixed = grid(results, "first_layer", column(FIXED, 0, "test_ppl"))
        return (100 * (early / fixed - 1)).iloc[:, -1].to_numpy()

    return measure


def rank_spread(results: Results) -> np.ndarray:
    """Largest minus smallest effective rank over the sizes, in points, seed by seed."""
    wide = grid(results, "first_layer", "er_pct")
    return (wide.max(axis=1) - wide.min(axis=1)).to_numpy()


def worse_than_unigram(results: Results) -> np.ndarray:
    """Percent change from the unigram model to the report's recipe at the smallest size."""
    metric = column(OWN, 1, "test_ppl")
    ours = by_seed(results, "first_layer_size_1", metric)
    unigram = by_seed(results, "first_layer_size_1", "unigram_test_ppl")
    return (100 * (ours / unigram - 1)).to_numpy()


claim = on_ultrachat(REPORT, "R3, section 4", unit="exponent")
stopping_claim = on_ultrachat(REPORT, "R3, section 5")
COST = {"unit": "% change of perplexity", "expect": "above", "threshold": 1.0}

CLAIMS = (
    claim(
        "falls",
        "Perplexity falls with training tokens (exponent of a power law below 0)",
        exponents("first_layer"),
        "one validation and one test text, one batch for all sizes; seeds that have every size",
        reported=-0.459,
    ),
    claim(
        "falls-common",
        "... also over the sizes that every random seed has",
        exponents("first_layer", whole_range=False),
        "one validation and one test text, one batch for all sizes",
        explains="falls",
    ),
    claim(
        "steepness",
        "The exponent is as steep as -0.459 under a fixed batch and fixed texts (within 0.05)",
        lambda results: exponents("first_layer", whole_range=False)(results) + 0.459,
        "over the sizes that every random seed has",
        expect="within",
        threshold=0.05,
        unit="difference of exponent",
        explains="falls",
    ),
    claim(
        "recipe-steepens",
        "The report's growing number of updates makes the exponent steeper, patience 1 in both",
        exponent_gap("first_layer", column(OWN, 1, "test_ppl"), column(FIXED, 1, "test_ppl")),
        "same contexts, texts, sizes and patience; only the batch differs: it gives the report's 8 "
        "to 342 updates an epoch",
        unit="difference of exponent",
        explains="falls",
    ),
    claim(
        "recipe-and-stopping-steepen",
        "The report's batches with patience 1 make the exponent steeper than a fixed batch that "
        "never stops early",
        exponent_gap("first_layer", column(OWN, 1, "test_ppl"), column(FIXED, 0, "test_ppl")),
        "same contexts, texts and sizes; batch and stopping differ together",
        unit="difference of exponent",
        explains="falls",
    ),
    claim(
        "equal-budget",
        "The exponent stays below 0 when every size gets an equal budget of updates",
        exponents("first_layer", column(EQUAL, 0, "test_ppl"), False),
        "best epoch on valid within equally many updates of one batch for every size",
        explains="falls",
    ),
    claim(
        "equal-updates-last",
        "... also at the last update, where every size has made equally many",
        exponents("first_layer", last_column(EQUAL, "test_ppl"), False),
        "all updates of the budget, one batch for every size, no choice of the epoch",
        explains="falls",
    ),
    claim(
        "smallest-beats-unigram",
        "The report's recipe at the smallest size beats the unigram model",
        worse_than_unigram,
        "add-one unigram model of the same training tokens",
        unit="% change of perplexity",
        explains="falls",
    ),
    claim(
        "rank-constant",
        "The effective rank hardly depends on the number of tokens (spread below 3 points)",
        rank_spread,
        "rank of exact contexts on one fixed test text",
        threshold=3.0,
        reported=0.8,
        unit="points of effective rank",
    ),
    stopping_claim(
        "accuracy-dips",
        "Accuracy falls from the second largest to the largest size",
        step("first_layer", column(OWN, 1, "test_acc_pct")),
        "fixed test text; batches and patience as in the report (whose texts differed by size)",
        reported=-2.2,
        unit="points of accuracy",
    ),
    stopping_claim(
        "early-stopping-costs",
        "Patience 1 stops too early at the largest size (costs over 1 %)",
        patience_cost(1),
        "one batch for all sizes; patience 1 replayed on its curve; best epoch on valid in both",
        explains="falls",
        **COST,
    ),
    stopping_claim(
        "patience-3-helps",
        "Patience 3 still costs over 1 % at the largest size",
        patience_cost(3),
        "patience 3 against fixed length, replayed on the same curve",
        explains="falls",
        **COST,
    ),
)


def beside_size(place: int) -> dict[str, Measure]:
    """Measures beside a row of the report's table: its layout, batches and patience of 1."""
    variant = f"first_layer_size_{place}"
    return {
        "tokens": level(variant, "tokens"),
        "val_ppl": level(variant, column(OWN, 1, "val_ppl")),
        "acc_pct": valid_accuracy(variant, column(OWN, 1, "epoch"), recipe=OWN),
        "er_pct": level(variant, "er_pct"),
    }


BESIDE = {
    (f"{samples} samples", metric): measure
    for place, samples in enumerate(SAMPLES, start=1)
    for metric, measure in beside_size(place).items()
} | {
    ("fit", part): exponents("first_layer", column(OWN, 1, "val_ppl"), part=part)
    for part in ("alpha", "r2")
}
REMARKS = {
    "*: er_pct": "ours of test contexts",
    "*: val_ppl": "the small size scores held types only, which is easier",
    "*: acc_pct": "the small size scores held types only, which is easier",
}

E18 = Experiment(
    slug="18_scaling",
    question="How does perplexity fall with training tokens, and did early stopping distort it?",
    parameters=Exp18,
    texts=Exp18.texts,
    variants=VARIANTS,
    baseline="first_layer_size_1",
    report=REPORT,
    figures={"laws": draw_laws, "schedules": draw_schedules},
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
    shares={"16_token_input": ("layout", "contexts", "k")},  # controls at its number of tokens
)
