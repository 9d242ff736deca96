"""Loss in chunks, thresholds, packs, stages, and the work that the training loop is given."""

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig

from lib.base.head import head_statistics, summed_loss
from lib.base.pretrained import load_base
from lib.cascade.difficulty import head_criterion, is_hard, threshold_for
from lib.cascade.evaluation import stage_scores
from lib.cascade.packing import Packs, arrange, arrange_all
from lib.cascade.stage import StageModel, new_stage, parameter_count
from lib.cascade.work import SequenceWork, StageWork
from lib.training.loop import Training, train

TRAINING = Training(
    epochs=9,
    max_updates=7,
    validations=3,
    patience=0,
    batch_size=3,
    learning_rate=1e-2,
    schedule="linear",
    weight_decay=0.0,
)


def tokens(count=256, width=32, vocabulary=280):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, width, generator=generator)
    return inputs, torch.randint(vocabulary, (count,), generator=generator)


def packs(count=8, length=16):
    return Packs.whole(torch.arange(count * length).view(count, length))


def trained(path=None, own=None, labels=None, seed=4):
    stage = new_stage(load_base("tiny").model.config, 2, seed=1)
    inputs, truth = tokens()
    own = own or packs()
    work = StageWork(
        stage,
        inputs,
        truth if labels is None else labels,
        own,
        3,
        seed,
        None,
        lambda: {"valid_loss": stage.norm.weight.sum().item()},
    )
    return stage, train(work, TRAINING, path=path)


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_chunked_loss_and_gradients_equal_the_naive_ones(chunk):
    torch.manual_seed(0)
    hidden = torch.randn(64, 32, dtype=torch.double, requires_grad=True)
    weight = torch.randn(280, 32, dtype=torch.double, requires_grad=True)
    labels = torch.randint(280, (64,))
    naive = functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum") * 0.3
    expected = torch.autograd.grad(naive, (hidden, weight))
    ours = summed_loss(hidden, weight, labels, chunk) * 0.3
    found = torch.autograd.grad(ours, (hidden, weight))
    assert torch.allclose(ours, naive, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif(
    not hasattr(functional, "linear_cross_entropy"), reason="this torch has no such function"
)
def test_chunked_loss_is_that_of_torch():
    torch.manual_seed(0)
    hidden = torch.randn(64, 32, requires_grad=True)
    weight = torch.randn(280, 32, requires_grad=True)
    labels = torch.randint(280, (64,))
    theirs = functional.linear_cross_entropy(hidden, weight, labels, reduction="sum")
    expected = torch.autograd.grad(theirs, (hidden, weight))
    ours = summed_loss(hidden, weight, labels, 16)
    for a, b in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert torch.allclose(ours, theirs, rtol=1e-5)


def test_importance_multiplies_each_tokens_loss():
    torch.manual_seed(0)
    hidden = torch.randn(20, 32, dtype=torch.double, requires_grad=True)
    weight = torch.randn(280, 32, dtype=torch.double, requires_grad=True)
    labels, importance = torch.randint(280, (20,)), torch.rand(20, dtype=torch.double)
    naive = functional.cross_entropy(hidden @ weight.t(), labels, reduction="none")
    expected = torch.autograd.grad((naive * importance).sum(), (hidden, weight))
    ours = summed_loss(hidden, weight, labels, 8, importance)
    found = torch.autograd.grad(ours, (hidden, weight))
    assert torch.allclose(ours, (naive * importance).sum())
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_a_frozen_head_gets_no_gradient_and_the_rest_the_same():
    hidden = torch.randn(20, 32, requires_grad=True)
    weight, labels = torch.randn(280, 32), torch.randint(280, (20,))
    summed_loss(hidden, weight, labels, 8).backward()
    naive = hidden.detach().requires_grad_()
    functional.cross_entropy(naive @ weight.t(), labels, reduction="sum").backward()
    assert weight.grad is None and torch.allclose(hidden.grad, naive.grad, atol=1e-5)


def test_head_statistics_are_those_of_the_full_logits():
    hidden, weight = torch.randn(50, 32), torch.randn(280, 32) / 4
    labels = torch.randint(280, (50,))
    logits = hidden @ weight.t()
    found = head_statistics(hidden, weight, labels, chunk=16)
    loss = functional.cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(found["loss"], loss, atol=1e-5)
    for name in ("confidence", "entropy", "margin"):
        assert torch.allclose(found[name], head_criterion(logits, name), atol=1e-5), name
    assert torch.equal(found["correct"], (logits.argmax(1) == labels).float())


@pytest.mark.parametrize("criterion", ["last_layer", "entropy"])
def test_the_threshold_makes_the_asked_share_hard(criterion):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    hard = is_hard(values, threshold_for(values, 0.1, criterion), criterion)
    assert hard.sum() == 100
    worst = values.topk(100, largest=criterion == "entropy").indices
    assert hard[worst].all()
    for ratio in (0, 1):
        every = is_hard(values * 1e9, threshold_for(values, ratio, criterion), criterion)
        assert every.float().mean() == ratio


def test_packs_hold_the_chosen_tokens_in_order():
    chosen = torch.arange(0, 64, 3)  # 22 tokens of 64
    packed = arrange(chosen, "packed", 64, length=8)
    assert packed.index.flatten().tolist() == chosen[:16].tolist()
    assert sum(p.tokens for p in arrange_all(chosen, "packed", 64, length=8)) == 22
    assert arrange(chosen, "single", 64, length=8).index.shape == (22, 1)
    full = arrange(torch.tensor([1, 17]), "full", 64, length=8)
    assert full.index.shape == (2, 8) and full.tokens == 2
    assert full.index[full.counted].tolist() == [1, 17]
    with pytest.raises(ValueError, match="take more tokens"):
        arrange(chosen[:5], "packed", 64, length=8)


def test_stage_sizes_are_the_reports():
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
    )
    with torch.device("meta"):
        sizes = [parameter_count(StageModel(config, n, final_norm=n > 0)) for n in (0, 2, 8)]
    assert sizes == [28_311_552, 35_392_320, 56_632_896]


def test_a_zero_initialised_stage_repeats_the_base_exactly():
    base = load_base("tiny")
    stage = new_stage(base.model.config, 2, head="shared", start="identity")
    hidden = torch.randn(2, 9, 32)
    assert torch.equal(stage(hidden), hidden)


def test_training_learns_and_repeats_itself():
    (first, fit), (second, again) = trained(), trained()
    rows = [[{**row, "epoch_seconds": 0} for row in found.curve] for found in (fit, again)]
    assert rows[0] == rows[1] and fit.curve[-1]["train_loss"] < fit.curve[0]["train_loss"]
    assert [row["updates"] for row in fit.curve] == [2, 5, 7] and fit.symbols == 304
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_counted_tokens_are_learnt():
    labels = tokens()[1]
    chosen = torch.tensor([5, 40, 200])
    full = arrange(chosen, "full", 256, length=16)
    other = torch.where(torch.isin(torch.arange(256), chosen), labels, 7)
    one, two = (trained(own=full, labels=truth)[1] for truth in (labels, other))
    assert [row["train_loss"] for row in one.curve] == [row["train_loss"] for row in two.curve]


def test_work_without_a_sequence_is_refused():
    with pytest.raises(ValueError, match="no sequence"):
        SequenceWork(torch.nn.Linear(1, 1), 0, 1, 0, None, None)


def test_an_order_that_never_changes_is_refused_where_there_is_none():
    work = SequenceWork(torch.nn.Linear(1, 1), 2, 1, 0, None, None)
    with pytest.raises(ValueError, match="shuffle is False; SequenceWork shuffles; allowed: True"):
        train(work, Training(shuffle=False))


def test_scores_come_back_in_stream_order(monkeypatch):
    monkeypatch.setattr("lib.cascade.evaluation.BATCH_TOKENS", 32)
    stage = new_stage(load_base("tiny").model.config, 1, seed=1)
    inputs, labels = tokens()
    pieces = arrange_all(torch.arange(0, 250, 2), "packed", 256, length=16)
    scores, output = stage_scores(stage, inputs, labels, pieces)
    assert torch.equal(scores["position"], torch.arange(0, 250, 2))
    first = stage(inputs[pieces[0].index[:1]])[0]
    assert torch.allclose(output[:16], first, atol=1e-5)
