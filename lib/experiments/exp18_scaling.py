"""Experiment 18: how does perplexity fall with training tokens; did early stopping distort it?"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.analysis.checks import CheckFailed
from lib.context.scaling import (
    PowerLaw,
    exponent_interval,
    fit_power_law,
    fit_with_floor,
    residual_interval,
)
from lib.context.scaling_run import column
from lib.experiments import scaling_variants
from lib.experiments.context_vector import LAYOUTS
from lib.experiments.scaling_variants import (
    EQUAL,
    EXPERIMENT,
    FIRST,
    FIXED,
    PATIENCES,
    SCHEDULES,
    SEED,
    SEED_TOKENS,
    SLUG,
    variant,
)
from lib.figures import contexts
from lib.results import store, tables
from lib.results.claims import by_seed, claim_maker, difference

Exp18 = PARAMETERS = scaling_variants.Exp18
run = scaling_variants.run


def grid(frame: pd.DataFrame, layout: str, metric: str) -> pd.DataFrame:
    """Values of a metric, seeds x sizes; raises KeyError when the layout has none."""
    own = frame[frame["variant"].str.startswith(LAYOUTS[layout] + ",")]
    if metric not in own or own[metric].isna().all():
        raise KeyError(f"{LAYOUTS[layout]} has no {metric}")
    return own.pivot(index="seed", columns="tokens", values=metric).astype(float)


def laws(frame: pd.DataFrame, layout: str, metric: str) -> dict[str, PowerLaw]:
    """Fits through all seeds, without and with a floor."""
    found = grid(frame, layout, metric)
    tokens = np.tile(found.columns.to_numpy(float), len(found))
    values = found.to_numpy().ravel()
    return {"no floor": fit_power_law(tokens, values), "floor": fit_with_floor(tokens, values)}


def scaling_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Exponent by layout and schedule with interval over seeds, and the seed's own fit."""
    rows = {}
    reported = store.reported(EXPERIMENT)
    ppl = [reported_ppl(reported, samples) for samples in (50, 100, 200, 500)]
    low, high = residual_interval(SEED_TOKENS, ppl)
    law = fit_power_law(SEED_TOKENS, ppl)
    floored = fit_with_floor(SEED_TOKENS, ppl)
    rows["seed: first layer, one run"] = _row(law, (low, high), floored, "", 1)
    for layout in LAYOUTS:
        for name, metric in SCHEDULES.items():
            try:
                found = grid(frame, layout, metric)
            except KeyError:
                continue
            both, intervals = laws(frame, layout, metric), ("", "")
            if len(found) > 1:
                sizes, values = list(found.columns), found.to_numpy()
                intervals = tuple(
                    exponent_interval(sizes, values, floor=floor) for floor in (False, True)
                )
            rows[f"{LAYOUTS[layout]}: {name}"] = _row(
                both["no floor"], intervals[0], both["floor"], intervals[1], len(found)
            )
    return tables.captioned(pd.DataFrame(rows).T, frame)


def _row(law: PowerLaw, interval, floored: PowerLaw, floor_interval, n: int) -> dict:
    def spoken(pair) -> str:
        return f" [{pair[0]:.3f}, {pair[1]:.3f}]" if pair else ""

    return {
        "exponent": f"{law.alpha:.3f}{spoken(interval)}",
        "R²": f"{law.r2:.3f}",
        "2x data": f"{100 * (2**law.alpha - 1):.1f} %",
        "exponent with floor": f"{floored.alpha:.3f}{spoken(floor_interval)}",
        "floor": f"{floored.floor:.0f}",
        "R² with floor": f"{floored.r2:.3f}",
        "n": n,
    }


def reported_ppl(reported: pd.DataFrame, samples: int) -> float:
    """Validation perplexity of one size of the seed's table."""
    rows = reported[(reported["row"] == f"{samples} samples") & (reported["metric"] == "val_ppl")]
    return float(rows["value"].iloc[0])


def sizes_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every size and layout: perplexity, accuracy, rank, epochs and updates by stopping rule."""
    rows = {}
    for name in frame["variant"].unique():
        own = frame[frame["variant"] == name]
        rows[name] = {
            "unigram": f"{own['unigram_test_ppl'].mean():.0f}",
            "test PPL": str(tables.interval(frame, name, "test_ppl")),
            "accuracy %": f"{own['test_acc_pct'].mean():.1f}",
            "effective rank %": f"{own['er_pct'].mean():.1f}",
            "best epoch": f"{own['best_epoch'].mean():.1f}",
            "PPL, patience 1": f"{own[column(FIXED, 1, 'test_ppl')].mean():.0f}",
            "epoch, patience 1": f"{own[column(FIXED, 1, 'epoch')].mean():.1f}",
            "PPL, patience 3": f"{own[column(FIXED, 3, 'test_ppl')].mean():.0f}",
            "n": len(own),
        }
    return tables.captioned(pd.DataFrame(rows).T, frame)


def draw_laws(size: str) -> Figure:
    """Both layouts under the fixed schedule, with the fits without and with a floor."""
    frame = store.read(SLUG, size=size)
    series, fits = {}, {}
    for layout, label in LAYOUTS.items():
        rows = frame[frame["variant"].str.startswith(label + ",")]
        series[label] = pd.DataFrame({"tokens": rows["tokens"], "ppl": rows["test_ppl"]})
        fits[label] = list(laws(frame, layout, "test_ppl").items())
    title = f"Test perplexity over training tokens ({tables.corpora(frame)})"
    return contexts.power_laws(series, fits, title)


def draw_schedules(size: str) -> Figure:
    """The seed's layout under every schedule."""
    frame = store.read(SLUG, size=size)
    series, fits = {}, {}
    for name, metric in SCHEDULES.items():
        wide = grid(frame, "first_layer", metric)
        rows = wide.stack().rename("ppl").reset_index()
        series[name] = rows[["tokens", "ppl"]]
        fits[name] = [("no floor", fit_power_law(rows["tokens"], rows["ppl"]))]
    title = f"{FIRST}: the exponent under each schedule ({tables.corpora(frame)})"
    return contexts.power_laws(series, fits, title)


FIGURES = {"laws": draw_laws, "schedules": draw_schedules}


def exponents(layout: str, metric: str = "test_ppl"):
    """Exponent of the law without floor, one a seed."""

    def measure(found) -> np.ndarray:
        wide = grid(found(), layout, metric)
        return np.array([fit_power_law(list(wide.columns), row).alpha for row in wide.to_numpy()])

    return measure


def exponent_gap(layout: str, metric: str, baseline: str):
    """Difference of exponents between two schedules, seed by seed."""
    return difference(exponents(layout, metric), exponents(layout, baseline))


def step(layout: str, metric: str, last: int = 1):
    """Change of a metric from the second largest to the largest size, seed by seed."""

    def measure(found) -> np.ndarray:
        wide = grid(found(), layout, metric)
        return (wide.iloc[:, -1] - wide.iloc[:, -2]).to_numpy()

    return measure


def patience_cost(metric_patience: int):
    """Percent by which stopping early raises test perplexity at the largest size."""

    def measure(found) -> np.ndarray:
        early = grid(found(), "first_layer", column(FIXED, metric_patience, "test_ppl"))
        fixed = grid(found(), "first_layer", column(FIXED, 0, "test_ppl"))
        return (100 * (early / fixed - 1)).iloc[:, -1].to_numpy()

    return measure


def rank_spread(found) -> np.ndarray:
    """Largest minus smallest effective rank over the sizes, in points, seed by seed."""
    wide = grid(found(), "first_layer", "er_pct")
    return (wide.max(axis=1) - wide.min(axis=1)).to_numpy()


def worse_than_unigram(found) -> np.ndarray:
    """Percent change from the unigram model to the seed's recipe at the smallest size."""
    frame = found()
    ours = grid(frame, "first_layer", column(SEED, 1, "test_ppl")).iloc[:, 0]
    name = variant("first_layer", int(ours.name))
    return (100 * (ours / by_seed(frame, name, "unigram_test_ppl") - 1)).to_numpy()


def check_replay(frame: pd.DataFrame, size: str) -> None:
    """Raises CheckFailed unless replayed stopping never beats the best epoch on validation."""
    for layout in LAYOUTS:
        free = grid(frame, layout, column(FIXED, 0, "val_ppl"))
        for patience in PATIENCES[1:]:
            early = grid(frame, layout, column(FIXED, patience, "val_ppl"))
            if (early < free - 1e-9).to_numpy().any():
                raise CheckFailed(f"patience {patience} found a better epoch than the best one")
    curve = store.read(SLUG, "curve", size)
    equal = curve[curve["recipe"] == EQUAL].groupby(["variant", "seed"])["updates"].max()
    if equal.nunique() > 1:
        raise CheckFailed(f"updates differ between sizes: {sorted(equal.unique())}")
    print(f"stopping rules are consistent; {int(equal.iloc[0])} updates at every size")


_claim = claim_maker(EXPERIMENT, SLUG, "seed 003, section 4", unit="exponent", min_seeds=3)

CLAIMS = (
    _claim(
        "falls",
        "Perplexity falls with training tokens by a power law (exponent below 0)",
        exponents("first_layer"),
        "one validation and one test text, one vocabulary, one batch for all sizes",
        reported=-0.459,
    ),
    _claim(
        "steepness",
        "The exponent is as steep as -0.459 under a fixed batch and fixed texts (within 0.05)",
        lambda found: exponents("first_layer")(found) + 0.459,
        "sizes are 2,000 to 16,000 tokens of another text, so this speaks of the recipe only",
        expect="within",
        threshold=0.05,
        unit="difference of exponent",
    ),
    _claim(
        "recipe-steepens",
        "The seed's growing number of updates makes the exponent steeper",
        exponent_gap("first_layer", column(SEED, 1, "test_ppl"), column(FIXED, 0, "test_ppl")),
        "same contexts, texts and sizes; batches that give the seed's 8 to 342 updates an epoch",
        unit="difference of exponent",
        source="control of seed 003, section 4",
    ),
    _claim(
        "equal-updates",
        "The exponent stays below 0 when every size gets equally many updates",
        exponents("first_layer", column(EQUAL, 0, "test_ppl")),
        "320 updates of one batch for every size, best epoch on valid",
    ),
    _claim(
        "smallest-beats-unigram",
        "The seed's recipe at the smallest size beats the unigram model",
        worse_than_unigram,
        "add-one unigram model of the same training tokens",
        unit="% change of perplexity",
        source="control of seed 003, section 4",
    ),
    _claim(
        "rank-constant",
        "The effective rank hardly depends on the number of tokens (spread below 3 points)",
        rank_spread,
        "rank of exact contexts on one fixed test text",
        threshold=3.0,
        reported=0.8,
        unit="points of effective rank",
    ),
    _claim(
        "accuracy-dips",
        "Accuracy falls from the second largest to the largest size",
        step("first_layer", column(FIXED, 1, "test_acc_pct")),
        "fixed test text; patience 1 as in the seed (whose texts differed by size)",
        reported=-2.2,
        unit="points of accuracy",
        source="seed 003, section 5",
    ),
    _claim(
        "early-stopping-costs",
        "Patience 1 stops too early at the largest size (costs over 1 %)",
        patience_cost(1),
        "patience 1 replayed on the curve of the run of fixed length; best epoch on valid in both",
        expect="above",
        threshold=1.0,
        unit="% change of perplexity",
        source="seed 003, section 5",
    ),
    _claim(
        "patience-3-helps",
        "Patience 3 still costs over 1 % at the largest size",
        patience_cost(3),
        "patience 3 against fixed length, replayed on the same curve",
        expect="above",
        threshold=1.0,
        unit="% change of perplexity",
        source="seed 003, section 5",
    ),
)
