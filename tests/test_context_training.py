"""Phase 2 and end-to-end training on the loop, early stopping, windows and scaling fits."""

import math

import pytest
import torch

from lib.context import phase_two
from lib.context.block import ContextBlock, TokenBlock
from lib.context.contexts import sequential
from lib.context.early_stopping import best_epoch, stop_epoch
from lib.context.end_to_end import EndToEnd, TruncatedWork
from lib.context.features import Features, Held, WindowContexts, recurrent_features
from lib.context.head import NextTokenModel, UntiedHead
from lib.context.phase_two import PhaseTwoWork, evaluate, recipe
from lib.context.scaling import fit_power_law, fit_with_floor, residual_interval
from lib.context.token_stream import UNSCORED, TokenStream
from lib.training import loop
from lib.training.loop import Diverged, Training, train

REPORT_TOKENS, REPORT_PPL = [56602, 110516, 216119, 529173], [1503.3, 1036.3, 757.7, 536.0]


def features(n=60, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    contexts = Held([torch.randn(n, 5, generator=g)] * 2)
    return Features(contexts, torch.randn(n, d, generator=g), torch.randint(4, (n,), generator=g))


def model():
    return NextTokenModel(TokenBlock(6, 6, [5, 5], seed=1), UntiedHead(6, 4))


def fit(net, data, valid, training, path=None, **report):
    work = PhaseTwoWork(net, data, valid, training, report)
    return train(work, training, path=path)


def test_positions_outside_the_vocabulary_do_not_count():
    data = features()
    whole = evaluate(model(), data)
    outputs = data.outputs.clone()
    outputs[30:] = UNSCORED
    part = evaluate(model(), Features(data.contexts, data.tokens, outputs))
    first = Held([c[:30] for c in data.contexts.layers])
    expected = evaluate(model(), Features(first, data.tokens[:30], data.outputs[:30]))
    assert part == pytest.approx(expected) and part != whole
    with pytest.raises(ValueError, match="none of 59"):
        none = torch.full_like(outputs, UNSCORED)
        evaluate(model(), Features(data.contexts, data.tokens, none))


def test_a_text_scored_in_pieces_has_the_loss_of_the_whole(monkeypatch):
    net, data = model(), features()
    torch.nn.init.normal_(net.head.linear.weight)
    whole = evaluate(net, data)
    monkeypatch.setattr(phase_two, "EVALUATION_CHUNK", 7)
    assert evaluate(net, data) == pytest.approx(whole, rel=1e-5)


def test_phase_two_learns_a_rule_that_the_token_gives_away():
    outputs = torch.arange(200) % 4
    tokens = torch.nn.functional.one_hot(outputs, 6).float()
    data = Features(Held([torch.zeros(200, 5)] * 2), tokens, outputs)
    found = fit(model(), data, data, recipe(20, 1e-2, 15, patience=0))
    best = found.curve[found.best_epoch - 1]
    assert best["val_ppl"] < 1.2 and best["val_acc"] == 1.0


def test_phase_two_is_plain_adam_over_consecutive_batches():
    data, net, plain = features(), model(), model()
    fit(net, data, data, recipe(25, 1e-2, 2, patience=0, updates=5))
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-2)
    for begin, end in [(0, 25), (25, 50), (50, 59), (0, 25), (25, 50)]:
        optimiser.zero_grad()
        plain.loss(*data.batch(begin, end)).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimiser.step()
    # the weights of the best validation are put back: that of the second epoch here
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_patience_stops_where_the_rule_says_and_restores_the_best_weights():
    data, valid = features(), features(seed=3)
    everything = fit(model(), data, valid, recipe(10, 2e-2, 8, patience=0))
    losses = [row["valid_loss"] for row in everything.curve]
    stopped_model = model()
    stopped = fit(stopped_model, data, valid, recipe(10, 2e-2, 8, patience=1))
    assert len(stopped.curve) == stop_epoch(losses, 1) < 8
    assert [row["valid_loss"] for row in stopped.curve] == losses[: len(stopped.curve)]
    assert evaluate(stopped_model, valid)["loss"] == stopped.valid_loss


def test_a_loss_that_is_no_number_stops_the_run():
    good = features()
    broken = Features(
        Held([part * math.nan for part in good.contexts.layers]), good.tokens, good.outputs
    )
    for given in ((good, broken), (broken, good)):
        with pytest.raises(Diverged, match="nan"):
            fit(model(), *given, recipe(20))
    with pytest.raises(Diverged, match="59 positions"):
        fit(model(), good, good, recipe(20), test=broken)


def test_update_limit_and_report_do_not_choose():
    training = recipe(10, 1e-3, 9, patience=0, updates=8)
    data, valid, test = (features(seed=s) for s in range(3))
    with_test = fit(model(), data, valid, training, test=test)
    without = fit(model(), data, valid, training)
    assert with_test.updates == 8 and "test_ppl" in with_test.curve[0]
    losses = [[row["valid_loss"] for row in found.curve] for found in (with_test, without)]
    assert losses[0] == losses[1]


def phase_two_work(limit=0):
    training = recipe(10, 1e-2, 4, patience=0)
    return PhaseTwoWork(model(), features(), features(seed=1), training, limit=limit), training


def limited_work():
    return phase_two_work(limit=10)


def end_to_end_work():
    g = torch.Generator().manual_seed(0)
    streams = [
        TokenStream(o, torch.randn(len(o), 6, generator=g), o)
        for o in (torch.randint(4, (53,), generator=g) for _ in range(2))
    ]
    work = TruncatedWork(end_to_end(), streams[0], {"val": streams[1]}, 4, 5, updates=5)
    return work, Training(epochs=4, patience=0, optimizer="adam", restore="last")


@pytest.mark.parametrize("make", [phase_two_work, limited_work, end_to_end_work])
def test_a_training_killed_within_an_epoch_goes_on_with_the_same_bits(make, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)

    def start(name, kill):
        """Curve, weights and number of steps; killed as step `kill` begins."""
        work, training = make()
        real, steps = work.losses, []

        def losses(batch):
            steps.append(batch)
            if len(steps) == kill:
                raise KeyboardInterrupt
            yield from real(batch)

        work.losses = losses
        fit = train(work, training, path=tmp_path / name)
        curve = [{k: v for k, v in row.items() if k != "epoch_seconds"} for row in fit.curve]
        return curve + [getattr(work, "limited", None)], work.model.state_dict(), len(steps)

    with pytest.raises(KeyboardInterrupt):
        start("killed", 9)
    curve, weights, left = start("killed", 0)
    expected, whole, every = start("whole", 0)
    assert curve == expected and left == every - 8
    assert bool(curve[-1]) == (make is limited_work)
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_foreign_checkpoints_are_refused_and_damaged_ones_set_aside(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    path, training = tmp_path / "c.safetensors", recipe(10, 1e-3, 1, patience=0)
    fit(model(), features(), features(seed=1), training, path)
    with pytest.raises(ValueError, match="other settings"):
        fit(model(), features(), features(seed=1), recipe(20, 1e-3, 1, patience=0), path)
    path.write_bytes(path.read_bytes()[:-10])
    assert len(fit(model(), features(), features(seed=1), training, path).curve) == 1
    assert "begins again" in capsys.readouterr().out


def test_features_need_one_length():
    with pytest.raises(ValueError, match="one length"):
        Features(Held([torch.zeros(3, 2)]), torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))


def test_early_stopping_rule():
    losses = [3.0, 2.0, 2.5, 2.4, 1.9, 2.0]
    assert (stop_epoch(losses, 1), best_epoch(losses, 1)) == (3, 2)
    assert (stop_epoch(losses, 3), best_epoch(losses, 3)) == (6, 5)
    assert (stop_epoch(losses, 0), best_epoch(losses)) == (6, 5)
    with pytest.raises(ValueError, match="allowed"):
        stop_epoch(losses, -1)


def stack_tokens(embedded, count):
    """[N, d] -> [N, count*d]: the last `count` embeddings, oldest first, zeros before the start."""
    padded = torch.cat([embedded.new_zeros(count - 1, embedded.shape[1]), embedded])
    length = embedded.shape[0]
    return torch.cat([padded[k : k + length] for k in range(count)], dim=1)


def test_windows_hold_the_tokens_before_and_none_after():
    e = torch.randn(9, 2)
    for count in (2, 3, 5):
        found = WindowContexts(e, count, 2)
        history = stack_tokens(e, count)[:, : (count - 1) * 2]
        for begin, end in ((0, 9), (0, 2), (1, 4), (6, 9)):
            rows = found.rows(begin, end)
            assert torch.equal(rows[0], history[begin:end]) and rows[0] is rows[1]
        assert found.widths == [(count - 1) * 2] * 2
    assert WindowContexts(e, 1, 2).rows(2, 7)[0].shape == (5, 0)
    with pytest.raises(ValueError, match="at least the token itself"):
        WindowContexts(e, 0, 2)


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


def truncated(net, x, outputs, lanes, window, updates):
    stream = TokenStream(outputs, x, outputs)
    return TruncatedWork(net, stream, {"val": stream}, lanes, window, updates)


def test_end_to_end_trains_the_cell_and_validates_every_so_many_updates():
    net, outputs = end_to_end(), torch.randint(4, (50,))
    before = net.block.layers[0].linear.weight.clone()
    work = truncated(net, torch.randn(50, 6), outputs, 4, 4, 3)
    training = Training(epochs=9, patience=0, optimizer="adam", restore="last", max_updates=7)
    assert [row["updates"] for row in train(work, training).curve] == [3, 6, 7]
    assert not torch.equal(before, net.block.layers[0].linear.weight)
    with pytest.raises(ValueError, match="shorter than the window"):
        truncated(net, torch.randn(9, 6), outputs[:9], 4, 4, 3)


def test_end_to_end_trains_on_every_token_of_a_lane(monkeypatch):
    net, seen = end_to_end(), []
    real = net.loss

    def loss(context, x, targets):
        seen.append((targets[0].tolist(), bool(context.any())))
        return real(context, x, targets)

    monkeypatch.setattr(net, "loss", loss)
    outputs = torch.arange(23) % 4  # lanes of 11 targets
    work = truncated(net, torch.randn(23, 6), outputs, 2, 4, 4)
    train(work, Training(epochs=1, patience=0, optimizer="adam", restore="last"))
    assert [len(targets) for targets, _ in seen] == [4, 4, 3, 4]
    assert sum((targets for targets, _ in seen[:3]), []) == outputs[1:12].tolist()
    assert [carried for _, carried in seen] == [False, True, True, False]


def test_power_law_of_the_report_table():
    law = fit_power_law(REPORT_TOKENS, REPORT_PPL)
    assert law.alpha == pytest.approx(-0.4591, abs=1e-4)
    assert law.r2 == pytest.approx(0.9927, abs=1e-4)
    low, high = residual_interval(REPORT_TOKENS, REPORT_PPL)
    assert (round(low, 2), round(high, 2)) == (-0.58, -0.34)


def test_floor_is_found_and_never_fits_worse():
    tokens = [1e3, 3e3, 1e4, 3e4, 1e5]
    exact = [100 + 1e5 * t**-0.8 for t in tokens]
    law = fit_with_floor(tokens, exact)
    assert law.floor == pytest.approx(100, rel=1e-3) and law.alpha == pytest.approx(-0.8, abs=1e-3)
    straight = [1e5 * t**-0.5 for t in tokens]
    assert fit_with_floor(tokens, straight).floor == pytest.approx(0, abs=1e-3)
    with_floor = fit_with_floor(REPORT_TOKENS, REPORT_PPL)
    assert with_floor.sse <= fit_power_law(REPORT_TOKENS, REPORT_PPL).sse
    with pytest.raises(ValueError, match="three"):
        fit_with_floor([1, 2], [5, 4])
