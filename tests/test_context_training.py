"""Context cache, Phase 2 with resumption, early stopping, controls and scaling fits."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib.context.block import ContextBlock
from lib.context.cache import CacheError, cache_key, open_cache, write_cache
from lib.context.contexts import sequential
from lib.context.controls import (
    BpttSettings,
    EndToEnd,
    recurrent_features,
    train_end_to_end,
    window_features,
)
from lib.context.early_stopping import best_epoch, stop_epoch
from lib.context.head import NextTokenModel, UntiedHead
from lib.context.phase_two import Features, PhaseTwoSettings, evaluate, fit
from lib.context.scaling import (
    exponent_interval,
    fit_power_law,
    fit_with_floor,
    residual_interval,
)
from lib.context.token_block import TokenBlock

SEED_TOKENS, SEED_PPL = [56602, 110516, 216119, 529173], [1503.3, 1036.3, 757.7, 536.0]


def features(n=60, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Features(
        [torch.randn(n, 5, generator=g)] * 2,
        torch.randn(n, d, generator=g),
        torch.randint(4, (n,), generator=g),
    )


def model():
    return NextTokenModel(TokenBlock(6, 6, [5, 5], seed=1), UntiedHead(6, 4))


def test_cache_round_trip_with_layers_of_different_width(tmp_path):
    layers = [torch.randn(7, 3), torch.randn(7, 5)]
    write_cache(tmp_path / "c", layers, "key")
    for got, expected in zip(open_cache(tmp_path / "c", "key"), layers, strict=True):
        assert torch.equal(got, expected)


def test_foreign_truncated_changed_and_missing_caches_are_told_apart(tmp_path):
    write_cache(tmp_path / "c", [torch.randn(7, 3)], "key")
    with pytest.raises(CacheError, match="other weights"):
        open_cache(tmp_path / "c", "other")
    path = tmp_path / "c" / "layer_0.f32"
    whole = path.read_bytes()
    path.write_bytes(b"\x01" + whole[1:])
    with pytest.raises(CacheError, match="damaged"):
        open_cache(tmp_path / "c", "key")
    path.write_bytes(whole[:-4])
    with pytest.raises(CacheError, match="truncated"):
        open_cache(tmp_path / "c", "key", quick=True)
    with pytest.raises(CacheError, match="about.json"):
        open_cache(tmp_path / "nowhere", "key")


def test_writing_into_an_opened_cache_leaves_the_file(tmp_path):
    write_cache(tmp_path / "c", [torch.ones(2, 2)], "key")
    open_cache(tmp_path / "c", "key")[0].zero_()
    assert open_cache(tmp_path / "c", "key")[0].sum() == 4


def test_cache_key_follows_weights_text_and_method():
    block, x = ContextBlock(4, 4, 1, seed=0), torch.randn(5, 4)
    key = cache_key(block, x, "sequential")
    assert key == cache_key(ContextBlock(4, 4, 1, seed=0), x, "sequential")
    others = {
        cache_key(ContextBlock(4, 4, 1, seed=1), x, "sequential"),
        cache_key(block, x + 1, "sequential"),
        cache_key(block, x, "parallel"),
    }
    assert len(others | {key}) == 4


def test_untrained_model_predicts_uniformly():
    assert evaluate(model(), features())["ppl"] == pytest.approx(4, rel=1e-5)


def test_phase_two_learns_a_rule_that_the_token_gives_away():
    outputs = torch.arange(200) % 4
    tokens = torch.nn.functional.one_hot(outputs, 6).float()
    data = Features([torch.zeros(200, 5)] * 2, tokens, outputs)
    settings = PhaseTwoSettings(batch=20, max_epochs=15, patience=0, learning_rate=1e-2)
    result = fit(model(), data, data, settings)
    assert result.best_row["val_ppl"] < 1.2 and result.best_row["val_acc"] == 1.0


def test_patience_stops_where_the_rule_says_and_restores_the_best_weights():
    train, valid = features(), features(seed=3)
    free = PhaseTwoSettings(batch=10, max_epochs=8, patience=0, learning_rate=2e-2)
    everything = fit(model(), train, valid, free)
    losses = [row["val_loss"] for row in everything.curve]
    strict = PhaseTwoSettings(batch=10, max_epochs=8, patience=1, learning_rate=2e-2)
    stopped_model = model()
    stopped = fit(stopped_model, train, valid, strict)
    assert len(stopped.curve) == stop_epoch(losses, 1) < 8
    assert stopped.curve == everything.curve[: len(stopped.curve)]
    assert evaluate(stopped_model, valid)["loss"] == pytest.approx(stopped.best_row["val_loss"])


def test_update_limit_and_report_do_not_choose():
    settings = PhaseTwoSettings(batch=10, max_epochs=9, patience=0, max_updates=8)
    train, valid, test = (features(seed=s) for s in range(3))
    with_test = fit(model(), train, valid, settings, report={"test": test})
    without = fit(model(), train, valid, settings)
    assert with_test.updates == 8 and "test_ppl" in with_test.curve[0]
    assert [r["val_loss"] for r in with_test.curve] == [r["val_loss"] for r in without.curve]


SCRIPT = """
import sys, os, signal, json, torch
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from test_context_training import features, model
from lib.context.phase_two import PhaseTwoSettings, fit
kill = int(sys.argv[3])
def after(epoch):
    if epoch == kill:
        os.kill(os.getpid(), signal.SIGKILL)
settings = PhaseTwoSettings(batch=10, max_epochs=4, patience=0)
net = model()
result = fit(net, features(), features(seed=1), settings, checkpoint=Path(sys.argv[2]),
             after_epoch=after)
state = {k: v.flatten().tolist() for k, v in net.state_dict().items()}
print(json.dumps([result.curve, state]))
"""


def test_killed_phase_two_continues_with_the_same_bits(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def start(name, kill):
        command = [sys.executable, "-c", SCRIPT, root, str(tmp_path / name), str(kill)]
        return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)

    assert start("killed", 2).returncode == -signal.SIGKILL
    resumed, whole = start("killed", 0), start("whole", 0)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout) == json.loads(whole.stdout)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    path, settings = tmp_path / "c.bin", PhaseTwoSettings(batch=10, max_epochs=1, patience=0)
    fit(model(), features(), features(seed=1), settings, checkpoint=path)
    other = PhaseTwoSettings(batch=20, max_epochs=1, patience=0)
    with pytest.raises(RuntimeError, match="other settings"):
        fit(model(), features(), features(seed=1), other, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RuntimeError, match="damaged"):
        fit(model(), features(), features(seed=1), settings, checkpoint=path)


def test_features_need_one_length_and_settings_are_checked():
    with pytest.raises(ValueError, match="one length"):
        Features([torch.zeros(3, 2)], torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match=">= 1"):
        PhaseTwoSettings(batch=0)


def test_early_stopping_rule():
    losses = [3.0, 2.0, 2.5, 2.4, 1.9, 2.0]
    assert (stop_epoch(losses, 1), best_epoch(losses, 1)) == (3, 2)
    assert (stop_epoch(losses, 3), best_epoch(losses, 3)) == (6, 5)
    assert (stop_epoch(losses, 0), best_epoch(losses)) == (6, 5)
    with pytest.raises(ValueError, match="allowed"):
        stop_epoch(losses, -1)


def test_window_features_hold_the_tokens_before_and_none_after():
    e = torch.arange(1.0, 6.0)[:, None]
    found = window_features(e, torch.zeros(5, dtype=torch.long), 3, 2)
    assert found.contexts[0].tolist()[:3] == [[0, 0], [0, 1], [1, 2]]
    assert found.contexts[0] is found.contexts[1]
    assert window_features(e, torch.zeros(5, dtype=torch.long), 1, 2).contexts[0].shape == (5, 0)


def end_to_end(d=6):
    block = ContextBlock(5, d, 2, seed=0)
    return EndToEnd(block, NextTokenModel(TokenBlock(d, d, block.widths, seed=1), UntiedHead(d, 4)))


def test_end_to_end_loss_is_the_loss_over_exact_contexts():
    net, x = end_to_end(), torch.randn(13, 6)
    outputs = torch.randint(4, (13,))
    torch.nn.init.normal_(net.model.head.linear.weight)
    loss, state = net.loss(torch.zeros(1, 5), x[None, :12], outputs[None, 1:])
    expected = evaluate(net.model, recurrent_features(net.block, x, outputs))["loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(state[0], sequential(net.block, x[:12])[-1], rtol=1e-4, atol=1e-5)


def test_end_to_end_trains_the_cell_and_reports():
    net, seen = end_to_end(), []
    before = net.block.layers[0].linear.weight.clone()
    settings = BpttSettings(lanes=4, window=4, updates=7)
    outputs = torch.randint(4, (50,))
    train_end_to_end(net, torch.randn(50, 6), outputs, settings, 3, lambda u, p: seen.append(u))
    assert seen == [3, 6, 7] and not torch.equal(before, net.block.layers[0].linear.weight)
    with pytest.raises(ValueError, match="shorter than the window"):
        train_end_to_end(net, torch.randn(9, 6), outputs[:9], settings, 3, print)


def test_power_law_of_the_seed_table():
    law = fit_power_law(SEED_TOKENS, SEED_PPL)
    assert law.alpha == pytest.approx(-0.4591, abs=1e-4)
    assert law.r2 == pytest.approx(0.9927, abs=1e-4)
    low, high = residual_interval(SEED_TOKENS, SEED_PPL)
    assert (round(low, 2), round(high, 2)) == (-0.58, -0.34)


def test_floor_is_found_and_never_fits_worse():
    tokens = [1e3, 3e3, 1e4, 3e4, 1e5]
    exact = [100 + 1e5 * t**-0.8 for t in tokens]
    law = fit_with_floor(tokens, exact)
    assert law.floor == pytest.approx(100, rel=0.02) and law.alpha == pytest.approx(-0.8, abs=0.03)
    assert fit_with_floor(SEED_TOKENS, SEED_PPL).sse <= fit_power_law(SEED_TOKENS, SEED_PPL).sse
    with pytest.raises(ValueError, match="three"):
        fit_with_floor([1, 2], [5, 4])


def test_exponent_interval_covers_the_truth_and_needs_seeds():
    rng, tokens = np.random.default_rng(0), [1e3, 1e4, 1e5]
    ppl = [[1e4 * t**-0.4 * np.exp(0.02 * rng.normal()) for t in tokens] for _ in range(5)]
    low, high = exponent_interval(tokens, ppl)
    assert low < -0.4 < high and high - low < 0.05
    with pytest.raises(ValueError, match="two seeds"):
        exponent_interval(tokens, ppl[:1])
