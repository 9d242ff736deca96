"""The faster update on single tokens has the numbers of the plain one, and goes on alike."""

import copy
import gc
import weakref

import pytest
import torch

from lib.base.pretrained import load_base
from lib.cascade.packing import Packs
from lib.cascade.single_token import SingleTokenWork, outputs_of_single
from lib.cascade.stage import new_stage, run_single
from lib.cascade.work import StageWork
from lib.training.loop import Training, train

TRAINING = Training(
    epochs=3, patience=0, batch_size=16, learning_rate=1e-2, weight_decay=0.1, clip=0.0
)


def tokens(count=100):
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(count, 32, generator=generator)
    packs = Packs.whole(torch.arange(count)[:, None])
    return states, torch.randint(280, (count,), generator=generator), packs


def work(kind, stage, base_head=None, training=TRAINING):
    def valid():
        with torch.no_grad():
            out = run_single(stage, states)
            logits = out @ stage.head_weight(base_head).t()
        return {"valid_loss": torch.nn.functional.cross_entropy(logits, labels).item()}

    states, labels, packs = tokens()
    return kind(stage, states, labels, packs, training.batch_size, 0, base_head, valid)


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("head", ["scratch", "copied", "shared"])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_faster_update_has_the_numbers_of_the_plain_one(layers, head, schedule):
    if head == "shared" and layers == 0:
        pytest.skip("nothing to train")
    base = load_base("tiny").model
    weight = base.lm_head.weight
    plain = new_stage(base.config, layers, head, "random", weight, seed=1)
    fast = copy.deepcopy(plain)
    numbers = Training(**{**vars(TRAINING), "schedule": schedule})
    one = train(work(StageWork, plain, weight, numbers), numbers)
    quick = work(SingleTokenWork, fast, weight, numbers)
    two = train(quick, numbers)
    assert quick.fast is not None
    for a, b in zip(one.curve, two.curve, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
        assert a["valid_loss"] == pytest.approx(b["valid_loss"], abs=1e-5)
    for (name, a), b in zip(plain.named_parameters(), fast.parameters(), strict=True):
        if "q_proj" in name or "k_proj" in name:  # rounding noise alone moves them in the plain one
            continue
        assert torch.allclose(a, b, atol=1e-5), name


def test_queries_and_keys_are_left_out_without_a_trace():
    stage = new_stage(load_base("tiny").model.config, 3, seed=2, std=0.2)
    states = tokens()[0]
    assert torch.allclose(outputs_of_single(stage, states), run_single(stage, states), atol=1e-5)


def test_a_bound_on_the_gradient_takes_the_plain_update():
    numbers = Training(**{**vars(TRAINING), "clip": 1.0})
    stage = new_stage(load_base("tiny").model.config, 1, seed=1)
    bounded = work(SingleTokenWork, stage, training=numbers)
    train(bounded, numbers)
    assert bounded.fast is None


@pytest.mark.parametrize("kind", [StageWork, SingleTokenWork])
def test_a_stage_leaves_the_memory_with_its_run(kind):
    """A sweep of large stages would fill the machine: neither hooks nor cycles may hold them."""
    stage = new_stage(load_base("tiny").model.config, 2, "scratch", seed=1)
    own = work(kind, stage)
    train(own, TRAINING)
    fast = getattr(own, "fast", None)
    assert (fast is not None) == (kind is SingleTokenWork)
    gone = [weakref.ref(thing) for thing in (stage, fast) if thing is not None]
    gc.disable()  # which comes late where few objects hold much
    try:
        del stage, own, fast
        assert [thing() for thing in gone] == [None] * len(gone)
    finally:
        gc.enable()


class Killed(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("layers", [0, 2])
def test_a_run_that_is_killed_inside_an_epoch_ends_with_the_same_bits(
    layers, tmp_path, monkeypatch
):
    monkeypatch.setattr("lib.training.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("lib.training.loop.CHECKPOINT_SHARE", 1e9)
    config = load_base("tiny").model.config
    whole = new_stage(config, layers, seed=1)
    expected = train(work(SingleTokenWork, whole), TRAINING, path=tmp_path / "whole")
    cut = work(SingleTokenWork, new_stage(config, layers, seed=1))
    real, steps = cut.losses, []

    def dying(batch):
        if len(steps) == 10:  # 7 updates an epoch
            raise Killed
        steps.append(1)
        return real(batch)

    cut.losses = dying
    with pytest.raises(Killed):
        train(cut, TRAINING, path=tmp_path / "cut")
    again = work(SingleTokenWork, new_stage(config, layers, seed=9))
    found = train(again, TRAINING, path=tmp_path / "cut")
    assert [r["valid_loss"] for r in found.curve] == [r["valid_loss"] for r in expected.curve]
    for a, b in zip(again.model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)
