"""Experiment 19: what makes a cascade better than its base, and does routing have a part in it?

The routed stage and all that it must beat (same text, updates and order), a cumulative ablation
from R2's design to it, single ablations, both directions of text, and a study of learning rates.
Then rivals: gates that know more, routing behind an adapted base, and second passes of the base's
own last layers. No report made these claims.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.cascade.adaptation_text import TextPlan
from lib.cascade.all_tokens import RULES
from lib.cascade.baseline_run import BaselineRun, run_baseline
from lib.cascade.between_rates import at_flops, at_rate, at_share, paired_change, routed
from lib.cascade.claims import against_base, on_wikitext
from lib.cascade.dataset import TokenDataset
from lib.cascade.figures import pareto
from lib.cascade.parameters import QUICK_WINDOWS, TINY_WINDOWS, CascadeParameters
from lib.cascade.routed import RoutedForCausalLM
from lib.cascade.routed_stage_run import RoutedStageRun, run_routed_stage
from lib.cascade.second_pass_run import SecondPassRun, run_second_pass
from lib.cascade.speed_run import SpeedRun, run_route_speed
from lib.cascade.variants import Variant
from lib.checks import CheckFailed
from lib.experiment import Experiment, Run
from lib.parameters import FULL, ParameterError, choice, real, reals, whole, wholes
from lib.results import tables
from lib.results.claims import Measure, by_seed, change, claim_maker
from lib.results.statistics import Interval, interval, percent_change, percent_interval
from lib.results.store import Absent, Results
from lib.results.tables import one
from lib.runs.places import runs_folder
from lib.training.loop import Training

DEPTHS = (1, 2, 4)  # times ``layers`` that a stage on all tokens may have
STUDY_RATES = (1.0e-4, 3.0e-4, 1.0e-3, 3.0e-3, 1.0e-2)


class Exp19(CascadeParameters):
    """``rate``: share of tokens that is routed. ``rates``: those at which stages trained on all
    tokens are routed afterwards. ``depths``: how many times ``layers`` such stages have.
    ``budget``: the most FLOPs per token, over the base's, that a routed model may cost.
    ``study_rates``: learning rates tried on ``study_windows`` windows by every kind of condition,
    with one seed; the conditions' learning rates are the best of them on valid,
    ``all_learning_rates`` that of each depth, ``pass_learning_rates`` that of each second pass
    (mixed over all and over hard tokens, recirculated over all and over hard tokens).
    ``stopping_windows``: validation windows that early
    stopping looks at. ``wikitext_windows``: how many the reverse direction learns from; 0 leaves
    the second corpus out. ``conditions``: ``decisive`` leaves out ablations and rivals, ``rivals``
    ablations and the reverse direction."""

    seeds: int = whole(5, 1, 1_000)
    text_windows: int = whole(128, 2, 100_000)
    stopping_windows: int = whole(16, 1, 10_000)
    scored_windows: int = whole(96, 2, 100_000)
    wikitext_windows: int = whole(128, 0, 100_000)
    layers: int = whole(2, 1, 64)
    depths: str = wholes("1,2", 1, 64)
    baseline_layers: int = whole(4, 1, 64)
    rate: float = real(0.25, 0.01, 1.0)
    rates: str = reals("0.03,0.1,0.2,0.25,0.35,0.5,0.7,1.0", 0.01, 1.0)
    budget: float = real(1.15, 1.0, 10.0)
    report_learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    learning_rate: float = real(3.0e-4, 0.0, 1.0, above=True)
    all_learning_rates: str = reals("0.001,0.0003", 0.0, 1.0, above=True, repeats=True)
    tuned_learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    low_rank_learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    joint_learning_rate: float = real(3.0e-4, 0.0, 1.0, above=True)
    half_learning_rate: float = real(3.0e-3, 0.0, 1.0, above=True)
    behind_learning_rate: float = real(1.0e-4, 0.0, 1.0, above=True)
    pass_learning_rates: str = reals("0.001,0.001,0.001,0.001", 0.0, 1.0, above=True, repeats=True)
    study_rates: str = reals("0.0001,0.0003,0.001,0.003,0.01", 0.0, 1.0, above=True)
    study_windows: int = whole(96, 0, 100_000)
    batch: int = whole(2, 1, 1_000)
    cumulative_seeds: int = whole(5, 1, 1_000)
    ablation_seeds: int = whole(1, 1, 1_000)
    conditions: str = choice("all", ("all", "decisive", "rivals"))

    QUICK = {
        **QUICK_WINDOWS,
        "text_windows": 6,
        "stopping_windows": 1,
        "scored_windows": 3,
        "wikitext_windows": 0,
        "depths": "1",
        "all_learning_rates": "0.001",
        "rates": "0.1,0.25,0.5,1.0",
        "study_windows": 0,
        "conditions": "decisive",
    }
    TINY = {
        **TINY_WINDOWS,
        "text_windows": 12,
        "stopping_windows": 2,
        "scored_windows": 4,
        "wikitext_windows": 0,
        "layers": 1,
        "depths": "1,2,4",
        "all_learning_rates": "0.001,0.001,0.001",
        "baseline_layers": 3,
        "rates": "0.1,0.25,0.5,1.0",
        "budget": 3.0,
        "learning_rate": 1.0e-3,
        "joint_learning_rate": 1.0e-3,
        "half_learning_rate": 1.0e-3,
        "behind_learning_rate": 1.0e-3,
        "study_rates": "0.001,0.003",
        "study_windows": 4,
    }

    LADDER = {
        "large": {  # 100,096 tokens; the learning rates are those that the full size's study found
            "train_windows": 782,
            "text_windows": 782,
            "study_windows": 0,
            "conditions": "rivals",
        },
    }

    def check(self) -> None:
        """Raises ParameterError unless every depth and second pass has its learning rate and every
        depth a row."""
        if len(self.numbers("pass_learning_rates")) != len(SECOND):
            raise ParameterError(
                f"parameter 'pass_learning_rates' is {self.pass_learning_rates!r}; allowed: "
                f"{len(SECOND)} numbers, one for each second pass"
            )
        if len(self.numbers("depths")) != len(self.numbers("all_learning_rates")):
            raise ParameterError(
                f"depths {self.depths!r} and all_learning_rates {self.all_learning_rates!r} differ "
                "in number; one learning rate for every depth is allowed"
            )
        for name, allowed in (("depths", DEPTHS), ("study_rates", STUDY_RATES)):
            if not set(self.numbers(name)) <= set(allowed):
                words = ", ".join(f"{value:g}" for value in allowed)
                raise ParameterError(
                    f"parameter {name!r} is {getattr(self, name)!r}; allowed: some of {words}"
                )
        if self.rate not in self.numbers("rates"):
            raise ParameterError(
                f"parameter 'rate' is {self.rate:g}; allowed: one of 'rates', {self.rates}, at "
                "which stages trained on all tokens are routed"
            )
        if self.conditions != "decisive" and (self.rate >= 1 or self.baseline_layers < 3):
            raise ParameterError(
                f"parameters 'rate' {self.rate:g} and 'baseline_layers' {self.baseline_layers}: a "
                "joint gate learns at a rate below 1, and a stage behind an adapter of at least 3 "
                "layers; conditions='decisive' leaves both out"
            )
        self.at_most("text_windows", "train_windows")
        self.at_most("study_windows", "train_windows")
        self.at_most("stopping_windows", "valid_windows", 0.5)
        self.at_most("scored_windows", "test_windows")
        self.at_most("layers", "baseline_layers")

    def texts(self) -> list[TokenDataset]:
        """The one dataset. Raises ParameterError if the base has too few layers."""
        (found,) = super().texts()
        base = len(found.open().base.model.model.layers)
        times = max(*self.numbers("depths"), 2 if self.conditions == "all" else 1)
        if max(times * self.layers, self.baseline_layers) > base:
            raise ParameterError(
                f"parameters 'layers' {self.layers} (up to {times:g} times) and 'baseline_layers' "
                f"{self.baseline_layers} are layers of the base; allowed: at most its {base}"
            )
        return [found]

    @property
    def text(self) -> TextPlan:
        """Learning from instructions, scored on both corpora."""
        look = self.stopping_windows
        return TextPlan(self.text_windows, 2 * look, look, self.scored_windows)

    def counts(self) -> dict[str, int]:
        """With WikiText-2 windows, if any are asked for."""
        if not self.wikitext_windows:
            return super().counts()
        return super().counts() | {
            "wikitext": self.text.scored,
            "wikitext_train": self.wikitext_windows,
            "wikitext_valid": self.text.valid,
        }

    def training(self, learning_rate: float) -> Training:
        """One epoch at a rate that falls to 0; validated twice on the way, the best put back."""
        return Training(
            epochs=1,
            patience=0,
            batch_size=self.batch,
            learning_rate=learning_rate,
            weight_decay=0.0,
            schedule="linear",
            validations=2,
            validate_first=True,
        )


# ------------------------------------------------------------------------------ what is compared

Config = RoutedStageRun | BaselineRun | SecondPassRun
Maker = Callable[[Exp19, TokenDataset], Any]


def _routed(p: Exp19, dataset: TokenDataset) -> RoutedStageRun:
    training = p.training(p.learning_rate)
    return RoutedStageRun(dataset, p.text, training, rule="entropy", rate=p.rate, layers=p.layers)


def _random(p: Exp19, dataset: TokenDataset) -> RoutedStageRun:
    return replace(_routed(p, dataset), rule="random", trained="random")


def _all_tokens(depth: int) -> Maker:
    """A stage trained on all tokens, ``depth`` times as deep; None where depths leave it out."""

    def make(p: Exp19, dataset: TokenDataset) -> RoutedStageRun | None:
        rates = dict(zip(p.numbers("depths"), p.numbers("all_learning_rates"), strict=True))
        if depth not in rates:
            return None
        return replace(
            _routed(p, dataset),
            rule="everything",
            trained="all",
            rates=tuple(p.numbers("rates")),
            layers=depth * p.layers,
            training=p.training(rates[depth]),
        )

    return make


def _clock(depth: int) -> Callable[[Exp19, TokenDataset], list[Run]]:
    """The wall clock of a stage so deep, routed by chance: the time does not hang on weights."""

    def make(p: Exp19, dataset: TokenDataset) -> list[Run]:
        if depth not in p.numbers("depths"):
            return []
        rates, windows = (0.0, *p.numbers("rates")), min(4, p.test_windows)
        config = SpeedRun(dataset, depth * p.layers, rates, windows)
        return [Run(run_route_speed, config, 0, side=True)]

    return make


def _tuned(p: Exp19, dataset: TokenDataset) -> BaselineRun:
    training = p.training(p.tuned_learning_rate)
    return BaselineRun(dataset, p.text, training, "tuned", p.layers, p.layers, p.baseline_layers)


def _low_rank(p: Exp19, dataset: TokenDataset) -> BaselineRun:
    return replace(
        _tuned(p, dataset),
        kind="low-rank",
        layers=p.baseline_layers,
        training=p.training(p.low_rank_learning_rate),
    )


def _base(p: Exp19, dataset: TokenDataset) -> BaselineRun:
    return replace(_tuned(p, dataset), kind="none")


def _reversed(make: Maker) -> Maker:
    """The same learnt from WikiText-2; None where that is not there."""

    def reverse(p: Exp19, dataset: TokenDataset) -> Config | None:
        if "wikitext_train" not in dict(dataset.counts) or p.conditions == "rivals":
            return None
        plan = replace(p.text, train=p.wikitext_windows, learnt_from="wikitext")
        return replace(make(p, dataset), text=plan)

    return reverse


def _studied(make: Maker, rate: float) -> Maker:
    """A condition at a learning rate of the study, on less text; None where it is left out."""

    def study(p: Exp19, dataset: TokenDataset) -> Config | None:
        config = make(p, dataset)
        if config is None or not p.study_windows or rate not in p.numbers("study_rates"):
            return None
        plan, more = replace(p.text, train=p.study_windows), {}
        if isinstance(config, RoutedStageRun):
            more = {"rates": (), "rules": RULES}
            if config.behind is not None:
                more["behind"] = replace(config.behind, text=plan)
        training = replace(config.training, learning_rate=rate)
        return replace(config, text=plan, training=training, **more)

    return study


def _rival(make: Maker) -> Maker:
    """A row that a run of the decisive conditions leaves out and one of the rivals has."""
    return lambda p, dataset: None if p.conditions == "decisive" else make(p, dataset)


def _wide_gate(p: Exp19, dataset: TokenDataset) -> RoutedStageRun | None:
    """The very stage that is trained on all tokens; routed by one rule more."""
    stage = _all_tokens(1)(p, dataset)
    return stage and replace(stage, rules=(*RULES, "wide_gate"))


def _joint(p: Exp19, dataset: TokenDataset) -> RoutedStageRun:
    return replace(
        _routed(p, dataset),
        rule="joint_gate",
        trained="joint",
        rates=tuple(p.numbers("rates")),
        rules=(*RULES, "joint_gate"),
        training=p.training(p.joint_learning_rate),
    )


def _halves(p: Exp19) -> tuple[int, int]:
    """Layers whose weights the adapter gets, and layers of the stage behind it: half and half. Of
    one layer there is no half; then both have one."""
    stage = max(1, p.layers // 2)
    return max(1, p.layers - stage), stage


def _low_rank_half(p: Exp19, dataset: TokenDataset) -> BaselineRun:
    training = p.training(p.half_learning_rate)
    adapter, _ = _halves(p)
    return replace(_low_rank(p, dataset), equal_layers=adapter, training=training, keep=True)


def _low_rank_long(p: Exp19, dataset: TokenDataset) -> BaselineRun:
    """As many updates as adapter and stage behind it have together."""
    whole = _low_rank(p, dataset)
    return replace(whole, training=replace(whole.training, epochs=2))


def _behind(p: Exp19, dataset: TokenDataset) -> RoutedStageRun:
    return replace(
        _routed(p, dataset),
        rule="everything",
        trained="all",
        rates=tuple(p.numbers("rates")),
        rules=("entropy", "gate", "oracle"),
        layers=_halves(p)[1],
        training=p.training(p.behind_learning_rate),
        behind=_low_rank_half(p, dataset),
    )


def _second_pass(number: int, feedback: str, hard: bool) -> Maker:
    """The last layers twice; ``number``: place of its learning rate."""

    def make(p: Exp19, dataset: TokenDataset) -> SecondPassRun:
        return SecondPassRun(
            dataset,
            p.text,
            p.training(p.numbers("pass_learning_rates")[number]),
            feedback,
            "entropy" if hard else "everything",
            p.rate,
            p.baseline_layers,
            p.layers,
        )

    return make


def _only_all(make: Maker) -> Maker:
    """A row that a run of the decisive conditions leaves out."""
    return lambda p, dataset: make(p, dataset) if p.conditions == "all" else None


def _steps() -> Iterator[tuple[str, str, Maker]]:
    """The cumulative ablation from R2's design: each step changes one thing of the one before."""

    def gentle(p: Exp19) -> Training:
        return p.training(p.learning_rate)

    def quick(p: Exp19) -> Training:
        return p.training(p.report_learning_rate)

    def step(training, **changes) -> Maker:
        def make(p: Exp19, dataset: TokenDataset) -> RoutedStageRun:
            config = replace(_routed(p, dataset), rule="last_two_layers", training=training(p))
            return replace(config, **changes)

        return make

    packed = {"context": "packed", "own_positions": False}
    yield "report_design", "Report's design", step(quick, start="report", **packed)
    yield "base_head", "+ base's head", step(quick, start="report-shared-head", **packed)
    yield "zero_start", "+ starts as the base", step(quick, start="residual", **packed)
    yield "smaller_rate", "+ smaller learning rate", step(gentle, start="residual", **packed)
    yield "base_layers", "+ base's layers", step(gentle, **packed)
    yield "own_positions", "+ own positions", step(gentle, context="packed")
    yield "full_context", "+ full context", step(gentle)


def _ablations() -> Iterator[tuple[str, str, Maker]]:
    """Single changes to the routed stage."""

    def trained(**changes) -> Maker:
        def make(p: Exp19, dataset: TokenDataset) -> RoutedStageRun:
            routed = _routed(p, dataset)
            return replace(routed, training=replace(routed.training, **changes))

        return make

    def faster(factor: float) -> Maker:
        return lambda p, d: trained(learning_rate=p.learning_rate * factor)(p, d)

    def changed(**changes) -> Maker:
        return lambda p, d: replace(_routed(p, d), **changes)

    yield "rate_fifth", "Rate / 5", lambda p, d: trained(learning_rate=p.learning_rate / 5)(p, d)
    yield "rate_times_5", "Rate x 5", faster(5)
    yield "on_highest_loss", "Trained on highest loss", changed(trained="loss")
    yield "on_all_weighted", "Trained on all, weighted by loss", changed(trained="weighted")
    yield "on_all", "Trained on all, unweighted", changed(trained="all")
    yield "weight_decay", "Weight decay 0.1", trained(weight_decay=0.1)
    yield "no_stopping", "No early stopping", trained(restore="last")
    yield "four_layers", "Four layers", lambda p, d: replace(_routed(p, d), layers=2 * p.layers)


ALL = {depth: f"all_{depth}" for depth in DEPTHS}
LABELS = {
    "routed": "Routed stage",
    **{
        name: "Stage on all tokens" + (f", {depth} times as deep" if depth > 1 else "")
        for depth, name in ALL.items()
    },
    "tuned": "Last layers tuned",
    "low_rank": "LoRA",
    "joint": "Gate trained with the stage",
    "low_rank_half": "LoRA, half the weights",
    "behind": "Stage behind LoRA, half and half",
    "again": "Second pass",
    "again_hard": "Second pass, hard tokens",
    "recirculated": "State recirculated",
    "recirculated_hard": "State recirculated, hard tokens",
}
MAKERS: dict[str, Maker] = {
    "routed": _routed,
    **{name: _all_tokens(depth) for depth, name in ALL.items()},
    "tuned": _tuned,
    "low_rank": _low_rank,
    "joint": _rival(_joint),
    "low_rank_half": _rival(_low_rank_half),
    "behind": _rival(_behind),
    "again": _rival(_second_pass(0, "mixed", hard=False)),
    "again_hard": _rival(_second_pass(1, "mixed", hard=True)),
    "recirculated": _rival(_second_pass(2, "recirculated", hard=False)),
    "recirculated_hard": _rival(_second_pass(3, "recirculated", hard=True)),
}
SECOND = ("again", "again_hard", "recirculated", "recirculated_hard")  # in order of their rates
HARD_AGAIN = ("again_hard", "recirculated_hard")
RIVALS = ("wide_gate", "joint", "low_rank_half", "low_rank_long", "behind", *SECOND)
BASELINES = ("tuned", "low_rank", "all_1", "all_2")
DECISIVE = ("base", "routed", "random", "all_1", "all_2", "tuned", "low_rank")
REVERSED = "_reversed"
CUMULATIVE = (*(name for name, *_ in _steps()), "routed")
ABLATIONS = tuple(name for name, *_ in _ablations())


def study_id(condition: str, rate: float) -> str:
    """Id of a condition's row in the study of learning rates."""
    return f"study_{condition}_{rate:g}"


def _function(condition: str) -> Callable:
    """What runs a condition."""
    if condition in SECOND:
        return run_second_pass
    tail = condition.startswith(("tuned", "low_rank", "base"))
    return run_baseline if tail else run_routed_stage


def _variants() -> dict[str, Variant]:
    """The rate study, the base, what decides the claims, both kinds of ablations, the rivals."""
    found = {}
    for condition, make in MAKERS.items():
        for rate in STUDY_RATES:
            found[study_id(condition, rate)] = Variant(
                f"Rate study: {LABELS[condition]} at {rate:g}",
                _studied(make, rate),
                _function(condition),
                seeds=1,
                factors={"condition": condition, "learning_rate": rate},
            )
    found["base"] = Variant("Base", _base, run_baseline, seeds=1)
    found["routed"] = Variant(LABELS["routed"], _routed, run_routed_stage)
    found["random"] = Variant("Random routing", _random, run_routed_stage)
    for depth, name in ALL.items():
        make, clock = MAKERS[name], _clock(depth)
        found[name] = Variant(LABELS[name], make, run_routed_stage, beside=clock)
    for name in ("tuned", "low_rank"):
        found[name] = Variant(LABELS[name], MAKERS[name], run_baseline)
    for name in ("all_1", "tuned"):
        label = f"{LABELS[name]}, learnt from WikiText-2"
        found[name + REVERSED] = Variant(label, _reversed(MAKERS[name]), _function(name))
    for steps, seeds in ((_steps, "cumulative_seeds"), (_ablations, "ablation_seeds")):
        for name, label, make in steps():
            few = ("seeds", seeds)
            found[name] = Variant(label, _only_all(make), run_routed_stage, seeds=few)
    further = {
        "wide_gate": ("Stage on all tokens, wide gate", _rival(_wide_gate)),
        "low_rank_long": ("LoRA, twice the updates", _rival(_low_rank_long)),
    }
    for name in RIVALS:
        label, make = further.get(name) or (LABELS[name], MAKERS[name])
        found[name] = Variant(label, make, _function(name))
    return found


# ------------------------------------------------------------------------------------- measures
BUDGET = Exp19.model_fields["budget"].default
RATE = Exp19.model_fields["rate"].default


def best_routed(
    routes: pd.DataFrame, budget: float, variants: tuple[str, ...] = (), rule: str = "gate"
) -> tuple[str, float]:
    """Variant and rate below 1 at which a rule does best within a budget of FLOPs, both on valid.

    ``variants``: those to choose among, default all stages learnt from instructions but for the
    rivals. Raises Absent if nothing lies within the budget.
    """
    own = routes[(routes["rule"] == rule) & (routes["wanted_rate"] < 1)]
    known = own["variant"].unique()
    known = [name for name in known if name not in RIVALS and not name.endswith(REVERSED)]
    own = own[own["variant"].isin(variants or known)]
    means = own.groupby(["variant", "wanted_rate"])[["val_flops", "val_ppl"]].mean()
    means = means[means["val_flops"] <= budget]
    if means.empty:
        raise Absent(f"no stage routed by {rule} within {budget} times the base's FLOPs")
    return means["val_ppl"].idxmin()


def best_unrouted(frame: pd.DataFrame, budget: float) -> str:
    """The adaptation without routing that is best on valid within a budget of FLOPs."""
    own = frame[frame["variant"].isin(BASELINES)]
    means = own.groupby("variant")[["flops", "val_ppl"]].mean()
    means = means[means["flops"] <= budget]
    if means.empty:
        raise Absent(f"no baseline within {budget} times the base's FLOPs")
    return means["val_ppl"].idxmin()


def chosen(results: Results, column: str) -> pd.Series:
    """A column of ``routes`` of the best gate-routed stage within the budget, by seed."""
    variant, rate = best_routed(results("routes"), BUDGET)
    return at_rate(results, variant, "gate", rate, column)


def gate_against_base(column: str) -> Measure:
    """Percent change of the best gate-routed stage within the budget against the base."""

    def measure(results: Results) -> np.ndarray:
        variant, _ = best_routed(results("routes"), BUDGET)
        return paired_change(chosen(results, column), by_seed(results, variant, f"base_{column}"))

    return measure


def gate_cost(results: Results) -> np.ndarray:
    """Percent of FLOPs per token that the best gate-routed stage adds to the base."""
    return 100 * (chosen(results, "flops").to_numpy() - 1)


def gate_against_chance(results: Results) -> np.ndarray:
    """Percent change of the best gate-routed stage against as many tokens drawn at random."""
    return paired_change(chosen(results, "test_ppl"), chosen(results, "test_chance_ppl"))


def rule_against_chance(rule: str, variant: str = "all_1", corpus: str = "test") -> Measure:
    """Percent change of a rule against random routing of exactly as many tokens: of those that the
    threshold for a quarter of training text routes."""

    def measure(results: Results) -> np.ndarray:
        ours, chance = (
            at_rate(results, variant, rule, 0.25, f"{corpus}_{column}")
            for column in ("ppl", "chance_ppl")
        )
        return paired_change(ours, chance)

    return measure


def gate_against_unrouted(results: Results) -> np.ndarray:
    """Percent change of the best gate-routed stage against the best adaptation without routing
    that costs no more FLOPs than it."""
    baseline = best_unrouted(results(), chosen(results, "val_flops").mean())
    return paired_change(chosen(results, "test_ppl"), by_seed(results, baseline, "test_ppl"))


def gate_against_itself(results: Results) -> np.ndarray:
    """Percent change of the best gate-routed stage against the same stage given to all tokens."""
    variant, _ = best_routed(results("routes"), BUDGET)
    return paired_change(chosen(results, "test_ppl"), by_seed(results, variant, "test_ppl"))


def deep_against_shallow(deep: int, shallow: int) -> Measure:
    """Percent change of a deep stage, gate-routed at a rate that costs no more FLOPs, against a
    shallow one given to all tokens."""

    def measure(results: Results) -> np.ndarray:
        baseline = ALL[shallow]
        cost = by_seed(results, baseline, "flops").mean()
        variant, rate = best_routed(results("routes"), cost, (ALL[deep],))
        ours = at_rate(results, variant, "gate", rate, "test_ppl")
        return paired_change(ours, by_seed(results, baseline, "test_ppl"))

    return measure


def all_against_routed(results: Results) -> np.ndarray:
    """Percent change of the stage trained on all tokens against the one trained on routed ones,
    both then routed by entropy at the same rate: of those measured, the nearest on test."""
    rates = routed(results, "all_1", "entropy").groupby("wanted_rate")["test_rate"].mean()
    nearest = (rates - by_seed(results, "routed", "rate").mean()).abs().idxmin()
    ours = at_rate(results, "all_1", "entropy", nearest, "test_ppl")
    return paired_change(ours, by_seed(results, "routed", "test_ppl"))


def rule_against_gate(variant: str, rule: str) -> Measure:
    """Percent change of a variant routed by a rule against a stage trained on all tokens and routed
    by the gate, both at the same share of test tokens."""

    def measure(results: Results) -> np.ndarray:
        ours = at_share(results, variant, rule, RATE)
        return paired_change(ours, at_share(results, "all_1", "gate", RATE))

    return measure


def wide_against_gate_at_cost(results: Results) -> np.ndarray:
    """The same of the wide gate at the FLOPs of the gate, which needs no logits."""
    cost = at_rate(results, "all_1", "gate", RATE, "flops")
    ours = at_flops(results, "wide_gate", "wide_gate", cost)
    return paired_change(ours, at_rate(results, "all_1", "gate", RATE, "test_ppl"))


def behind_against(rule: str, baseline: str) -> Measure:
    """Percent change of the stage behind an adapted base against an adaptation without routing."""

    def measure(results: Results) -> np.ndarray:
        _, rate = best_routed(routed(results, "behind", rule), BUDGET, ("behind",), rule)
        ours = at_rate(results, "behind", rule, rate, "test_ppl")
        return paired_change(ours, by_seed(results, baseline, "test_ppl"))

    return measure


def best_pass(frame: pd.DataFrame, variants: tuple[str, ...] = SECOND) -> str:
    """The second pass that is best on valid. Raises Absent if there is none."""
    own = frame[frame["variant"].isin(variants)]
    if own.empty:
        raise Absent("no second pass was run")
    return own.groupby("variant")["val_ppl"].mean().idxmin()


def pass_against_low_rank(variants: tuple[str, ...]) -> Measure:
    """Percent change of the best of some second passes against LoRA."""

    def measure(results: Results) -> np.ndarray:
        ours = by_seed(results, best_pass(results(), variants), "test_ppl")
        return paired_change(ours, by_seed(results, "low_rank", "test_ppl"))

    return measure


def pass_against_routed(results: Results) -> np.ndarray:
    """Percent change of the best second pass against the best gate-routed stage that costs no more
    FLOPs than it."""
    name = best_pass(results())
    ours = by_seed(results, name, "test_ppl")
    variant, rate = best_routed(results("routes"), by_seed(results, name, "flops").mean())
    return paired_change(ours, at_rate(results, variant, "gate", rate, "test_ppl"))


# --------------------------------------------------------------------------------------- tables


def check_rates(results: Results, parameters: Exp19) -> None:
    """Raises CheckFailed unless each kind of condition has the learning rate that its study found
    best on valid; a run without a study, or of another size than full, is not checked, nor is a
    condition whose study is outstanding."""
    if not parameters.study_windows or parameters.size != FULL:
        print("learning rates are checked at the full size alone")
        return
    frame, p = results(), parameters
    depths = (ALL[depth] for depth in p.numbers("depths"))
    chosen = {
        "routed": p.learning_rate,
        **dict(zip(depths, p.numbers("all_learning_rates"), strict=True)),
        "tuned": p.tuned_learning_rate,
        "low_rank": p.low_rank_learning_rate,
    }
    if p.conditions != "decisive":
        chosen |= {
            "joint": p.joint_learning_rate,
            "low_rank_half": p.half_learning_rate,
            "behind": p.behind_learning_rate,
            **dict(zip(SECOND, p.numbers("pass_learning_rates"), strict=True)),
        }
    for condition, rate in chosen.items():
        tried = {study_id(condition, rate): rate for rate in p.numbers("study_rates")}
        own = frame[frame["variant"].isin(tried)]
        found = dict(zip(own["variant"].map(tried), own["val_ppl"], strict=True))
        if len(found) < len(tried):
            print(f"{LABELS[condition]}: its study of learning rates is outstanding")
            continue
        best = min(found, key=found.get)
        if best != rate:
            raise CheckFailed(f"{condition} is trained at {rate:g}, but {best:g} is best on valid")
        print(f"{LABELS[condition]}: learning rate {rate:g}, best of {len(found)} on valid")


def leave_model(dataset: TokenDataset, results: Results, budget: float) -> dict[str, Any]:
    """Put base, best routed stage and gate together, save, load with ``from_pretrained``, compare.

    The model of the first seed is left in its run's folder as ``model``. Returns what was compared
    on the first test windows, and where the model lies. Committed rows hold no weights: then
    nothing is compared, and the answer says how to get a model.

    Raises:
        CheckFailed: The loaded model differs from the saved one, or the base answers differently.
    """
    if results.folder is None:
        return {"left in": "nowhere: committed rows hold no weights; run the experiment here"}
    data, routes = dataset.open(), results("routes")
    variant, rate = best_routed(routes, budget)
    own = routes[(routes["rule"] == "gate") & (routes["wanted_rate"] == rate)]
    own = own[(own["variant"] == variant) & (own["seed"] == 0)].iloc[0]
    folder = runs_folder() / own["run_id"]
    model = RoutedForCausalLM.assemble(data.base, folder, "gate", own["threshold"])
    model.save_pretrained(folder / "model")
    data.base.tokenizer.save_pretrained(folder / "model")
    loaded = RoutedForCausalLM.from_pretrained(folder / "model").eval()
    inputs = data.windows["test"].inputs[:2]
    with torch.inference_mode():
        out, again = model(inputs), loaded(inputs)
        alone = data.base.model(inputs).logits
    stays = again.answered_by == 0
    same = {
        "loaded model equals saved": torch.equal(out.logits, again.logits),
        "unrouted tokens equal the base": torch.allclose(
            again.logits[stays], alone[stays], atol=1e-4
        ),
    }
    if not all(same.values()):
        raise CheckFailed(f"the model in {folder.name} is not what was trained: {same}")
    return {
        "left in": f"runs/{folder.name}/model",
        "stage": results.labels[variant],
        **same,
        "routed share": 1 - stays.float().mean().item(),
    }


def decisive_table(results: Results, variants: tuple[str, ...] = DECISIVE) -> pd.DataFrame:
    """Change of all tokens against the base, n, perplexities [95 % intervals], and cost."""
    frame = one(results)()
    columns = {"all tokens": "test_ppl", "outside the template": "test_content_ppl"}
    if "wikitext_ppl" in frame:
        columns["WikiText-2"] = "wikitext_ppl"
    columns["FLOPs"] = "flops"
    rows = {}
    for variant in variants:
        own = frame[frame["variant"] == variant]
        if own.empty:
            continue
        change_of_base = percent_change(own["test_ppl"], own["base_test_ppl"])
        rows[results.labels[variant]] = {
            "Δ against base": f"{percent_interval(change_of_base)} %",
            "n": len(own),
            **{
                title: str(tables.seeds_interval(frame, variant, column) or "")
                for title, column in columns.items()
            },
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("condition")
    return tables.captioned(table, frame)


def rivals_table(results: Results) -> pd.DataFrame:
    """The rivals as they were trained beside LoRA, with their trained weights; empty before any of
    them has been run."""
    frame = one(results)()
    if not frame["variant"].isin(RIVALS).any():
        return pd.DataFrame()
    shown = ("low_rank", *(name for name in RIVALS if name != "wide_gate"))
    table = decisive_table(results, shown).drop(columns="outside the template")
    weights = frame.groupby("variant")["params"].mean() / 1e6
    labels = {results.labels[name]: name for name in shown if name in results.labels}
    table["trained weights"] = [f"{weights[labels[name]]:.2f} M" for name in table.index]
    return table


GATES_SHOWN = {  # column -> variant and rule
    "gate": ("all_1", "gate"),
    "wide gate": ("wide_gate", "wide_gate"),
    "trained with the stage": ("joint", "joint_gate"),
    "gate behind LoRA": ("behind", "gate"),
    "entropy behind LoRA": ("behind", "entropy"),
}


BY_SHARE = "mean (and share of test tokens that is routed)"


def by_share(routes: pd.DataFrame) -> pd.Series:
    """Test perplexity of all tokens by the share wanted, and in brackets the share of test that is
    routed, means over seeds: thresholds are of training text, and rules that route equal shares of
    it route unequal ones of test."""
    means = routes.groupby("wanted_rate")[["test_ppl", "test_rate"]].mean()
    told = [f"{ppl:.2f} ({100 * share:.1f} %)" for ppl, share in means.to_numpy()]
    return pd.Series(told, means.index)


def gates_table(results: Results) -> pd.DataFrame:
    """``by_share`` of every gate; empty before any of the rivals has been run."""
    frame = one(results)("routes")
    found = {}
    for title, (variant, rule) in GATES_SHOWN.items():
        own = frame[(frame["variant"] == variant) & (frame["rule"] == rule)]
        if len(own):
            found[title] = by_share(own)
    if len(found) < 2:
        return pd.DataFrame()
    table = pd.DataFrame(found).rename_axis("share wanted")
    whole, shown = one(results)(), {variant for variant, _ in GATES_SHOWN.values()}
    return tables.captioned(table, whole[whole["variant"].isin(shown)], BY_SHARE)


def reversed_table(results: Results) -> pd.DataFrame:
    """The conditions that learnt from WikiText-2; valid is WikiText-2 too."""
    return decisive_table(results, ("base", "all_1_reversed", "tuned_reversed"))


def ablation_table(results: Results) -> pd.DataFrame:
    """Every step of the cumulative ablation, and every single one."""
    return decisive_table(results, (*CUMULATIVE, *ABLATIONS))


def study_table(results: Results) -> pd.DataFrame:
    """Validation perplexity by condition and learning rate (one seed, less text)."""
    frame = one(results)()
    if "learning_rate" not in frame:
        return pd.DataFrame()
    own = frame[frame["variant"].str.startswith("study_")]
    if own.empty:
        return pd.DataFrame()
    own = own.assign(condition=own["condition"].map(LABELS))
    table = own.pivot_table(
        index="condition", columns="learning_rate", values="val_ppl", sort=False
    )
    return tables.captioned(table.round(3), own)


SHOWN_RULES = {
    "gate": "gate",
    "entropy": "entropy",
    "last_two_layers": "cosine (R2)",
    "oracle": "oracle (sees the gain)",
}


def routes_table(results: Results) -> pd.DataFrame:
    """``by_share`` of some rules, of the shallowest stage trained on all; ``chance`` routes
    as many tokens as the gate. The figure has all rules."""
    frame = one(results)("routes")
    frame = frame[frame["variant"] == "all_1"]
    rules = dict(list(frame.groupby("rule")))
    table = pd.DataFrame(
        {title: by_share(rules[rule]) for rule, title in SHOWN_RULES.items() if rule in rules}
    )
    gate = rules["gate"].groupby("wanted_rate")
    table.insert(1, "chance", gate["test_chance_ppl"].mean().round(3))
    table["FLOPs (gate)"] = gate["flops"].mean().round(3)
    whole = one(results)()
    table = table.rename_axis("share wanted")
    return tables.captioned(table, whole[whole["variant"] == "all_1"], BY_SHARE)


def chosen_table(results: Results, budget: float) -> pd.DataFrame:
    """The best routed model within the budget beside the best one without routing at no more
    FLOPs, both chosen on valid: means [95 % intervals] over seeds."""
    held = one(results)
    frame, routes, labels = held(), held("routes"), held.labels
    variant, rate = best_routed(routes, budget)
    own = routes[
        (routes["variant"] == variant)
        & (routes["rule"] == "gate")
        & (routes["wanted_rate"] == rate)
    ]
    baseline = best_unrouted(frame, own["val_flops"].mean())
    other = frame[frame["variant"] == baseline]
    found = {
        f"{labels[variant]}, {100 * rate:g} % by the gate": own,
        f"{labels[baseline]}, every token": other,
    }

    def told(values: pd.Series) -> Interval:
        return interval(values.to_numpy(dtype=float))

    rows = {
        name: {
            "all test tokens": str(told(part["test_ppl"])),
            "valid": str(told(part["val_ppl"])),
            "n": len(part),
            "FLOPs": f"{part['flops'].mean():.3f}",
        }
        for name, part in found.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    return tables.captioned(table, other)


def clock_table(results: Results) -> pd.DataFrame:
    """Time per token by depth and share routed, over the base alone in the same process."""
    frame = one(results).named("clock")
    return frame.pivot_table(
        index="rate", columns="variant", values=["flops", "relative_time"], sort=False
    ).round(3)


# ----------------------------------------------------------------------------- claims, experiment

LINES = (("wide_gate", "wide_gate"), ("joint", "joint_gate"), ("behind", "gate"))
MARKS = ("low_rank_half", "low_rank_long", *SECOND)

claim = claim_maker("cascade_works", "after R1, R2", kind="own")

CHOSEN = "depth and rate chosen on valid within 1.15 times the base's FLOPs"
SEES = "it sees the head's words, cosines between layers and how frequent the token is, too"
BEHIND = "rate chosen on valid within 1.15 times the base's FLOPs"
CLAIMS = (
    claim(
        "entropy-beats-base",
        "A stage routed by entropy improves all tokens of its base",
        against_base("routed", "test_ppl", "base_test_ppl"),
        "all test tokens, thresholds that route a quarter of training text",
    ),
    claim(
        "gate-bar",
        "A stage routed by a learned gate brings all tokens to 0.85 of the base",
        gate_against_base("test_ppl"),
        f"all test tokens; {CHOSEN}",
        threshold=-15.0,
    ),
    claim(
        "gate-cost",
        "A stage routed by a learned gate costs no more than 1.15 times the base's FLOPs per token",
        gate_cost,
        "measured on test, chosen on valid; matrix products, gate and waiting tokens' keys",
        threshold=15.0,
        unit="% change of FLOPs",
    ),
    claim(
        "gate-content",
        "A gate-routed stage improves tokens outside the template's section titles too",
        gate_against_base("test_content_ppl"),
        f"tokens that no template fixes; {CHOSEN}",
    ),
    claim(
        "gate-wikitext",
        "A gate-routed stage improves WikiText-2, which it never saw",
        on_wikitext(gate_against_base("wikitext_ppl")),
        f"all tokens of the second corpus; {CHOSEN}",
    ),
    claim(
        "entropy-beats-random",
        "Training and routing by entropy beats both at random",
        change("routed", "random"),
        "equal share, weights, updates and text",
    ),
    claim(
        "entropy-order",
        "Entropy chooses better tokens than chance for one and the same stage",
        rule_against_chance("entropy"),
        "one stage, equal numbers, thresholds that route a quarter of training text",
    ),
    claim(
        "cosine-order",
        "The reports' cosine chooses better tokens than chance",
        rule_against_chance("last_two_layers"),
        "one stage, thresholds that route a quarter of training text",
    ),
    claim(
        "gate-order",
        "A learned gate chooses better tokens than chance",
        rule_against_chance("gate"),
        "one stage, thresholds that route a quarter of training text",
    ),
    claim(
        "gate-order-reversed",
        "A gate that learnt from WikiText-2 chooses better tokens than chance (scored on it)",
        on_wikitext(rule_against_chance("gate", "all_1_reversed", "wikitext")),
        "one stage, thresholds that route a quarter of training text",
    ),
    claim(
        "gate-beats-random",
        "The best gate-routed stage beats random routing at its rate",
        gate_against_chance,
        f"one stage, equal numbers; {CHOSEN}",
    ),
    claim(
        "gate-beats-unrouted",
        "The best gate-routed stage beats the best baseline without routing at no more FLOPs",
        gate_against_unrouted,
        "baseline best on valid: stage on all tokens, last layers tuned, LoRA; equal text, updates",
    ),
    claim(
        "gate-beats-stage-for-all",
        "The best gate-routed stage beats the same stage given to every token",
        gate_against_itself,
        f"one and the same stage, which costs more operations without the gate; {CHOSEN}",
    ),
    claim(
        "deep-routed-beats-shallow",
        "At no more FLOPs four routed layers beat two for every token",
        deep_against_shallow(2, 1),
        "gate, rate chosen on valid; equal text and updates",
    ),
    claim(
        "all-tokens-beat-routed-training",
        "Training on all tokens beats training on the routed ones",
        all_against_routed,
        "both then routed by entropy, a quarter; equal text and updates, four times the tokens",
    ),
    claim(
        "full-context",
        "Seeing all tokens beats seeing other hard tokens alone",
        change("full_context", "own_positions"),
        "equal tokens and updates",
    ),
    claim(
        "wikitext",
        "What a stage learnt from instructions helps WikiText-2 too",
        on_wikitext(against_base("all_1", "wikitext_ppl", "base_wikitext_ppl")),
        "all tokens of another corpus",
    ),
    claim(
        "wikitext-tuned",
        "What the tuned last layers learnt from instructions helps WikiText-2 too",
        on_wikitext(against_base("tuned", "wikitext_ppl", "base_wikitext_ppl")),
        "all tokens of another corpus",
    ),
    claim(
        "reversed",
        "A stage that learnt from WikiText-2 improves WikiText-2",
        on_wikitext(against_base("all_1_reversed", "wikitext_ppl", "base_wikitext_ppl")),
        "held-out windows of the same corpus",
    ),
    claim(
        "reversed-transfer",
        "A stage that learnt from WikiText-2 helps on instructions too",
        against_base("all_1_reversed", "test_ppl", "base_test_ppl"),
        "all tokens of another corpus",
    ),
    claim(
        "wide-gate",
        "A gate that sees more than the last state beats the gate at an equal share of tokens",
        rule_against_gate("wide_gate", "wide_gate"),
        f"one and the same stage, a quarter of test routed; {SEES}",
    ),
    claim(
        "wide-gate-cost",
        "A gate that sees more than the last state beats the gate at equal FLOPs",
        wide_against_gate_at_cost,
        f"one and the same stage; the gate wants a quarter, the other pays the head again; {SEES}",
    ),
    claim(
        "joint-gate",
        "A gate trained with its stage beats a stage trained on all tokens and gated afterwards",
        rule_against_gate("joint", "joint_gate"),
        "a quarter of test routed; equal text and updates; the gate's weights are further ones",
    ),
    claim(
        "behind-adapter",
        "A gate-routed stage behind an adapted base beats adapting alone",
        behind_against("gate", "low_rank"),
        f"half LoRA, half stage against LoRA with all trained weights; {BEHIND}",
    ),
    claim(
        "behind-adapter-entropy",
        "A stage routed by entropy behind an adapted base beats adapting alone",
        behind_against("entropy", "low_rank"),
        f"half LoRA, half stage against LoRA with all trained weights; {BEHIND}",
    ),
    claim(
        "behind-adapter-updates",
        "A gate-routed stage behind an adapted base beats adapting alone with as many updates",
        behind_against("gate", "low_rank_long"),
        f"half LoRA, half stage against LoRA with all trained weights, two epochs; {BEHIND}",
    ),
    claim(
        "second-pass-hard",
        "A second pass over hard tokens beats adapting alone",
        pass_against_low_rank(HARD_AGAIN),
        "mixed or recirculated, best on valid; a quarter by entropy; equal weights and updates",
    ),
    claim(
        "second-pass-all",
        "A second pass over all tokens beats adapting alone",
        pass_against_low_rank(("again", "recirculated")),
        "mixed or recirculated, best on valid; equal weights and updates, more FLOPs",
    ),
    claim(
        "second-pass-routed",
        "The best second pass beats the best gate-routed stage that costs no more FLOPs than it",
        pass_against_routed,
        "both chosen on valid, the stage among those as cheap as the pass; equal text and updates",
    ),
)

E19 = Experiment(
    slug="19_cascade_that_works",
    question="What makes a cascade better than its base, and does routing have a part in it?",
    parameters=Exp19,
    texts=Exp19.texts,
    variants=_variants(),
    baseline="base",
    report="cascade_works",
    figures={
        "pareto": pareto.front(
            ("all_1", "all_2"), ("routed", "random"), BASELINES, "base", LINES, MARKS
        ),
        "routing": pareto.kept_gain("all_1"),
        "ablations": pareto.steps((*CUMULATIVE, *ABLATIONS)),
    },
    claims=CLAIMS,
)
