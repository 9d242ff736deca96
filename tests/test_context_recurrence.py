"""Contexts by three ways, Phase 1, forgetting and effective rank."""

import math

import pytest
import torch

from lib.context import contexts
from lib.context.agreement_run import agreement, by_position
from lib.context.block import LAYOUTS, ContextBlock
from lib.context.contexts import (
    BURN,
    cut_contexts,
    document_starts,
    documents,
    exact,
    lanes,
    layer_outputs,
    parallel,
    sequential,
    sequential_naive,
    steps,
)
from lib.context.effective_rank import covariance_rank, effective_rank, rank_shares
from lib.context.features import Computed, Held
from lib.context.forgetting import forgetting_curve, memory_tokens, noise_gain
from lib.context.phase_one import (
    PhaseOneSettings,
    PhaseOneWork,
    dispersion,
    phase_one_loss,
    run_phase_one,
)
from lib.context.sources import Recurrent, collect
from lib.training import loop

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def stream(n=40, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fast_sequence_equals_the_naive_one(layout):
    block = ContextBlock(5, 6, 3, layout, seed=1)
    fast, naive = sequential(block, stream()), sequential_naive(block, stream())
    torch.testing.assert_close(fast, naive, **CLOSE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_documents_equal_one_sequence_each(layout):
    block, x = ContextBlock(5, 6, 2, layout, seed=1), stream()
    lengths = [3, 17, 1, 19]
    expected = torch.cat([sequential_naive(block, part) for part in x.split(lengths)])
    torch.testing.assert_close(documents(block, x, lengths), expected, **CLOSE)
    with pytest.raises(ValueError, match="add up"):
        documents(block, x, [3, 4])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_k_sweeps_make_the_first_k_contexts_exact_and_all_sweeps_everything(layout):
    block, x = ContextBlock(5, 6, 2, layout, seed=2), stream(12)
    exact = sequential_naive(block, x)
    three, changes = parallel(block, x, 3)
    torch.testing.assert_close(three[:3], exact[:3], **CLOSE)
    assert len(changes) == 3 and not torch.allclose(three[8:], exact[8:], **CLOSE)
    torch.testing.assert_close(parallel(block, x, 12)[0], exact, **CLOSE)


def test_k_sweeps_see_k_tokens_and_no_more():
    block, x = ContextBlock(5, 6, 2, seed=2), stream(12)
    before, _ = parallel(block, x, 3)
    x[4] += 1.0
    after, _ = parallel(block, x, 3)
    changed = (before != after).any(1).nonzero().flatten().tolist()
    assert changed == [4, 5, 6]


@pytest.mark.parametrize("memory", [1, 2, 4])
def test_cut_layer_contexts_see_their_memory_and_no_more(memory):
    block, x, row = ContextBlock(5, 6, 3, "first_layer", seed=2), stream(12), 8
    before = layer_outputs(block, cut_contexts(block, x, memory), x)
    for place, seen in ((row - memory, False), (row - memory + 1, True)):
        other = x.clone()
        other[place] += 1.0
        after = layer_outputs(block, cut_contexts(block, other, memory), other)
        for a, b in zip(before, after, strict=True):
            assert torch.equal(a[row], b[row]) is not seen
    with pytest.raises(ValueError, match="own token"):
        cut_contexts(block, x, 0)


def test_memory_of_all_tokens_is_the_uncut_recurrence():
    block, x = ContextBlock(5, 6, 2, seed=2), stream(12)
    cut = layer_outputs(block, cut_contexts(block, x, 12), x)
    for a, b in zip(cut, layer_outputs(block, sequential(block, x), x), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_tolerance_caps_the_sweeps():
    block, x = ContextBlock(16, 16, 6, seed=0), stream(60, 16)
    found, changes = parallel(block, x, 50, 1e-3)
    assert len(changes) < 50 and changes[-1] <= 1e-3
    assert agreement(found, sequential(block, x))["rel_err"] < 1e-2
    with pytest.raises(ValueError, match="at least one sweep"):
        parallel(block, x, 0)


def normed(n, d, seed=0):
    return torch.nn.functional.layer_norm(stream(n, d, seed), (d,))


def test_lanes_of_a_forgetting_cell_are_the_exact_recurrence():
    block, x = ContextBlock(16, 16, 6, seed=0), normed(8 * BURN + 5, 16)
    start = stream(1, 16, seed=3)[0]
    found, error = lanes(block, x, start, count=5)
    assert found.shape == (len(x), 16) and error < 1e-5
    torch.testing.assert_close(found, steps(block, x, start), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="too few"):
        lanes(block, x[:100], count=5)


def test_a_cell_that_does_not_forget_is_walked_token_by_token(monkeypatch):
    monkeypatch.setattr(contexts, "LANES", 4)
    x = normed(4 * BURN * 4, 8)
    forgets, keeps = (ContextBlock(8, 8, 6, name, seed=0) for name in LAYOUTS[:2])
    assert lanes(keeps, x, count=4)[1] > 1e-2
    assert [exact(block, x)[1] for block in (forgets, keeps)] == ["lanes", "steps"]
    torch.testing.assert_close(exact(keeps, x)[0], steps(keeps, x), rtol=0, atol=0)
    assert exact(forgets, x[:-1])[1] == "steps"  # too short to be worth it
    asked = Recurrent(LAYOUTS[1], 6, 8, None, way="lanes")
    for block, how in ((forgets, "lanes"), (keeps, "steps")):
        found = collect(asked, block, x[: BURN * 4])
        assert found.measured == {"exact_by": how}
        torch.testing.assert_close(found.final, steps(block, x[: BURN * 4]), rtol=1e-3, atol=1e-4)


def test_contexts_made_when_they_are_read_are_those_held_in_memory():
    block, x = ContextBlock(5, 6, 3, "first_layer", seed=1), stream(20)
    lengths = [7, 13]
    for final, starts in (
        (sequential(block, x), None),
        (documents(block, x, lengths), document_starts(lengths)),
    ):
        held = Held(layer_outputs(block, final, x, starts))
        made = Computed(block, final, x, starts)
        assert (len(held), held.widths) == (len(made), made.widths)
        for begin, end in ((0, 20), (0, 3), (5, 9), (7, 8), (12, 20)):
            for a, b in zip(held.rows(begin, end), made.rows(begin, end), strict=True):
                torch.testing.assert_close(a, b, **CLOSE)


def test_layer_outputs_continue_the_recurrence_and_do_not_look_ahead():
    block, x = ContextBlock(5, 6, 3, "first_layer", seed=1), stream(9)
    final = sequential(block, x)
    layers = layer_outputs(block, final, x)
    torch.testing.assert_close(layers[-1], final, **CLOSE)
    x2 = x.clone()
    x2[6:] += 1.0
    later = layer_outputs(block, sequential(block, x2), x2)
    for a, b in zip(layers, later, strict=True):
        torch.testing.assert_close(a[:6], b[:6], **CLOSE)
        assert not torch.allclose(a[6], b[6])


def test_contexts_in_pieces_are_those_in_one(monkeypatch):
    block, x = ContextBlock(5, 6, 3, "first_layer", seed=1), stream()

    def made():
        final = steps(block, x)
        return [final, contexts.sweep(block, final, x), *layer_outputs(block, final, x)]

    whole = made()
    monkeypatch.setattr(contexts, "CHUNK", 7)
    for one, other in zip(whole, made(), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_document_starts_forget_the_previous_document():
    block, x = ContextBlock(5, 6, 2, seed=1), stream(9)
    final = documents(block, x, [4, 5])
    layers = layer_outputs(block, final, x, document_starts([4, 5]))
    torch.testing.assert_close(layers[-1], final, **CLOSE)


def test_agreement_of_equal_and_opposite_tables():
    table = stream(300)
    same = agreement(table, table)
    assert same["mse"] == 0 and same["cos_min"] == pytest.approx(1, abs=1e-6)
    assert agreement(-table, table)["rel_err"] == pytest.approx(2, abs=1e-5)
    assert [row["position"] for row in by_position(table, table)] == ["first", "middle", "last"]
    with pytest.raises(ValueError, match="shape"):
        agreement(table, table[:5])


def test_dispersion_of_unit_variance_rows_is_bounded_by_its_floor():
    rows = torch.nn.functional.layer_norm(stream(50, 8), (8,))
    assert dispersion(rows).item() >= -math.sqrt(8 / 50) - 1e-6
    assert dispersion(rows).item() == pytest.approx(-((rows - rows.mean(0)).norm() / 50).item())


def test_loss_is_the_written_mixture():
    outputs, target = stream(20), stream(20, seed=1)
    settings = PhaseOneSettings(diversity=0.8)
    expected = 0.2 * (outputs - target).square().mean() + 0.8 * dispersion(outputs)
    torch.testing.assert_close(phase_one_loss(outputs, target, settings), expected)


def test_a_token_gets_the_context_before_it_and_the_first_one_the_last():
    class Echo(torch.nn.Module):
        """A block whose output is its input context."""

        context_dim = 3

        def __init__(self):
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(1))

        def forward(self, context, x):
            return [self.one * context]

    work = PhaseOneWork(Echo(), stream(7), PhaseOneSettings(noise=0.0, chunk=3), seed=0)
    before = work.table.clone()
    list(work.losses(2))
    assert torch.equal(work.table, before.roll(1, 0)) and torch.equal(work.start, before[-1])


def test_a_killed_phase_one_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    x, settings = normed(90, 8), PhaseOneSettings(chunk=40, max_iterations=7)
    path = tmp_path / "checkpoint.safetensors"
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SHARE", 1e9)
    expected = run_phase_one(ContextBlock(8, 8, 3, seed=0), x, settings, seed=5)
    real, calls = PhaseOneWork._gradient, []

    def dies(self, iteration):
        calls.append(iteration)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, iteration)

    with monkeypatch.context() as patched:
        patched.setattr(PhaseOneWork, "_gradient", dies)
        with pytest.raises(KeyboardInterrupt):
            run_phase_one(ContextBlock(8, 8, 3, seed=0), x, settings, seed=5, path=path)
        block = ContextBlock(8, 8, 3, seed=0)
        found = run_phase_one(block, x, settings, seed=5, path=path)
    assert calls == [2, 3, 4, 5, 5, 6, 7]
    assert torch.equal(found.table, expected.table) and torch.equal(found.start, expected.start)
    assert found.curve == expected.curve


def test_phase_one_repeats_and_zero_rate_leaves_the_weights():
    x = torch.nn.functional.layer_norm(stream(200, 32), (32,))
    settings = PhaseOneSettings(chunk=80, max_iterations=4)
    blocks = [ContextBlock(32, 32, 3, seed=0) for _ in range(3)]
    first, again = (run_phase_one(b, x, settings, seed=5) for b in blocks[:2])
    assert torch.equal(first.table, again.table) and first.iterations == 4
    still = PhaseOneSettings(chunk=80, max_iterations=4, learning_rate=0.0)
    run_phase_one(blocks[2], x, still, seed=5)
    fresh = ContextBlock(32, 32, 3, seed=0)
    assert torch.equal(blocks[2].layers[0].linear.weight, fresh.layers[0].linear.weight)
    assert not torch.equal(blocks[0].layers[0].linear.weight, fresh.layers[0].linear.weight)


def test_convergence_needs_no_learning_in_a_forgetting_cell():
    """The report's stopping rule is met at rate 0: it measures forgetting, not training."""
    x = torch.nn.functional.layer_norm(stream(300, 64), (64,))
    settings = PhaseOneSettings(chunk=300, learning_rate=0.0, max_iterations=12)
    result = run_phase_one(ContextBlock(64, 64, 6, seed=0), x, settings)
    assert result.converged and result.iterations <= 8


@pytest.mark.parametrize(
    ("iteration", "share", "ends"),
    [(4, 1.0, False), (5, 1.0, True), (5, 0.989, False), (5, 0.99, True)],
)
def test_phase_one_ends_when_nearly_all_have_settled_and_not_before_its_fifth(
    iteration, share, ends
):
    work = PhaseOneWork(ContextBlock(5, 6, 2), stream(7), PhaseOneSettings(), 0)
    work.found = {"iteration": iteration, "converged_ratio": share}
    assert work.converged is ends


def test_phase_one_adds_noise():
    def table(noise):
        settings = PhaseOneSettings(noise=noise, max_iterations=2)
        return run_phase_one(ContextBlock(5, 6, 2, seed=0), stream(), settings).table

    assert not torch.equal(table(0.1), table(0.0))


def test_phase_one_settings_are_checked():
    for wrong in ({"diversity": 1.5}, {"chunk": 0}, {"max_iterations": 1}):
        with pytest.raises(ValueError, match="allowed|at least"):
            PhaseOneSettings(**wrong)


def test_effective_rank_of_known_tables():
    assert effective_rank(torch.eye(8)) == pytest.approx(8, rel=1e-6)
    one = torch.ones(50, 4)
    assert effective_rank(one) == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="equal"):
        covariance_rank(one)
    isotropic = stream(5000, 6)
    assert covariance_rank(isotropic) == pytest.approx(6, rel=0.01)


def test_a_common_mean_lowers_the_original_rank_but_not_the_centred_one():
    rows = stream(2000, 6)
    moved = rows + 20.0
    assert effective_rank(moved) < effective_rank(rows) - 1
    assert covariance_rank(moved) == pytest.approx(covariance_rank(rows), rel=1e-4)


def test_equal_rows_have_no_spread_whose_rank_could_be_told():
    found = rank_shares(torch.ones(6, 4))
    assert found["covariance_er_pct"] is None and found["er_pct"] == pytest.approx(25)
    assert rank_shares(torch.eye(4))["covariance_er_pct"] > 50


def test_forgetting_curve_rises_in_a_contracting_cell_and_counts_memory():
    x = torch.nn.functional.layer_norm(stream(400, 64), (64,))
    block = ContextBlock(64, 64, 6, seed=0)
    curve = forgetting_curve(block, x, steps=6)
    assert curve[0]["mse"] > curve[6]["mse"] and curve[6]["cos"] > 0.99
    assert memory_tokens(curve) in range(1, 7) and noise_gain(block, x) < 1
    assert memory_tokens(curve[:1]) is None
    with pytest.raises(ValueError, match="too few"):
        forgetting_curve(block, x[:4])


def test_layouts_differ_in_forgetting_as_the_report_never_measured():
    x = torch.nn.functional.layer_norm(stream(600, 64), (64,))
    every, first = (noise_gain(ContextBlock(64, 64, 6, name, seed=0), x) for name in LAYOUTS[:2])
    assert every < 1 < first
