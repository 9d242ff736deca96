import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib.cascade import training
from lib.cascade.difficulty import head_criterion, is_hard, threshold_for
from lib.cascade.linear_cross_entropy import head_statistics, summed_loss
from lib.cascade.packing import Packs, arrange, arrange_all
from lib.cascade.stage import new_stage, parameter_count
from lib.cascade.training import StageTraining, stage_scores, train
from lib.base.pretrained import load_base

ROOT = Path(__file__).resolve().parents[1]


def material(tokens=256, width=32, vocabulary=280):
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(tokens, width, generator=generator)
    return inputs, torch.randint(vocabulary, (tokens,), generator=generator)


def packs(count=8, length=16):
    index = torch.arange(count * length).view(count, length)
    return Packs(index, torch.ones_like(index, dtype=torch.bool))


SETTINGS = StageTraining(
    steps=7,
    batch=3,
    learning_rate=1e-2,
    schedule="linear",
    clip=1.0,
    checkpoint_steps=1,
    report_steps=2,
)


def trained(path=None, settings=SETTINGS, **more):
    stage = new_stage(load_base("tiny").model.config, 2, seed=1)
    inputs, labels = material()
    curve = train(stage, inputs, labels, packs(), settings, seed=4, path=path, **more)
    return stage, curve


@pytest.mark.parametrize("chunk", [7, 64, 1000])
def test_chunked_loss_and_gradients_equal_the_naive_ones(chunk):
    torch.manual_seed(0)
    hidden = torch.randn(64, 32, dtype=torch.double, requires_grad=True)
    weight = torch.randn(280, 32, dtype=torch.double, requires_grad=True)
    labels = torch.randint(280, (64,))
    naive = torch.nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="sum") * 0.3
    expected = torch.autograd.grad(naive, (hidden, weight))
    ours = summed_loss(hidden, weight, labels, chunk) * 0.3
    found = torch.autograd.grad(ours, (hidden, weight))
    assert torch.allclose(ours, naive, rtol=1e-12)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_importance_multiplies_each_tokens_loss():
    torch.manual_seed(0)
    hidden = torch.randn(20, 32, dtype=torch.double, requires_grad=True)
    weight = torch.randn(280, 32, dtype=torch.double, requires_grad=True)
    labels, importance = torch.randint(280, (20,)), torch.rand(20, dtype=torch.double)
    naive = torch.nn.functional.cross_entropy(hidden @ weight.t(), labels, reduction="none")
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
    torch.nn.functional.cross_entropy(naive @ weight.t(), labels, reduction="sum").backward()
    assert weight.grad is None and torch.allclose(hidden.grad, naive.grad, atol=1e-5)


def test_head_statistics_are_those_of_the_full_logits():
    hidden, weight = torch.randn(50, 32), torch.randn(280, 32) / 4
    labels = torch.randint(280, (50,))
    logits = hidden @ weight.t()
    found = head_statistics(hidden, weight, labels, chunk=16)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
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


def test_stage_sizes_are_the_seeds():
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=64,
    )
    with torch.device("meta"):
        from lib.cascade.stage import Stage

        sizes = [parameter_count(Stage(config, n, final_norm=n > 0)) for n in (0, 2, 8)]
    assert sizes == [28_311_552, 35_392_320, 56_632_896]


def test_an_identity_start_repeats_the_base_exactly():
    base = load_base("tiny")
    stage = new_stage(base.model.config, 2, head="shared", start="identity")
    hidden = torch.randn(2, 9, 32)
    assert torch.equal(stage(hidden), hidden)


def test_training_learns_and_repeats_itself():
    first, curve = trained()
    second, again = trained()
    assert curve == again and curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert [row["step"] for row in curve] == [2, 4, 6, 7]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_counted_tokens_are_learnt():
    inputs, labels = material()
    full = arrange(torch.tensor([5, 40, 200]), "full", 256, length=16)
    runs = []
    for other in (
        labels,
        torch.where(torch.isin(torch.arange(256), torch.tensor([5, 40, 200])), labels, 7),
    ):
        stage = new_stage(load_base("tiny").model.config, 1, seed=1)
        runs.append(train(stage, inputs, other, full, SETTINGS, seed=0))
    assert runs[0] == runs[1]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import lib.cascade.training as training
import test_cascade_training as here
import time
real = training._Loop.save
def slow(self, path, curve):
    real(self, path, curve)
    print(self.step, flush=True)
    time.sleep(0.5)
training._Loop.save = slow
here.trained(Path(sys.argv[1]))
"""


def test_kill_minus_nine_and_rerun_give_the_same_numbers(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(tests=str(ROOT / "tests")), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for line in child.stdout:
        if int(line) >= 3:
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait(30) == -signal.SIGKILL and path.exists()
    steps, real = [], training._Loop.advance
    with monkeypatch.context() as patch:
        patch.setattr(
            training._Loop, "advance", lambda *given: steps.append(given[5]) or real(*given)
        )
        resumed, curve = trained(path)
    assert steps and steps[0] >= 3 and steps[-1] == SETTINGS.steps - 1, "it goes on from step 3"
    whole, expected = trained()
    assert curve == expected
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    trained(path)
    with pytest.raises(ValueError, match="other settings"):
        trained(path, settings=StageTraining(steps=9, batch=3, learning_rate=1e-2))
    with pytest.raises(ValueError, match="another seed"):
        trained(path, identity="another base")
    stage = new_stage(load_base("tiny").model.config, 2, seed=1)
    inputs, labels = material()
    for other_labels, seed in ((labels, 5), (labels.flip(0), 4)):
        with pytest.raises(ValueError, match="another seed"):
            train(stage, inputs, other_labels, packs(), SETTINGS, seed=seed, path=path)


def test_scores_come_back_in_stream_order():
    stage = new_stage(load_base("tiny").model.config, 1, seed=1)
    inputs, labels = material()
    pieces = arrange_all(torch.arange(0, 250, 2), "packed", 256, length=16)
    scores, output = stage_scores(stage, inputs, labels, pieces, batch_tokens=32)
    assert torch.equal(scores["position"], torch.arange(0, 250, 2))
    first = stage(inputs[pieces[0].index[:1]])[0]
    assert torch.allclose(output[:16], first, atol=1e-5)


WORKER = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
from accelerate import Accelerator
from safetensors.torch import save_file
import test_cascade_training as here
accelerator = Accelerator(cpu=True)
stage, curve = here.trained(accelerator=accelerator)
if accelerator.is_main_process:
    save_file({{n: p.detach().contiguous() for n, p in stage.named_parameters()}}, sys.argv[1])
    print("CURVE", [round(row["train_loss"], 5) for row in curve], accelerator.num_processes)
"""


def test_two_processes_train_what_one_trains(tmp_path, in_two_processes):
    found = tmp_path / "two.safetensors"
    printed = in_two_processes(WORKER, found)
    stage, curve = trained()
    assert f"CURVE {[round(row['train_loss'], 5) for row in curve]} 2" in printed
    two = load_file(found)
    for name, parameter in stage.named_parameters():
        assert torch.allclose(two[name], parameter, atol=2e-5), name
