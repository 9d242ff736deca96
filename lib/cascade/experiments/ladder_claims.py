"""The claims of Experiment 19 and the measures that decide them."""

import numpy as np
import pandas as pd

from lib.results.statistics import percent_change
from lib.cascade.experiments.cascade import against_base, on_wikitext
from lib.cascade.experiments.ladder_variants import (
    ALL,
    EXPERIMENT,
    LOW_RANK,
    RANDOM,
    REVERSED,
    ROUTED,
    SLUG,
    TUNED,
    Exp19,
    all_tokens,
)
from lib.results.claims import Measure, Tables, by_seed, change, claim_maker
from lib.results.store import Absent

BUDGET = Exp19.budget
RIVALS = (TUNED, LOW_RANK, ALL, all_tokens(2))


def best_routed(
    routes: pd.DataFrame,
    budget: float,
    variants: tuple[str, ...] = (),
    rule: str = "gate",
) -> tuple[str, float]:
    """Variant and rate below 1 at which ``rule`` does best within a budget of FLOPs, both on valid.

    ``variants``: those to choose among, default all stages learnt from instructions. Raises
    Absent if nothing lies within the budget.
    """
    own = routes[(routes["rule"] == rule) & (routes["wanted_rate"] < 1)]
    known = [name for name in own["variant"].unique() if not name.endswith(REVERSED)]
    own = own[own["variant"].isin(variants or known)]
    means = own.groupby(["variant", "wanted_rate"])[["val_flops", "val_ppl"]].mean()
    means = means[means["val_flops"] <= budget]
    if means.empty:
        raise Absent(f"no stage routed by {rule!r} within {budget} times the base's FLOPs")
    return means["val_ppl"].idxmin()


def best_unrouted(frame: pd.DataFrame, budget: float, suffix: str = "") -> str:
    """The adaptation without routing that is best on valid within a budget of FLOPs."""
    own = frame[frame["variant"].isin([name + suffix for name in RIVALS])]
    means = own.groupby("variant")[["flops", "val_ppl"]].mean()
    means = means[means["flops"] <= budget]
    if means.empty:
        raise Absent(f"no rival within {budget} times the base's FLOPs")
    return means["val_ppl"].idxmin()


def routed_column(
    tables: Tables, column: str, variant: str, rate: float, rule: str = "gate"
) -> np.ndarray:
    """A column of ``routes`` by seed. Raises Absent if there is none."""
    frame = tables("routes")
    own = frame[
        (frame["variant"] == variant) & (frame["rule"] == rule) & (frame["wanted_rate"] == rate)
    ].sort_values("seed")
    if own.empty:
        raise Absent(f"no routes of {variant!r} by {rule!r} at {rate}")
    return own[column].to_numpy(dtype=float)


def _chosen(tables: Tables, column: str) -> np.ndarray:
    return routed_column(tables, column, *best_routed(tables("routes"), BUDGET))


def gate_against_base(column: str) -> Measure:
    """Percent change of the best gate-routed stage within the budget against the base."""

    def measure(tables: Tables) -> np.ndarray:
        variant, rate = best_routed(tables("routes"), BUDGET)
        base = by_seed(tables(), variant, f"base_{column}").to_numpy()
        return percent_change(routed_column(tables, column, variant, rate), base)

    return measure


def gate_cost(tables: Tables) -> np.ndarray:
    """Percent of FLOPs per token that the best gate-routed stage adds to the base."""
    return 100 * (_chosen(tables, "flops") - 1)


def gate_against_chance(tables: Tables) -> np.ndarray:
    """Percent change of the best gate-routed stage against as many tokens drawn at random."""
    return percent_change(_chosen(tables, "test_ppl"), _chosen(tables, "test_chance_ppl"))


def rule_against_chance(rule: str, rate: float, variant: str = ALL) -> Measure:
    """Percent change of a rule against random routing of exactly as many tokens."""

    def measure(tables: Tables) -> np.ndarray:
        ours, chance = (
            routed_column(tables, column, variant, rate, rule)
            for column in ("test_ppl", "test_chance_ppl")
        )
        return percent_change(ours, chance)

    return measure


def gate_against_unrouted(tables: Tables) -> np.ndarray:
    """Percent change of the best gate-routed stage against the best adaptation without routing
    that costs no more FLOPs than it."""
    variant, rate = best_routed(tables("routes"), BUDGET)
    cost = routed_column(tables, "val_flops", variant, rate).mean()
    rival = best_unrouted(tables(), cost)
    ours = routed_column(tables, "test_ppl", variant, rate)
    return percent_change(ours, by_seed(tables(), rival, "test_ppl").to_numpy())


def gate_against_itself(tables: Tables) -> np.ndarray:
    """Percent change of the best gate-routed stage against the same stage given to all tokens."""
    variant, rate = best_routed(tables("routes"), BUDGET)
    ours = routed_column(tables, "test_ppl", variant, rate)
    return percent_change(ours, by_seed(tables(), variant, "test_ppl").to_numpy())


def deep_against_shallow(deep: int, shallow: int) -> Measure:
    """Percent change of a deep stage, gate-routed at a rate that costs no more FLOPs, against a
    shallow one given to all tokens."""

    def measure(tables: Tables) -> np.ndarray:
        rival = all_tokens(shallow)
        cost = by_seed(tables(), rival, "flops").mean()
        variant, rate = best_routed(tables("routes"), cost, (all_tokens(deep),))
        ours = routed_column(tables, "test_ppl", variant, rate)
        return percent_change(ours, by_seed(tables(), rival, "test_ppl").to_numpy())

    return measure


def all_tokens_against_routed(tables: Tables) -> np.ndarray:
    """Percent change of the stage trained on all tokens against the one trained on routed ones,
    both then routed by entropy at the same rate."""
    ours = routed_column(tables, "test_ppl", ALL, Exp19.rate, "entropy")
    return percent_change(ours, by_seed(tables(), ROUTED, "test_ppl").to_numpy())


# no seed made these claims, so nothing is reported
_claim = claim_maker(
    "cascade_works", SLUG, "after seeds 001, 002", experiment=EXPERIMENT, min_seeds=3
)


CHOSEN = "depth and rate chosen on valid within 1.15 times the base's FLOPs"
CLAIMS = (
    _claim(
        "entropy-beats-base",
        "A stage routed by entropy improves all tokens of its base",
        against_base(ROUTED, "test_ppl", "base_test_ppl"),
        "all test tokens, a quarter routed",
    ),
    _claim(
        "gate-bar",
        "A stage routed by a learned gate brings all tokens to 0.85 of the base",
        gate_against_base("test_ppl"),
        f"all test tokens; {CHOSEN}",
        threshold=-15.0,
    ),
    _claim(
        "gate-cost",
        "... at no more than 1.15 times its FLOPs per token",
        gate_cost,
        "measured on test, chosen on valid; matrix products, gate and waiting tokens' keys",
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
        "gate-wikitext",
        "... and on WikiText-2, which it never saw",
        on_wikitext(gate_against_base("wikitext_ppl")),
        f"all tokens of the second corpus; {CHOSEN}",
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
        "gate-order",
        "A learned gate chooses better tokens than chance",
        rule_against_chance("gate", 0.25),
        "one stage, a quarter routed",
    ),
    _claim(
        "gate-order-reversed",
        "... also when stage and gate learnt from WikiText-2 (scored on it)",
        on_wikitext(
            lambda tables: percent_change(
                *(
                    routed_column(tables, column, ALL + REVERSED, 0.25)
                    for column in ("wikitext_ppl", "wikitext_chance_ppl")
                )
            )
        ),
        "one stage, a quarter routed",
    ),
    _claim(
        "gate-beats-random",
        "The best gate-routed stage beats random routing at its rate",
        gate_against_chance,
        f"one stage, equal numbers; {CHOSEN}",
    ),
    _claim(
        "gate-beats-unrouted",
        "The best gate-routed stage beats the best rival without routing at no more FLOPs",
        gate_against_unrouted,
        "rival best on valid: stages on all tokens, last layers tuned, LoRA; equal text, updates",
    ),
    _claim(
        "gate-beats-stage-for-all",
        "It is better than the same stage given to every token",
        gate_against_itself,
        f"one and the same stage; {CHOSEN}",
    ),
    _claim(
        "deep-routed-beats-shallow",
        "At no more FLOPs four routed layers beat two for every token",
        deep_against_shallow(2, 1),
        "gate, rate chosen on valid; equal text and updates",
    ),
    _claim(
        "all-tokens-beat-routed-training",
        "Training on all tokens beats training on the routed ones",
        all_tokens_against_routed,
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
        "What a stage learnt from instructions helps WikiText-2 too",
        on_wikitext(against_base(ALL, "wikitext_ppl", "base_wikitext_ppl")),
        "all tokens of another corpus",
    ),
    _claim(
        "wikitext-tuned",
        "... and so does tuning the base's last layers",
        on_wikitext(against_base(TUNED, "wikitext_ppl", "base_wikitext_ppl")),
        "all tokens of another corpus",
    ),
    _claim(
        "reversed",
        "A stage that learnt from WikiText-2 improves WikiText-2",
        on_wikitext(against_base(ALL + REVERSED, "wikitext_ppl", "base_wikitext_ppl")),
        "held-out windows of the same corpus",
    ),
    _claim(
        "reversed-transfer",
        "... and helps on instructions too",
        against_base(ALL + REVERSED, "test_ppl", "base_test_ppl"),
        "all tokens of another corpus",
    ),
)
