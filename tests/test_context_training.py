"""Context cache, Phase 2 with resumption, early stopping, controls and scaling fits."""

import json
import math
import os
import signal
import subprocess
import sys

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
    fit_power_law,
    fit_with_floor,
    residual_interval,
)
from lib.context.token_block import TokenBlock
from lib.context.token_stream import UNSCORED

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
    write_cache(tmp_path / "c", layers, "key", {"sweeps": 3})
    found, measured = open_cache(tmp_path / "c", "key")
    for got, expected in zip(found, layers, strict=True):
        assert torch.equal(got, expected)
    assert measured == {"sweeps": 3}


def test_a_new_cache_takes_the_place_of_the_old_and_of_what_a_killed_write_left(tmp_path):
    (tmp_path / "c.part").mkdir()
    (tmp_path / "c.part" / "layer_9.f32").write_bytes(b"half")
    for key in ("one", "two"):
        write_cache(tmp_path / "c", [torch.ones(2, 2)], key)
    assert open_cache(tmp_path / "c", "two")[0][0].sum() == 4
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["about.json", "layer_0.f32"]


def test_a_failed_write_leaves_the_old_cache(tmp_path, monkeypatch):
    write_cache(tmp_path / "c", [torch.ones(2, 2)], "one")

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("lib.context.whole_files.os.fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_cache(tmp_path / "c", [torch.zeros(2, 2)], "two")
    assert open_cache(tmp_path / "c", "one")[0][0].sum() == 4


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
    open_cache(tmp_path / "c", "key")[0][0].zero_()
    assert open_cache(tmp_path / "c", "key")[0][0].sum() == 4


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


def test_positions_outside_the_vocabulary_do_not_count():
    data = features()
    whole = evaluate(model(), data)
    outputs = data.outputs.clone()
    outputs[30:] = UNSCORED
    part = evaluate(model(), Features(data.contexts, data.tokens, outputs))
    first = Features([c[:30] for c in data.contexts], data.tokens[:30], data.outputs[:30])
    assert part == pytest.approx(evaluate(model(), first)) and part != whole
    with pytest.raises(ValueError, match="none of 59"):
        evaluate(model(), Features(data.contexts, data.tokens, torch.full_like(outputs, UNSCORED)))


def test_phase_two_learns_a_rule_that_the_token_gives_away():
    outputs = torch.arange(200) % 4
    tokens = torch.nn.functional.one_hot(outputs, 6).float()
    data = Features([torch.zeros(200, 5)] * 2, tokens, outputs)
    settings = PhaseTwoSettings(batch=20, max_epochs=15, patience=0, learning_rate=1e-2)
    result = fit(model(), data, data, settings)
    best = result.curve[result.best - 1]
    assert best["val_ppl"] < 1.2 and best["val_acc"] == 1.0


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
    assert evaluate(stopped_model, valid)["loss"] == pytest.approx(
        stopped.curve[stopped.best - 1]["val_loss"]
    )


def test_a_loss_that_is_no_number_stops_the_run():
    good = features()
    broken = Features([part * math.nan for part in good.contexts], good.tokens, good.outputs)
    settings = PhaseTwoSettings(batch=20, max_epochs=2)
    for given in ((good, broken, settings), (broken, good, settings)):
        with pytest.raises(FloatingPointError, match="loss .*is nan"):
            fit(model(), *given)
    with pytest.raises(FloatingPointError, match="59 positions"):
        fit(model(), good, good, settings, report={"test": broken})


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
from lib.context import phase_two
from lib.context.phase_two import PhaseTwoSettings, fit
kill, save = int(sys.argv[3]), phase_two._save
def save_and_die(path, about, tensors):
    save(path, about, tensors)
    if len(about["curve"]) == kill:
        os.kill(os.getpid(), signal.SIGKILL)
phase_two._save = save_and_die
epochs, real = [], phase_two._epoch
phase_two._epoch = lambda *given: epochs.append(1) or real(*given)
settings = PhaseTwoSettings(batch=10, max_epochs=4, patience=0)
net = model()
result = fit(net, features(), features(seed=1), settings, checkpoint=Path(sys.argv[2]))
state = {k: v.flatten().tolist() for k, v in net.state_dict().items()}
print(json.dumps([len(epochs), result.curve, state]))
"""


def test_killed_phase_two_continues_with_the_same_bits(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def start(name, kill):
        command = [sys.executable, "-c", SCRIPT, root, str(tmp_path / name), str(kill)]
        return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)

    assert start("killed", 2).returncode == -signal.SIGKILL
    resumed, whole = start("killed", 0), start("whole", 0)
    assert resumed.returncode == 0, resumed.stderr
    (left, *numbers), (every, *expected) = (json.loads(run.stdout) for run in (resumed, whole))
    assert numbers == expected and (left, every) == (2, 4)


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


def test_end_to_end_trains_on_every_token_of_a_lane(monkeypatch):
    net, seen = end_to_end(), []
    real = net.loss

    def loss(context, x, targets):
        seen.append((targets[0].tolist(), bool(context.any())))
        return real(context, x, targets)

    monkeypatch.setattr(net, "loss", loss)
    settings = BpttSettings(lanes=2, window=4, updates=4)
    outputs = torch.arange(23) % 4  # lanes of 11 targets
    train_end_to_end(net, torch.randn(23, 6), outputs, settings, 3, lambda u, p: None)
    assert [len(targets) for targets, _ in seen] == [4, 4, 3, 4]
    assert sum((targets for targets, _ in seen[:3]), []) == outputs[1:12].tolist()
    assert [carried for _, carried in seen] == [False, True, True, False]


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
