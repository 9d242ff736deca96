"""The context experiments: recipes, measures of claims, checks that can fail, the benchmark."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from lib.analysis.checks import CheckFailed
from lib.context import scaling_run
from lib.context.phase_two import PhaseTwoSettings
from lib.context.scaling_run import Recipe, chosen_columns, column
from lib.context.sources import Recurrent
from lib.experiments import (
    context_vector,
    exp16_token_input,
    exp17_parallel_contexts,
    exp18_scaling,
    parallel_variants,
    scaling_variants,
    token_input_variants,
)
from lib.parameters import ParameterError
from lib.provenance import ROOT

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


def test_chosen_columns_replay_the_rule():
    curve = [
        {"val_loss": v, "val_ppl": 10 * v, "test_ppl": 20 * v, "test_acc": 0.1, "updates": i}
        for i, v in enumerate([3.0, 2.0, 2.5, 1.0], start=1)
    ]
    found = chosen_columns(Recipe("fixed", PhaseTwoSettings(), (0, 1)), curve)
    assert found["fixed_test_ppl"] == 20 and found[column("fixed", 1, "test_ppl")] == 40
    assert (found["fixed_epoch"], found["fixed_patience1_epoch"]) == (4, 2)


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
    with pytest.raises(KeyError):
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
    assert exp18_scaling.exponents("first_layer")(tables_of(rows)) == pytest.approx([-0.5] * 2)
    assert exp18_scaling.rank_spread(tables_of(rows)) == pytest.approx([1.5, 1.5])
    assert exp18_scaling.step("first_layer", "er_pct")(tables_of(rows)) == pytest.approx([1.2] * 2)
    with pytest.raises(KeyError):
        exp18_scaling.exponents("every_layer")(tables_of(rows))


def test_speed_is_a_ratio_to_the_sequential_way():
    name = parallel_variants.cache_name
    rows = [
        {"variant": name("every_layer", "sequential"), "seed": 0, "collect_seconds": 6.0},
        {"variant": name("every_layer", "table"), "seed": 0, "collect_seconds": 0.5},
    ]
    measured = exp17_parallel_contexts.speed("every_layer", "table")(tables_of(rows))
    assert measured == pytest.approx([12.0])


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
