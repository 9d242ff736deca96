"""Experiment 19: what makes a cascade better than its base, and does routing have a part in it?"""

from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from lib.checks import CheckFailed
from lib.results.statistics import bootstrap
from lib.cascade.material import MaterialHandle
from lib.cascade.routed import RoutedForCausalLM
from lib.cascade.experiments import ladder_claims
from lib.cascade.experiments import ladder_variants
from lib.cascade.experiments.cascade import finish
from lib.cascade.experiments.ladder_claims import RIVALS, best_routed, best_unrouted
from lib.cascade.experiments.ladder_variants import (
    ABLATIONS,
    ALL,
    BASE,
    CLOCK,
    LADDER,
    LOW_RANK,
    RANDOM,
    REVERSED,
    ROUTED,
    SLUG,
    STUDY,
    TUNED,
    all_tokens,
    study_name,
    timings,
)
from lib.cascade import pareto
from lib.results import store, tables
from lib.runs.sweep import RUNS

Exp19 = PARAMETERS = ladder_variants.Exp19
CLAIMS = ladder_claims.CLAIMS
DECISIVE = (BASE, ROUTED, RANDOM, *(all_tokens(d) for d in (1, 2)), TUNED, LOW_RANK)


def run(material: MaterialHandle, parameters: Exp19) -> pd.DataFrame:
    """Train all variants; one row a variant and seed, tables ``curve``, ``routes``, ``clock``."""
    tasks, timed = (make(material, parameters) for make in (ladder_variants.tasks, timings))
    return finish(SLUG, tasks, parameters, timed)


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that were scored: all but the clocks, which have no perplexity."""
    return frame[~frame["variant"].str.startswith(CLOCK)]


def check_rates(frame: pd.DataFrame, parameters: Exp19) -> None:
    """Raises CheckFailed unless each kind of arm has the learning rate that its study found best
    on valid; a run without a study, or of another size than full, is not checked."""
    if not parameters.study_windows or parameters.size != store.FULL:
        print("no study of learning rates at this size: the full size's rates are used")
        return
    chosen = {
        ROUTED: parameters.learning_rate,
        **dict(
            zip(
                map(all_tokens, parameters.numbers("depths")),
                parameters.numbers("all_learning_rates"),
                strict=True,
            )
        ),
        TUNED: parameters.tuned_learning_rate,
        LOW_RANK: parameters.low_rank_learning_rate,
    }
    for arm, rate in chosen.items():
        found = {
            tried: frame.loc[frame["variant"] == study_name(arm, tried), "val_ppl"].item()
            for tried in parameters.numbers("study_rates")
        }
        best = min(found, key=found.get)
        if best != rate:
            raise CheckFailed(f"{arm} is trained at {rate:g}, but {best:g} is best on valid")
        print(f"{arm}: learning rate {rate:g}, best of {len(found)} on valid")


def leave_model(material: MaterialHandle, frame: pd.DataFrame, budget: float, size: str) -> dict:
    """Put base, best routed stage and gate together, save, load with ``from_pretrained``, compare.

    The model of the first seed is left in its run's folder as ``model``. Returns what was compared
    on the first test windows, and where the model lies.
    """
    found, routes = material.open(), store.read(SLUG, "routes", size)
    variant, rate = best_routed(routes, budget)
    folder = _folder(frame, variant)
    own = routes[(routes["rule"] == "gate") & (routes["wanted_rate"] == rate)]
    own = own[(own["variant"] == variant) & (own["seed"] == 0)].iloc[0]
    model = RoutedForCausalLM.assemble(found.base, folder, "gate", own["threshold"])
    model.save_pretrained(folder / "model")
    found.base.tokenizer.save_pretrained(folder / "model")
    loaded = RoutedForCausalLM.from_pretrained(folder / "model").eval()
    inputs = found.windows["test"].inputs[:2]
    with torch.inference_mode():
        out, again = model(inputs), loaded(inputs)
        alone = found.base.model(inputs).logits
    stays = again.answered_by == 0
    return {
        "left in": f"results/runs/{folder.name}/model",
        "stage": variant,
        "loaded model equals saved": torch.equal(out.logits, again.logits),
        "unrouted tokens equal the base": torch.allclose(
            again.logits[stays], alone[stays], atol=1e-4
        ),
        "routed share": 1 - stays.float().mean().item(),
    }


def _folder(frame: pd.DataFrame, variant: str) -> Path:
    found = frame[(frame["variant"] == variant) & (frame["seed"] == 0)]
    return RUNS / found["run_id"].iloc[0]


def decisive_table(frame: pd.DataFrame, names: tuple[str, ...] = DECISIVE) -> pd.DataFrame:
    """Means [95 % intervals] of trained variants on all tokens, and their cost."""
    columns = {
        "FLOPs": "flops",
        "all tokens": "test_ppl",
        "outside the template": "test_content_ppl",
        "valid": "val_ppl",
    }
    if "wikitext_ppl" in frame:
        columns["WikiText-2"] = "wikitext_ppl"
    rows = {}
    for name in names:
        own = frame[frame["variant"] == name]
        if own.empty:
            continue
        change = 100 * (own["test_ppl"] / own["base_test_ppl"] - 1)
        rows[name] = {"n": len(own), "trained": f"{own['params'].iloc[0]:,.0f}"}
        rows[name] |= {
            title: str(tables.interval(frame, name, column)) for title, column in columns.items()
        }
        rows[name]["against base"] = f"{bootstrap(change)} %"
        if name == BASE:
            rows[name]["trained"] = "0"
    return tables.captioned(pd.DataFrame.from_dict(rows, orient="index"), frame)


def reversed_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The arms that learnt from WikiText-2; valid is WikiText-2 too."""
    names = tuple(name + REVERSED for name in (ALL, TUNED))
    return decisive_table(frame, (BASE, *names))


def ladder_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every rung and ablation."""
    return decisive_table(frame, (*LADDER, *ABLATIONS))


def study_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Validation perplexity by kind of arm and learning rate (one seed, less text)."""
    own = frame[frame["variant"].str.startswith(STUDY)]
    parts = own["variant"].str.removeprefix(STUDY).str.rsplit(" at ", n=1, expand=True)
    if parts.empty:
        return pd.DataFrame()
    table = own.assign(arm=parts[0], rate=parts[1].astype(float))
    table = table.pivot_table(index="arm", columns="rate", values="val_ppl", sort=False)
    return tables.captioned(table.round(3), own)


def routes_table(size: str, variant: str = ALL) -> pd.DataFrame:
    """Test perplexity of all tokens by rule and rate of a stage trained on all, mean over seeds;
    ``chance`` is random routing of as many tokens as the gate routes, ``mixed`` the gate with base
    and stage averaged."""
    frame = store.read(SLUG, "routes", size)
    frame = frame[frame["variant"] == variant]
    table = frame.pivot_table(index="wanted_rate", columns="rule", values="test_ppl")
    gate = frame[frame["rule"] == "gate"].groupby("wanted_rate")
    table["gate, mixed"] = gate["test_mixed_ppl"].mean()
    table["chance"] = gate["test_chance_ppl"].mean()
    table["FLOPs (gate)"] = gate["flops"].mean()
    return table.round(3).rename_axis("share routed")


def chosen_table(frame: pd.DataFrame, budget: float, size: str) -> pd.DataFrame:
    """The best routed model within the budget beside the best one without routing at no more
    FLOPs, both chosen on valid: means [95 % intervals] over seeds."""
    routes = store.read(SLUG, "routes", size)
    variant, rate = best_routed(routes, budget)
    own = routes[
        (routes["variant"] == variant)
        & (routes["rule"] == "gate")
        & (routes["wanted_rate"] == rate)
    ]
    rival = best_unrouted(frame, own["val_flops"].mean())
    other = frame[frame["variant"] == rival]
    found = {
        f"{variant}, {100 * rate:g} % by the gate": own,
        f"{rival}, every token": other,
    }
    rows = {
        name: {
            "FLOPs": f"{part['flops'].mean():.3f}",
            "valid": str(bootstrap(part["val_ppl"])),
            "all test tokens": str(bootstrap(part["test_ppl"])),
        }
        for name, part in found.items()
    }
    return tables.captioned(pd.DataFrame.from_dict(rows, orient="index"), other)


def clock_table(size: str) -> pd.DataFrame:
    """Milliseconds per token by depth and share routed, over the base alone in the same process."""
    frame = store.read(SLUG, "clock", size)
    return frame.pivot_table(
        index="rate", columns="variant", values=["flops", "relative_time"], sort=False
    ).round(3)


def pareto_figure(size: str) -> Figure:
    """Loss on all test tokens against FLOPs and against measured time."""
    stages = {all_tokens(d): f"{CLOCK}, {all_tokens(d)}" for d in (1, 2)}
    return pareto.front(SLUG, size, stages, (ROUTED, RANDOM), RIVALS, BASE)


def gain_figure(size: str) -> Figure:
    """What routing keeps of the whole gain, by rule and share routed."""
    return pareto.kept_gain(SLUG, size, ALL)


def ladder_figure(size: str) -> Figure:
    """Every rung and ablation: all test tokens over the base's."""
    return pareto.rungs(SLUG, size, (*LADDER, *ABLATIONS))


FIGURES = {"pareto": pareto_figure, "routing": gain_figure, "ladder": ladder_figure}
