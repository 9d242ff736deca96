"""Experiment 18: how does perplexity fall with training tokens; did early stopping distort it?"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.checks import CheckFailed
from lib.results.statistics import bootstrap
from lib.context.early_stopping import stop_epoch
from lib.context.scaling import (
    PowerLaw,
    fit_power_law,
    fit_with_floor,
    residual_interval,
)
from lib.context.scaling_run import column, last_column
from lib.context.experiments import scaling_claims
from lib.context.experiments import scaling_variants
from lib.context.experiments.context_vector import LAYOUTS
from lib.context.experiments.scaling_claims import grid
from lib.context.experiments.scaling_variants import (
    EQUAL,
    EXPERIMENT,
    FIRST,
    FIXED,
    RULES,
    SCHEDULES,
    SEED_TOKENS,
    SLUG,
)
from lib.context import figures as contexts
from lib.results import store, tables

Exp18 = PARAMETERS = scaling_variants.Exp18
run = scaling_variants.run
CLAIMS = scaling_claims.CLAIMS


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
    rows["seed: first layer, one run"] = _row(
        f"{law.alpha:.3f} [{low:.3f}, {high:.3f}]", law, f"{floored.alpha:.3f}", floored, 1
    )
    for layout in LAYOUTS:
        for name, metric in SCHEDULES.items():
            try:
                found = grid(frame, layout, metric)
            except store.Absent:  # a recipe of the seed's layout only
                continue
            both = laws(frame, layout, metric)
            rows[f"{LAYOUTS[layout]}: {name}"] = _row(
                _over_seeds(found, fit_power_law),
                both["no floor"],
                _over_seeds(found, fit_with_floor),
                both["floor"],
                len(found),
            )
    return tables.captioned(pd.DataFrame(rows).T, frame)


def _over_seeds(wide: pd.DataFrame, fit: Callable[..., PowerLaw]) -> str:
    """Mean [95 % interval] of the exponents that ``fit`` finds seed by seed."""
    found = bootstrap([fit(list(wide.columns), row).alpha for row in wide.to_numpy()])
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _row(exponent: str, law: PowerLaw, floor_exponent: str, floored: PowerLaw, n: int) -> dict:
    """``law`` and ``floored`` are fitted through all seeds at once."""
    return {
        "exponent": exponent,
        "R²": f"{law.r2:.3f}",
        "2x data": f"{100 * (2**law.alpha - 1):.1f} %",
        "exponent with floor": floor_exponent,
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


def check_replay(frame: pd.DataFrame, size: str) -> None:
    """Raises CheckFailed unless every reported number is found again in the curves.

    For every recipe and stopping rule: the epoch lies where the rule still runs, no epoch before
    its end has a lower validation perplexity, and the test perplexity is of that epoch. For the
    equal budget also: the last columns are those of the last epoch, and of equally many updates at
    every size.
    """
    rows = frame.set_index(["variant", "seed"])
    curves = store.read(SLUG, "curve", size).groupby(["recipe", "variant", "seed"])
    updates = set()
    for (recipe, name, seed), own in curves:
        own = own.sort_values("epoch").set_index("epoch")
        row, where = rows.loc[(name, seed)], f"{name}, seed {seed}, {recipe}"
        for patience in RULES[recipe]:
            end = stop_epoch(own["val_loss"].tolist(), patience)
            epoch = int(row[column(recipe, patience, "epoch")])
            if epoch > end:
                raise CheckFailed(f"{where}, patience {patience}: epoch {epoch} is after {end}")
            best = {"val_ppl": own["val_ppl"].loc[:end].min(), "test_ppl": own["test_ppl"][epoch]}
            _compare(row, {column(recipe, patience, key): x for key, x in best.items()}, where)
        if recipe == EQUAL:
            last = own.iloc[-1]
            metrics = ("test_ppl", "val_ppl", "updates")
            _compare(row, {last_column(EQUAL, key): last[key] for key in metrics}, where)
            updates.add(int(last["updates"]))
    if len(updates) > 1:
        raise CheckFailed(f"updates differ between sizes: {sorted(updates)}")
    print(f"reported epochs are those of the curves; {updates.pop()} updates at every size")


def _compare(row: pd.Series, expected: dict[str, float], where: str) -> None:
    for name, value in expected.items():
        if not np.isclose(row[name], value, rtol=1e-4):
            raise CheckFailed(f"{where}: {name} is {row[name]}, the curve says {value}")
