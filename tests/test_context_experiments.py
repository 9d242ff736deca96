"""The context experiments: recipes, measures of claims, checks that can fail, the benchmark."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from lib.experiments import (
    context_vector,
    exp16_token_input,
    exp17_parallel_contexts,
    exp18_scaling,
    parallel_variants,
    scaling_claims,
    scaling_variants,
    token_input_variants,
)

from lib.checks import CheckFailed
from lib.context import scaling_run
from lib.context.phase_two import PhaseTwoSettings
from lib.context.scaling_run import Recipe, chosen_columns, column, last_column
from lib.context.sources import Recurrent
from lib.parameters import ParameterError
from lib.results import store
from lib.results.store import Absent
from lib.runs.places import ROOT
from lib.runs.task import Outcome

MODULES = (exp16_token_input, exp17_parallel_contexts, exp18_scaling)


@pytest.mark.parametrize("module", MODULES)
def test_sizes_are_named_and_claims_are_complete(module):
    for size in ("full", "quick", "tiny"):
        assert module.PARAMETERS.at(size).size == size
    assert all(claim.min_seeds == 3 and claim.control for claim in module.CLAIMS)
    assert len({claim.id for claim in module.CLAIMS}) == len(module.CLAIMS)
    assert module.PARAMETERS().seeds >= 3


def test_phase_one_of_the_seed_at_its_own_width_and_scaled():
    own = context_vector.seed_phase_one(768)
    assert (own.chunk, own.learning_rate) == (8000, pytest.approx(0.002))
    narrow = context_vector.seed_phase_one(192)
    assert (narrow.chunk, narrow.learning_rate) == (2000, pytest.approx(0.004))
    assert own.chunk / 768 == pytest.approx(narrow.chunk / 192)  # equal size of the dispersion


def test_matched_variant_has_about_equal_parameters_and_flat_changes_only_the_input():
    run = token_input_variants.Exp16.at("full")
    found = token_input_variants.sources(run, 192)
    every, matched, flat = (
        found[name].block(192, 0)
        for name in (exp16_token_input.EVERY, exp16_token_input.MATCHED, exp16_token_input.FLAT)
    )
    sizes = [sum(p.numel() for p in block.parameters()) for block in (every, matched, flat)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
    assert sizes[0] - sizes[2] == 5 * 192 * 192  # the token half of five later layers
    assert flat.layers[1].residual is None


def test_updates_an_epoch_follow_the_seed():
    sizes = (56_602, 110_516, 216_119, 529_173)
    batches = [scaling_variants.seed_batch(t, i, 4) for i, t in enumerate(sizes)]
    assert [round(t / b) for t, b in zip(sizes, batches, strict=True)] == [8, 17, 40, 342]
    assert scaling_variants.seed_batch(100, 1, 3) < 100


def test_sizes_must_end_at_tokens():
    with pytest.raises(ParameterError, match="largest"):
        scaling_variants.Exp18.checked({"tokens": 1000})


@pytest.mark.parametrize("sizes", ["100,600", "300,200,600", "600"])
def test_sizes_must_be_three_and_rise(sizes):
    with pytest.raises(ParameterError, match="'sizes' is .*at least three whole numbers that"):
        scaling_variants.Exp18.checked({"tokens": 600, "sizes": sizes})


def test_no_size_comes_twice():
    with pytest.raises(ParameterError, match="sizes"):
        scaling_variants.Exp18.checked({"tokens": 600, "sizes": "200,200,600"})


def test_the_wide_rows_count_as_tokens_and_a_batch_fits_into_the_text():
    wide = token_input_variants.Exp16.checked({"tokens": 2_000, "wide_tokens": 9_000})
    assert wide.most_tokens == 9_000 and token_input_variants.Exp16().most_tokens == 6_000
    with pytest.raises(ParameterError, match="'batch' is 512; allowed: below tokens"):
        token_input_variants.Exp16.checked({"tokens": 512})


def test_a_memory_beyond_the_curve_is_not_averaged_away():
    rows = pd.DataFrame({"iterations": [7.0, 7.0, 7.0], "memory_tokens": [2.0, 3.0, 4.0]})
    assert context_vector.remembered(rows) == "3.00"
    rows.loc[1, "memory_tokens"] = None
    assert context_vector.remembered(rows) == "> 8"
    assert context_vector.remembered(rows.assign(iterations=None)) == ""


def replayed():
    """Rows and curves of two sizes as `chosen_columns` makes them."""
    rows, curves = [], []
    recipes = [
        Recipe(name, PhaseTwoSettings(max_updates=9 * (name == "equal_updates")), rules)
        for name, rules in scaling_variants.RULES.items()
    ]
    for tokens in (1000, 2000):
        row = {"variant": scaling_variants.variant("first_layer", tokens), "seed": 0}
        for recipe in recipes:
            curve = [
                {"epoch": i, "updates": 3 * i, "val_loss": v, "val_ppl": np.exp(v), "test_acc": 0.1}
                | {"test_ppl": 100.0 * i + tokens}
                for i, v in enumerate([3.0, 3.5, 2.0], start=1)
            ]
            row |= chosen_columns(recipe, curve)
            curves += [{"recipe": recipe.name, **row_of} | row for row_of in curve]
        rows.append(row)
    return pd.DataFrame(rows), pd.DataFrame(curves)


def test_reported_epochs_are_checked_against_the_curves(monkeypatch, capsys):
    frame, curve = replayed()
    monkeypatch.setattr(exp18_scaling.store, "read", lambda *given: curve)
    exp18_scaling.check_replay(frame, "full")
    assert "9 updates at every size" in capsys.readouterr().out
    for name in (
        column("fixed", 0, "test_ppl"),
        column("fixed", 1, "val_ppl"),
        column("seed", 1, "test_ppl"),
        column("equal_updates", 0, "test_ppl"),
        last_column("equal_updates", "test_ppl"),
        last_column("equal_updates", "updates"),
    ):
        with pytest.raises(CheckFailed, match=name):
            exp18_scaling.check_replay(frame.assign(**{name: frame[name] * 1.1}), "full")
    with pytest.raises(CheckFailed, match="epoch 3 is after 2"):
        exp18_scaling.check_replay(frame.assign(fixed_patience1_epoch=3), "full")


def test_steepness_is_compared_at_one_patience_and_both_together_says_so():
    rows = [
        {
            "variant": scaling_variants.variant("first_layer", t),
            "seed": s,
            "tokens": t,
            "seed_patience1_test_ppl": 1e4 * t**-0.5,
            "fixed_patience1_test_ppl": 1e4 * t**-0.4,
            "fixed_test_ppl": 1e4 * t**-0.3,
        }
        for t in (1000, 4000, 16000)
        for s in (0, 1)
    ]
    claims = {claim.id.split("-", 1)[1]: claim for claim in exp18_scaling.CLAIMS}
    for name, gap in (("recipe-steepens", -0.1), ("recipe-and-stopping-steepen", -0.2)):
        assert claims[name].measure(tables_of(rows)) == pytest.approx([gap] * 2)
    assert "differ together" in claims["recipe-and-stopping-steepen"].control


def test_chosen_columns_replay_the_rule():
    curve = [
        {"val_loss": v, "val_ppl": 10 * v, "test_ppl": 20 * v, "test_acc": 0.1, "updates": i}
        for i, v in enumerate([3.0, 2.0, 2.5, 1.0], start=1)
    ]
    found = chosen_columns(Recipe("fixed", PhaseTwoSettings(), (0, 1)), curve)
    assert found["fixed_test_ppl"] == 20 and found[column("fixed", 1, "test_ppl")] == 40
    assert (found["fixed_epoch"], found["fixed_patience1_epoch"]) == (4, 2)
    assert last_column("fixed", "updates") not in found
    curve.append({**curve[0], "updates": 5})
    limited = chosen_columns(Recipe("equal", PhaseTwoSettings(max_updates=5)), curve)
    assert (limited["equal_updates"], limited[last_column("equal", "updates")]) == (4, 5)
    assert limited[last_column("equal", "test_ppl")] == 60


def test_replayed_patience_equals_really_stopping(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path / "cache"))
    run = scaling_variants.Exp18.checked(
        {**scaling_variants.Exp18.TINY, "corpus": "python-docs", "learning_rate": 0.05}
    )
    data = run.load().choose(run)
    block = Recurrent("every_layer", 2, 16, None)
    rules = [
        Recipe("fixed", PhaseTwoSettings(64, 0.05, 8, patience=0), (0, 1)),
        Recipe("stopped", PhaseTwoSettings(64, 0.05, 8, patience=1), (0,)),
    ]
    row = scaling_run.run(scaling_run.ScalingRun(data, block, tuple(rules)), 0, tmp_path).row
    assert row["fixed_patience1_test_ppl"] == row["stopped_test_ppl"]
    assert row["fixed_patience1_epoch"] == row["stopped_epoch"]


def tables_of(rows):
    return lambda table="": pd.DataFrame(rows)


def test_best_window_is_chosen_on_validation():
    rows = []
    for seed in (0, 1):
        rows.append(
            {"variant": exp16_token_input.EVERY, "seed": seed, "val_ppl": 1.0, "test_ppl": 90.0}
        )
        rows.append({"variant": "1-token MLP", "seed": seed, "val_ppl": 50.0, "test_ppl": 100.0})
        rows.append({"variant": "2-token MLP", "seed": seed, "val_ppl": 60.0, "test_ppl": 80.0})
    assert exp16_token_input.best_window(tables_of(rows)) == pytest.approx([-10, -10])
    with pytest.raises(Absent):
        exp16_token_input.best_window(tables_of(rows[:1]))


def test_exponents_and_steps_come_from_the_grid():
    rows = [
        {
            "variant": f"{exp18_scaling.FIRST}, {t:,} tokens",
            "seed": s,
            "tokens": t,
            "test_ppl": 1e4 * t**-0.5,
            "er_pct": 10 + t / 1e4,
        }
        for t in (1000, 4000, 16000)
        for s in (0, 1)
    ]
    assert scaling_claims.exponents("first_layer")(tables_of(rows)) == pytest.approx([-0.5] * 2)
    assert scaling_claims.rank_spread(tables_of(rows)) == pytest.approx([1.5, 1.5])
    assert scaling_claims.step("first_layer", "er_pct")(tables_of(rows)) == pytest.approx([1.2] * 2)
    with pytest.raises(Absent, match="token at every layer has no test_ppl"):
        scaling_claims.exponents("every_layer")(tables_of(rows))
    with pytest.raises(KeyError, match="test_pll") as misspelt:
        scaling_claims.exponents("first_layer", "test_pll")(tables_of(rows))
    assert not isinstance(misspelt.value, Absent)


def test_speed_is_a_ratio_to_the_sequential_way():
    name = parallel_variants.cache_name
    rows = [
        {"variant": name("every_layer", "sequential"), "seed": 0, "collect_seconds": 6.0},
        {"variant": name("every_layer", "table"), "seed": 0, "collect_seconds": 0.5},
    ]
    measured = exp17_parallel_contexts.speed("every_layer", "table")(tables_of(rows))
    assert measured == pytest.approx([12.0])


def test_the_clock_runs_alone_after_the_trainings_and_fills_the_rows_of_the_ways(monkeypatch):
    calls = []

    def sweep(tasks, workers):
        calls.append((workers, {task.function.__module__ for task in tasks}))
        clock = [{"way": way, "collect_seconds": 2.0} for way in parallel_variants.WAYS]
        return [
            Outcome({**task.labels, "seed": task.seed}, {"clock": clock} if workers == 1 else {})
            for task in tasks
        ]

    written = {}
    monkeypatch.setattr(parallel_variants, "sweep", sweep)
    monkeypatch.setattr(parallel_variants.store, "write", lambda *given: written.update(o=given[1]))
    run = parallel_variants.Exp17.checked(
        {**parallel_variants.Exp17.TINY, "corpus": "python-docs", "workers": 2, "seeds": 2}
    )
    parallel_variants.run(run.load(), run)
    assert [workers for workers, _ in calls] == [2, 1]
    assert calls[1][1] == {"lib.context.collection_clock"}
    timed = [o.row["variant"] for o in written["o"] if o.row.get("collect_seconds") == 2.0]
    assert len(timed) == 2 * 2 * len(parallel_variants.WAYS) and ": " in timed[0]
    assert not any("clock" in o.row["variant"] for o in written["o"])


def test_positions_are_means_over_seeds_in_the_order_of_the_text(monkeypatch):
    rows = [
        {"variant": "a", "position": place, "seed": seed, "cos_mean": 0.9 + seed / 10, "mse": 0.5}
        for seed in (0, 1)
        for place in ("first", "middle", "last")
    ]
    monkeypatch.setattr(store, "read", lambda slug, table, size: pd.DataFrame(rows))
    table = exp17_parallel_contexts.positions_table("full")
    assert list(table.index) == [("a", "first"), ("a", "middle"), ("a", "last")]
    assert table["cos_mean"].tolist() == [0.95] * 3 and table["mse"].tolist() == [0.5] * 3


def test_only_rows_with_a_phase_two_count_as_trained():
    frame = pd.DataFrame({"variant": ["contexts", "cache"], "updates": [None, 60]})
    assert exp17_parallel_contexts.trained(frame)["variant"].tolist() == ["cache"]


def test_checks_pass_and_can_fail(monkeypatch, capsys):
    context_vector.check_causal(2)
    context_vector.check_ways(2)
    assert "causal" in capsys.readouterr().out
    monkeypatch.setattr(context_vector, "sequential", lambda block, x: x.flip(0))
    with pytest.raises(CheckFailed, match="differ"):
        context_vector.check_ways(2)
    with pytest.raises(CheckFailed, match="later tokens"):
        context_vector.check_causal(2)


def test_benchmark_prints_ratios_and_small_errors_for_exact_ways():
    command = [sys.executable, str(ROOT / "tools" / "bench_context.py"), "--width", "16"]
    command += ["--tokens", "64", "--rounds", "1", "--layers", "2", "--documents", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = {line[:34].strip(): line[34:].split() for line in done.stdout.splitlines()[2:]}
    assert float(lines["sequential, token half ahead"][2]) < 1e-4
    assert float(lines["4 documents batched"][2]) < 1e-4
    assert float(lines["parallel, 1 sweep"][2]) > 1e-3


def test_narrow_random_cell_forgets_like_the_wide_one():
    """Why weights are scaled: with the seed's literal 0.1 a narrow cell forgets faster."""
    from lib.context.block import ContextBlock
    from lib.context.forgetting import noise_gain

    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.layer_norm(torch.randn(300, 96, generator=generator), (96,))
    scaled = noise_gain(ContextBlock(96, 96, 6, seed=0), x)
    literal = noise_gain(ContextBlock(96, 96, 6, weight_std=0.1, seed=0), x)
    assert np.isfinite(scaled) and abs(scaled - 0.2155) < abs(literal - 0.2155)
