"""Experiment 19: what makes a cascade better than its base, and does routing have a part in it?"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from lib.analysis.statistics import bootstrap
from lib.cascade.adaptation import Adaptation
from lib.cascade.ladder_run import LadderRun
from lib.cascade.ladder_run import run as run_rung
from lib.cascade.material import MaterialHandle
from lib.cascade.rival_run import RivalRun
from lib.cascade.rival_run import run as run_rival
from lib.cascade.routed import RoutedForCausalLM
from lib.cascade.speed_run import SpeedRun
from lib.cascade.speed_run import run as run_speed
from lib.experiments.cascade import CascadeParameters, finish, tasks_of
from lib.figures import pareto
from lib.parameters import choice, real, reals, whole
from lib.results import store, tables
from lib.results.claims import Measure, Tables, by_seed, change, claim_maker
from lib.training.sweep import RUNS, Task

EXPERIMENT, SLUG = "exp19", "19_cascade_that_works"
BASE, SPEED = "Base", "Clock"
ROUTED, RANDOM, ALL = "Routed stage", "Random routing", "Stage on all tokens"
TUNED, LOW_RANK = "Last layers tuned", "LoRA"
RIVALS = (ALL, TUNED, LOW_RANK)
# each rung changes one thing of the rung before it; the last one is ROUTED
LADDER = (
    "Seed's design",
    "+ base's head",
    "+ starts as the base",
    "+ base's layers",
    "+ own positions",
    "+ full context",
    ROUTED,
)
ABLATIONS = (
    "Rate / 5",
    "Rate x 3",
    "Trained on highest loss",
    "No early stopping",
    "Four layers",
)


@dataclass(frozen=True)
class Exp19(CascadeParameters):
    """``rate``: share of tokens that is routed. ``rates``: those at which the stage trained on all
    tokens is routed afterwards. ``budget``: the most FLOPs per token, over the base's, at which a
    rate may be chosen on valid. ``ladder_seeds``: seeds of the rungs and ablations."""

    wikitext_windows: int = whole(40, 0, 10_000)
    text_windows: int = whole(48, 2, 100_000)
    scored_windows: int = whole(32, 2, 100_000)
    look_windows: int = whole(8, 1, 10_000)
    layers: int = whole(2, 1, 64)
    rival_layers: int = whole(4, 1, 64)
    rate: float = real(0.25, 0.01, 1.0)
    rates: str = reals("0.01,0.03,0.1,0.25,0.5,1.0", 0.0, 1.0)
    budget: float = real(1.15, 1.0, 10.0)
    learning_rate: float = real(1.0e-4, 0.0, 1.0, above=True)
    batch: int = whole(2, 1, 1_000)
    ladder_seeds: int = whole(1, 1, 1_000)
    arms: str = choice("all", ("all", "decisive"))

    QUICK = {
        **CascadeParameters.QUICK,
        "wikitext_windows": 0,
        "text_windows": 4,
        "scored_windows": 2,
        "look_windows": 1,
        "rival_layers": 2,
        "rates": "0.1,0.5,1.0",
        "ladder_seeds": 1,
        "arms": "decisive",
        "train_windows": 8,
        "test_windows": 4,
    }
    TINY = {
        **CascadeParameters.TINY,
        "wikitext_windows": 0,
        "text_windows": 12,
        "scored_windows": 4,
        "look_windows": 4,
        "rival_layers": 3,
        "rates": "0.1,0.5,1.0",
        "budget": 3.0,
        "learning_rate": 1.0e-3,
        "ladder_seeds": 1,
    }

    def counts(self) -> dict[str, int]:
        """With WikiText windows, if any are asked for."""
        return super().counts() | (
            {"wikitext": self.wikitext_windows} if self.wikitext_windows else {}
        )


PARAMETERS = Exp19


def decisive(material: MaterialHandle | None, parameters: Exp19) -> dict[str, LadderRun | RivalRun]:
    """The routed stage and all that it must beat; same text, updates, rate and trained weights."""
    p = parameters
    size = {
        "text_windows": p.text_windows,
        "scored_windows": p.scored_windows,
        "look_windows": p.look_windows,
    }
    training = Adaptation(p.learning_rate, p.batch)
    routed = LadderRun(material, training, rule="entropy", rate=p.rate, layers=p.layers, **size)
    rival = RivalRun(material, training, "tuned", p.layers, p.layers, p.rival_layers, **size)
    return {
        ROUTED: routed,
        RANDOM: replace(routed, rule="random", trained="random"),
        ALL: replace(routed, rule="everything", trained="all", rates=tuple(p.numbers("rates"))),
        TUNED: rival,
        LOW_RANK: replace(rival, kind="low-rank", layers=p.rival_layers),
    }


def rungs(material: MaterialHandle | None, parameters: Exp19) -> dict[str, LadderRun]:
    """The ladder but its last rung, each rung named by its one change to the one before, and the
    ablations, each one change to the last rung. The seeds' learning rate holds on the first rung
    only, and a newly drawn head needs a larger one than the frozen head."""
    p = parameters
    routed = decisive(material, parameters)[ROUTED]
    full = replace(routed, rule="last_two_layers")
    own = replace(full, context="packed")
    copied = replace(own, own_positions=False)
    residual = replace(copied, start="residual")
    shared = replace(copied, start="seed-shared-head")
    rate = routed.training.learning_rate
    quicker = replace(routed.training, learning_rate=3 * rate)
    slower = replace(routed.training, learning_rate=rate / 5)
    more = {
        "Rate / 5": replace(routed, training=slower),
        "Rate x 3": replace(routed, training=quicker),
        "Trained on highest loss": replace(routed, trained="loss"),
        "No early stopping": replace(routed, training=replace(routed.training, keep_last=True)),
        "Four layers": replace(routed, layers=2 * p.layers),
    }
    steps = (replace(copied, start="seed"), shared, residual, copied, own, full)
    return dict(zip(LADDER[:-1], steps, strict=True)) | more


def tasks(material: MaterialHandle, parameters: Exp19) -> list[Task]:
    """The base, then what decides the claims, then the clock, then ladder and ablations."""
    p = parameters
    main = decisive(material, p)
    base = replace(main[TUNED], kind="none")
    found = tasks_of(EXPERIMENT, run_rival, {BASE: base}, 1)
    for seed in range(p.seeds):
        for name, config in main.items():
            function = run_rival if isinstance(config, RivalRun) else run_rung
            found.append(Task(function, config, seed, {"experiment": EXPERIMENT, "variant": name}))
    clock = SpeedRun(material, p.layers, (0.0, *p.numbers("rates")), min(4, p.test_windows))
    found += tasks_of(EXPERIMENT, run_speed, {SPEED: clock}, 1)
    if p.arms == "all":
        found += tasks_of(EXPERIMENT, run_rung, rungs(material, p), min(p.ladder_seeds, p.seeds))
    return found


def run(material: MaterialHandle, parameters: Exp19) -> pd.DataFrame:
    """Train all variants; one row a variant and seed, tables ``curve``, ``routes``, ``clock``."""
    return finish(SLUG, tasks(material, parameters), parameters)


def model_file(frame: pd.DataFrame) -> Path:
    """Where the first seed's stage trained on all tokens lies, with its gate."""
    found = frame[(frame["variant"] == ALL) & (frame["seed"] == 0)]
    return RUNS / found["run_id"].iloc[0]


# --------------------------------------------------------------------------- tables and figures


def chosen_rate(routes: pd.DataFrame, budget: float, rule: str = "gate") -> float:
    """The rate at which ``rule`` does best on valid, among those within the budget of FLOPs."""
    own = routes[
        (routes["rule"] == rule) & (routes["flops"] <= budget) & (routes["wanted_rate"] < 1)
    ]
    if own.empty:
        raise KeyError(f"no rate of rule {rule!r} within {budget} times the base's FLOPs")
    return float(own.groupby("wanted_rate")["val_ppl"].mean().idxmin())


def leave_model(material: MaterialHandle, frame: pd.DataFrame, budget: float, size: str) -> dict:
    """Put base, stage and gate together, save them, load them with ``from_pretrained`` and compare.

    The model is left in the run's folder as ``model``. Returns what was compared: the perplexity of
    the first scored test windows by the loaded model and by the tables, and where it lies.
    """
    found, folder = material.open(), model_file(frame)
    routes = store.read(SLUG, "routes", size)
    rate = chosen_rate(routes, budget)
    own = routes[
        (routes["rule"] == "gate") & (routes["wanted_rate"] == rate) & (routes["seed"] == 0)
    ].iloc[0]
    model = RoutedForCausalLM.assemble(found.base, folder, "gate", own["threshold"])
    model.save_pretrained(folder / "model")
    found.base.tokenizer.save_pretrained(folder / "model")
    loaded = RoutedForCausalLM.from_pretrained(folder / "model").eval()
    inputs = found.windows["test"].inputs[:2]
    with torch.inference_mode():
        out, again = model(inputs), loaded(inputs)
        alone = found.base.model(inputs).logits
    stays = again.answered_by == 0
    same = torch.equal(out.logits, again.logits)
    kept = torch.allclose(again.logits[stays], alone[stays], atol=1e-4)
    return {
        "left in": f"results/runs/{folder.name}/model",
        "loaded model equals saved": same,
        "unrouted tokens equal the base": kept,
        "routed share": 1 - stays.float().mean().item(),
    }


def decisive_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Means [95 % intervals] of every trained variant on all tokens, and its cost."""
    columns = {
        "FLOPs": "flops",
        "all tokens": "test_ppl",
        "outside the template": "test_content_ppl",
        "valid": "val_ppl",
    }
    if "wikitext_ppl" in frame:
        columns["WikiText-2"] = "wikitext_ppl"
    rows = {}
    for name in frame.loc[frame["test_ppl"].notna(), "variant"].unique():
        own = frame[frame["variant"] == name]
        change_ = 100 * (own["test_ppl"] / own["base_test_ppl"] - 1)
        rows[name] = (
            {"n": len(own), "trained": f"{own['params'].iloc[0]:,.0f}"}
            | {
                title: str(tables.interval(frame, name, column))
                for column, title in ((c, t) for t, c in columns.items())
            }
            | {"against base": f"{bootstrap(change_)} %"}
        )
    rows[BASE]["trained"] = "0"
    return tables.captioned(pd.DataFrame.from_dict(rows, orient="index"), frame)


def routes_table(size: str) -> pd.DataFrame:
    """Test perplexity of all tokens by rule and rate of the stage trained on all, mean over seeds;
    ``chance`` is random routing of as many tokens as the gate routes."""
    frame = store.read(SLUG, "routes", size)
    table = frame.pivot_table(index="wanted_rate", columns="rule", values="test_ppl")
    gate = frame[frame["rule"] == "gate"].groupby("wanted_rate")
    table["chance"] = gate["test_chance_ppl"].mean()
    table["FLOPs (gate)"] = gate["flops"].mean()
    return table.round(3).rename_axis("share routed")


def clock_table(size: str) -> pd.DataFrame:
    """Milliseconds per token by the share routed, over the base alone in the same process."""
    frame = store.read(SLUG, "clock", size)
    return frame.set_index("rate")[["milliseconds", "relative_time", "flops"]].round(4)


def pareto_figure(size: str) -> Figure:
    """Loss on all test tokens against FLOPs per token."""
    return pareto.front(SLUG, size, (ROUTED, RANDOM), RIVALS, BASE)


def gain_figure(size: str) -> Figure:
    """What routing keeps of the whole gain, by rule and share routed."""
    return pareto.kept_gain(SLUG, size)


def ladder_figure(size: str) -> Figure:
    """Every rung and ablation: all test tokens over the base's."""
    return pareto.rungs(SLUG, size, (*LADDER, *ABLATIONS))


FIGURES = {"pareto": pareto_figure, "routing": gain_figure, "ladder": ladder_figure}


# --------------------------------------------------------------------------- claims


def _routes(tables: Tables, rule: str, column: str, rate: float | None = None) -> np.ndarray:
    """A column of ``routes`` by seed, at the rate chosen on valid within the budget."""
    frame = tables("routes")
    rate = chosen_rate(frame, PARAMETERS.budget, rule) if rate is None else rate
    own = frame[(frame["rule"] == rule) & (frame["wanted_rate"] == rate)].sort_values("seed")
    if own.empty:
        raise KeyError(f"no routes by {rule!r} at {rate}")
    return own[column].to_numpy(dtype=float)


def gate_against_base(column: str = "test_ppl") -> Measure:
    """Percent change of the gate-routed stage, at its chosen rate, against the base."""

    def measure(tables: Tables) -> np.ndarray:
        base = by_seed(tables(), ALL, f"base_{column}").to_numpy()
        return 100 * (_routes(tables, "gate", column) / base - 1)

    return measure


def rule_against_chance(rule: str, rate: float | None = None) -> Measure:
    """Percent change of a rule against random routing of exactly as many tokens."""
    return lambda tables: (
        100
        * (
            _routes(tables, rule, "test_ppl", rate) / _routes(tables, rule, "test_chance_ppl", rate)
            - 1
        )
    )


def gate_against_rival(column: str = "test_ppl") -> Measure:
    """Percent change of the gate-routed stage against the rival that is best on valid."""

    def measure(tables: Tables) -> np.ndarray:
        frame = tables()
        best = min(RIVALS, key=lambda name: by_seed(frame, name, "val_ppl").mean())
        return 100 * (_routes(tables, "gate", column) / by_seed(frame, best, column).to_numpy() - 1)

    return measure


def gate_cost(tables: Tables) -> np.ndarray:
    """Percent of FLOPs per token that the gate-routed stage adds to the base."""
    return 100 * (_routes(tables, "gate", "flops") - 1)


def _against_base(variant: str, metric: str) -> Measure:
    def measure(tables: Tables) -> np.ndarray:
        ours, theirs = (
            by_seed(tables(), variant, name).to_numpy() for name in (metric, f"base_{metric}")
        )
        return 100 * (ours / theirs - 1)

    return measure


# no seed made these claims, so nothing is reported
_claim = claim_maker(
    "cascade_works", SLUG, "after seeds 001, 002", experiment=EXPERIMENT, min_seeds=3
)


CHOSEN = "rate chosen on valid within 1.15 times the base's FLOPs"
CLAIMS = (
    _claim(
        "entropy-beats-base",
        "A stage routed by entropy improves all tokens of its base",
        _against_base(ROUTED, "test_ppl"),
        "all test tokens, a quarter routed",
    ),
    _claim(
        "gate-bar",
        "A stage routed by a learned gate brings all tokens to 0.85 of the base",
        gate_against_base(),
        f"all test tokens; {CHOSEN}",
        threshold=-15.0,
    ),
    _claim(
        "gate-cost",
        "... at no more than 1.15 times its FLOPs per token",
        gate_cost,
        "matrix products, gate and waiting tokens' keys included",
        threshold=15.0,
        unit="% change of FLOPs",
    ),
    _claim(
        "gate-content",
        "... also outside the template's section titles",
        gate_against_base("test_content_ppl"),
        f"tokens that no template fixes; {CHOSEN}",
    ),
    _claim(
        "entropy-beats-random",
        "Training and routing by entropy beats both at random",
        change(ROUTED, RANDOM),
        "equal share, weights, updates and text",
    ),
    _claim(
        "entropy-order",
        "Entropy chooses better tokens than chance for one and the same stage",
        rule_against_chance("entropy", 0.25),
        "one stage, a quarter routed, equal numbers",
    ),
    _claim(
        "cosine-order",
        "The seeds' cosine chooses better tokens than chance",
        rule_against_chance("last_two_layers", 0.25),
        "one stage, a quarter routed",
    ),
    _claim(
        "gate-beats-random",
        "A learned gate chooses better tokens than chance",
        rule_against_chance("gate"),
        f"one stage, equal numbers; {CHOSEN}",
    ),
    _claim(
        "gate-beats-unrouted",
        "The gate-routed stage beats the best rival without routing",
        gate_against_rival(),
        "rival best on valid: stage on all tokens, last layers tuned, LoRA;"
        " equal trained weights, text, updates",
    ),
    _claim(
        "gate-beats-stage-for-all",
        "It is better than the same stage given to every token",
        lambda tables: (
            100
            * (
                _routes(tables, "gate", "test_ppl") / by_seed(tables(), ALL, "test_ppl").to_numpy()
                - 1
            )
        ),
        f"one and the same stage; {CHOSEN}",
    ),
    _claim(
        "all-tokens-beat-routed-training",
        "Training on all tokens beats training on the routed ones",
        lambda tables: (
            100
            * (
                _routes(tables, "entropy", "test_ppl", 0.25)
                / by_seed(tables(), ROUTED, "test_ppl").to_numpy()
                - 1
            )
        ),
        "both then routed by entropy, a quarter; equal text and updates, four times the tokens",
    ),
    _claim(
        "full-context",
        "Seeing all tokens beats seeing other hard tokens alone",
        change("+ full context", "+ own positions"),
        "equal tokens and updates",
    ),
    _claim(
        "wikitext",
        "What was learnt from instructions helps WikiText-2 too",
        _against_base(ALL, "wikitext_ppl"),
        "all tokens of another corpus",
    ),
)
