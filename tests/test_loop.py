"""The loop: equal to a plain one, and exact when it is killed and goes on."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_work import Regression
from torch import nn

from lib.runs import files
from lib.runs.places import ROOT
from lib.runs.tensors import load_tensors, save_tensors
from lib.training import loop, optimizers
from lib.training.loop import Diverged, Training, train


class Killed(BaseException):
    """Stands for a kill inside one process."""


def state(work: Regression) -> dict[str, torch.Tensor]:
    return {name: v.clone() for name, v in work.model.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def every_batch(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every batch."""
    patch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    patch.setattr(loop, "CHECKPOINT_SHARE", 1e9)


def plain(work: Regression, t: Training) -> list[float]:
    """Adam, as anybody would write it down: clipped, decayed, over the same batches."""
    params = [p for p in work.model.parameters()]
    first, second = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    counts, losses, done = [0] * len(params), [], 0
    total = t.epochs * len(work.x)
    for epoch in range(1, t.epochs + 1):
        work.model.train()
        for number, x, y in work.batches(epoch):
            found = work.model(x, work.side and number % 3 == 0)
            loss = ((found - y) ** 2).mean()
            grads = torch.autograd.grad(loss, params, allow_unused=True)
            norm = math.sqrt(sum(float((g**2).sum()) for g in grads if g is not None))
            scale = min(1.0, t.clip / (norm + 1e-6)) if t.clip else 1.0
            rate = t.learning_rate * (1 - done / total if t.schedule == "linear" else 1)
            with torch.no_grad():
                for i, (p, g) in enumerate(zip(params, grads, strict=True)):
                    if g is None:
                        continue
                    g, counts[i] = g * scale, counts[i] + 1
                    if t.optimizer == "adamw":
                        p.mul_(1 - rate * t.weight_decay)
                    first[i] = 0.9 * first[i] + 0.1 * g
                    second[i] = 0.999 * second[i] + 0.001 * g * g
                    step = first[i] / (1 - 0.9 ** counts[i])
                    p -= rate * step / ((second[i] / (1 - 0.999 ** counts[i])).sqrt() + 1e-8)
            done += 1
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"schedule": "linear"},
        {"optimizer": "adam", "clip": 0.0},
        {"clip": 0.05, "weight_decay": 0.5},
    ],
    ids=lambda numbers: ",".join(numbers) or "usual",
)
@pytest.mark.parametrize("side", [False, True])
def test_the_loop_is_adam_as_anybody_would_write_it(numbers, side):
    t = Training(epochs=6, patience=0, learning_rate=3e-2, restore="last", **numbers)
    by_hand, by_loop = Regression(side=side), Regression(side=side)
    losses = plain(by_hand, t)
    fit = train(by_loop, t)
    for name, value in by_loop.model.state_dict().items():
        assert torch.allclose(value, by_hand.model.state_dict()[name], atol=1e-6), name
    means = [sum(losses[5 * i : 5 * i + 5]) / 5 for i in range(6)]
    assert [row["train_loss"] for row in fit.curve] == pytest.approx(means, abs=1e-6)
    assert (fit.updates, fit.symbols, fit.epoch) == (30, 6 * 5 * 8, 6)
    assert same(fit.last, by_loop.model.state_dict()) and not by_loop.model.training


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_an_optimiser_without_the_compiler_is_that_of_torch_bit_for_bit(name):
    ends = []
    for kind in (getattr(optimizers, name), getattr(torch.optim, name)):
        torch.manual_seed(0)
        layer = nn.Linear(4, 3)
        moving = kind(layer.parameters(), lr=1e-2, fused=True)
        for _ in range(3):
            layer(torch.ones(2, 4)).square().sum().backward()
            moving.step()
            moving.zero_grad(set_to_none=True)
        ends.append([*layer.parameters(), *moving.state[layer.weight].values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_the_best_weights_are_put_back_and_the_last_ones_kept():
    t = Training(epochs=40, patience=3, learning_rate=0.3, clip=0.0)
    work = Regression()
    fit = train(work, t)
    losses = [row["valid_loss"] for row in fit.curve]
    best = losses.index(min(losses))
    assert fit.best_epoch == best + 1 and fit.best_updates == 5 * (best + 1)
    assert len(losses) == fit.best_epoch + 3 < 40, "stopped after three epochs without a new best"
    assert work.validate()["valid_loss"] == fit.valid_loss == losses[best]
    kept = Regression()
    last = train(kept, Training(epochs=40, patience=3, learning_rate=0.3, clip=0.0, restore="last"))
    assert same(state(kept), fit.last) and last.best == {}
    assert kept.validate()["valid_loss"] == losses[-1] > losses[best]
    endless = train(Regression(), Training(epochs=25, patience=0, learning_rate=0.3, clip=0.0))
    assert len(endless.curve) == 25 > len(losses)


def test_a_tie_is_no_improvement():
    class Flat(Regression):
        def validate(self):
            return {"valid_loss": 1.0}

    fit = train(Flat(), Training(epochs=9, patience=2))
    assert (fit.best_epoch, fit.epoch) == (1, 3)


def test_the_training_loss_of_an_epoch_weighs_its_batches():
    seen = []

    class Uneven(Regression):
        def losses(self, batch):
            for loss, _ in super().losses(batch):
                seen.append((loss.item(), 1.0 + batch[0]))
                yield loss, seen[-1][1]

    (row,) = train(Uneven(), Training(epochs=1)).curve
    losses, weights = zip(*seen, strict=True)
    assert row["train_loss"] == pytest.approx(np.average(losses, weights=weights))


def test_max_updates_end_the_run_inside_an_epoch_and_inside_a_batch():
    for updates, steps, symbols in ((7, 1, 7 * 8), (7, 2, 4 * 8)):
        work = Regression(steps=steps)
        fit = train(work, Training(epochs=9, patience=0, max_updates=updates))
        assert (fit.updates, fit.symbols) == (updates, symbols)
        assert [row["updates"] for row in fit.curve][-1] == updates
    fit = train(Regression(), Training(epochs=1, patience=0, max_updates=700))
    assert fit.updates == 5, "epochs end it if they come first"


@pytest.mark.parametrize(
    ("numbers", "at"),
    [
        ({"epochs": 3, "validations": 4}, [4, 8, 11, 15]),
        ({"epochs": 3, "validations": 1}, [15]),
        ({"epochs": 9, "max_updates": 10, "validations": 2}, [5, 10]),
        ({"epochs": 1, "validations": 9}, [1, 2, 3, 4, 5]),
        ({"epochs": 2}, [5, 10]),
        ({"epochs": 2, "validate_first": True}, [0, 5, 10]),
    ],
)
def test_validations_are_spread_over_the_run(numbers, at):
    fit = train(Regression(), Training(patience=0, **numbers))
    assert [row["updates"] for row in fit.curve] == at


def test_untrained_weights_are_a_candidate_if_they_count():
    t = Training(epochs=2, patience=0, learning_rate=3.0, clip=0.0, validate_first=True)
    work = Regression()
    before = state(work)
    fit = train(work, t)
    assert fit.best_epoch == fit.best_updates == 0 and same(state(work), before)
    assert fit.curve[0]["train_loss"] is None


def test_groups_move_at_their_own_rate_and_an_empty_one_does_no_harm():
    class Grouped(Regression):
        def groups(self):
            rest = [p for n, p in self.model.named_parameters() if not n.startswith("first")]
            return [([], 0.1), (self.model.first.parameters(), 0.0), (rest, 1.0)]

    for schedule in ("constant", "linear"):
        work = Grouped()
        before = state(work)
        train(work, Training(epochs=2, schedule=schedule, weight_decay=0.0, restore="last"))
        after = state(work)
        assert torch.equal(before["first.weight"], after["first.weight"])
        assert not torch.equal(before["second.weight"], after["second.weight"])


def test_the_average_is_what_is_validated_and_kept():
    t = Training(epochs=4, patience=0, learning_rate=0.05, average=0.8, restore="last")
    work, single = Regression(), Regression()
    fit = train(work, t)
    mean = state(single)
    seen: list[dict] = []

    class Spied(Regression):
        def losses(self, batch):
            yield from super().losses(batch)
            seen.append(state(self))

    raw = Spied()
    train(raw, Training(epochs=4, patience=0, learning_rate=0.05, restore="last"))
    for weights in seen:
        mean = {n: 0.8 * mean[n] + 0.2 * weights[n] for n in mean}
    for name, value in work.model.state_dict().items():
        assert torch.allclose(value, mean[name], atol=1e-6), name
    single.model.load_state_dict(mean)
    assert fit.curve[-1]["valid_loss"] == pytest.approx(single.validate()["valid_loss"], abs=1e-6)
    assert same(fit.last, state(work))


def test_what_carries_gradients_itself_gives_plain_numbers():
    class Pieces(Regression):
        def losses(self, batch):
            _, x, y = batch
            whole = 0.0
            for part in range(0, 8, 2):
                loss = nn.functional.mse_loss(self.model(x[part : part + 2]), y[part : part + 2])
                (loss / 4).backward()
                whole += loss.item() / 4
            yield whole, 8.0

    t = Training(epochs=3, patience=0, restore="last")
    one, other = Regression(), Pieces()
    train(one, t), train(other, t)
    assert all(torch.allclose(state(one)[n], v, atol=1e-6) for n, v in state(other).items())


@pytest.mark.parametrize("where", ["training", "validation"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(where, value, tmp_path):
    class Explosive(Regression):
        def losses(self, batch):
            for loss, weight in super().losses(batch):
                yield loss * (value if where == "training" and self.seen == 2 else 1), weight

        def validate(self):
            return {"valid_loss": value} if where == "validation" else super().validate()

    with pytest.raises(Diverged, match=f"{where} loss (nan|inf) in epoch 1, update"):
        train(Explosive(), Training(), path=tmp_path / "checkpoint.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"epochs": 2.5},
        {"epochs": True},
        {"patience": -1},
        {"max_updates": -5},
        {"validations": -3},
        {"clip": -1.0},
        {"learning_rate": -1e-3},
        {"learning_rate": math.inf},
        {"weight_decay": math.nan},
        {"average": 1.0},
        {"average": "x"},
        {"restore": "worst"},
        {"schedule": "cosine"},
        {"optimizer": "sgd"},
    ],
)
def test_impossible_numbers_are_refused(given):
    with pytest.raises(ValueError, match="allowed"):
        Training(**given)


def test_an_epoch_costs_what_it_took_before_and_after_a_kill(tmp_path, monkeypatch):
    every_batch(monkeypatch)
    path = tmp_path / "checkpoint.safetensors"

    class Mortal(Regression):
        def losses(self, batch):
            if self.seen == 2 and not path.with_suffix(".killed").exists():
                path.with_suffix(".killed").touch()
                raise Killed
            yield from super().losses(batch)

    with pytest.raises(Killed):
        train(Mortal(), Training(epochs=1), path=path)
    tensors, about = load_tensors(path)
    assert about["epoch_seconds"] > 0
    save_tensors(path, tensors, {**about, "epoch_seconds": 1000.0})
    (row,) = train(Mortal(), Training(epochs=1), path=path).curve
    assert 1000 < row["epoch_seconds"] < 1100


RUNS = {
    "usual": ({"count": 3}, {"epochs": 4, "patience": 2, "learning_rate": 0.3}),
    "dropout": ({"count": 3, "dropout": 0.4}, {"epochs": 3}),
    "side": ({"count": 4, "side": True}, {"epochs": 3, "schedule": "linear"}),
    "average": ({"count": 2, "steps": 2}, {"epochs": 3, "average": 0.9, "validations": 4}),
    "tied": ({"count": 3, "tied": True, "dropout": 0.2}, {"epochs": 2, "validate_first": True}),
    "max updates": ({"count": 3, "steps": 2}, {"epochs": 5, "max_updates": 13, "restore": "last"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_kill_anywhere_and_another_start_end_with_the_same_bits(name, tmp_path, monkeypatch):
    """An exception at every update and in every validation; a checkpoint after every batch."""
    options, numbers = RUNS[name]
    t = Training(**{"patience": 0, **numbers})
    every_batch(monkeypatch)
    events = {"count": 0, "kill": 0}

    class Mortal(Regression):
        def losses(self, batch):
            for found in super().losses(batch):
                self.event()
                yield found

        def validate(self):
            self.event()
            return super().validate()

        def event(self):
            events["count"] += 1
            if events["count"] == events["kill"]:
                raise Killed

    def attempt(path: Path):
        torch.manual_seed(3)
        work = Mortal(**options)
        fit = train(work, t, path=path, identity="x")
        curve = [{k: v for k, v in row.items() if k != "epoch_seconds"} for row in fit.curve]
        return state(work), fit.best, fit.last, curve, fit.updates, fit.symbols, fit.best_epoch

    whole = attempt(tmp_path / "whole")
    plain_run = train(Mortal(**options), t)
    assert plain_run.valid_loss == min(row["valid_loss"] for row in whole[3]) or name == "dropout"
    every = events["count"] // 2
    saved = 0
    for kill in range(1, every + 1):
        path = tmp_path / f"killed {kill}"
        events.update(count=0, kill=kill)
        with pytest.raises(Killed):
            attempt(path)
        saved += path.is_file()
        events.update(count=0, kill=0)
        again = attempt(path)
        assert all(same(a, b) for a, b in zip(again[:3], whole[:3], strict=True)), kill
        assert again[3:] == whole[3:], kill
        assert [list(row) for row in again[3]] == [list(row) for row in whole[3]], "its columns"
        assert events["count"] < every or not kill > 2, "it went on, it did not begin again"
        events.update(count=0)
        finished = attempt(path)  # a run killed after its last checkpoint trains nothing again
        assert events["count"] == 0 and same(finished[0], whole[0])
    assert saved >= every - 2 * options.get("steps", 1)


def test_a_work_that_cannot_stop_inside_an_epoch_goes_on_from_the_last(tmp_path, monkeypatch):
    every_batch(monkeypatch)

    class Carrying(Regression):
        mid_epoch, dies = False, 0

        def losses(self, batch):
            if self.dies and self.seen + 1 == self.dies:
                raise Killed
            yield from super().losses(batch)

    t, path = Training(epochs=3, patience=0), tmp_path / "x"
    whole = Carrying()
    train(whole, t)
    victim = Carrying()
    victim.dies = 8  # in the second epoch
    with pytest.raises(Killed):
        train(victim, t, path=path)
    assert load_tensors(path)[1]["counts"]["updates"] == 5
    again = Carrying()
    train(again, t, path=path)
    assert again.seen == 15 and same(state(again), state(whole))


def checkpoint(path: Path, t: Training, identity: str = "mine") -> None:
    """The checkpoint of a run that was killed in its second epoch."""

    class Mortal(Regression):
        def losses(self, batch):
            if self.seen == 7:
                raise Killed
            yield from super().losses(batch)

    with pytest.MonkeyPatch.context() as patch:
        every_batch(patch)
        with pytest.raises(Killed):
            train(Mortal(), t, path=path, identity=identity)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_again(tmp_path, capsys, damage):
    path, t = tmp_path / "checkpoint.safetensors", Training(epochs=3, patience=0)
    checkpoint(path, t)
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-9] ^= 1
    path.write_bytes(
        {"truncated": content[:-50], "foreign": b"x" * 99, "empty": b""}.get(damage, content)
    )
    bad = path.read_bytes()
    whole, again = Regression(), Regression()
    train(whole, t)
    train(again, t, path=path, identity="mine")
    assert same(state(whole), state(again)) and again.seen == 15
    said = capsys.readouterr().out.strip()
    assert said.startswith(str(Path(*path.parts[-2:])))
    assert said.endswith("kept as checkpoint.safetensors.damaged-1 and the run begins again")
    assert (tmp_path / "checkpoint.safetensors.damaged-1").read_bytes() == bad


def test_a_checkpoint_of_something_else_is_refused_and_kept(tmp_path):
    path, t = tmp_path / "checkpoint.safetensors", Training(epochs=3, patience=0)
    checkpoint(path, t)
    before = path.read_bytes()
    for numbers, identity in ((t, "another"), (Training(epochs=4, patience=0), "mine")):
        with pytest.raises(ValueError, match="is of other settings, another seed or other data"):
            train(Regression(), numbers, path=path, identity=identity)

    class Other(Regression):
        def __init__(self):
            super().__init__()
            self.model.out = nn.Linear(4, 1, bias=False)

    with pytest.raises(ValueError, match="holds other weights than the model has; delete it"):
        train(Other(), t, path=path, identity="mine")
    assert path.read_bytes() == before


def test_a_number_that_is_added_later_refuses_no_checkpoint(tmp_path):
    """A class with one more field, at its default, is the same training."""
    path = tmp_path / "checkpoint.safetensors"
    checkpoint(path, Training(epochs=3, patience=0))
    more = dataclasses.make_dataclass(
        "Training", [("warmth", int, 0)], bases=(Training,), frozen=True
    )
    more.__qualname__ = "Training"
    work = Regression()
    train(work, more(epochs=3, patience=0), path=path, identity="mine")
    assert work.seen == 15


def test_the_time_between_checkpoints_follows_their_cost(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    written = []

    def save(path, tensors, about):
        clock[0] += 2.0  # a slow disk
        written.append(about["counts"]["updates"])

    monkeypatch.setattr(loop, "save_tensors", save)

    class Slow(Regression):
        def losses(self, batch):
            clock[0] += 1.0
            yield from super().losses(batch)

    train(Slow(count=100), Training(epochs=1), path=tmp_path / "x")
    assert written == [11, 52, 93], "first after 10 s, then at most a twentieth of the time"


KILLED = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from small_work import Regression
from lib.training import loop
loop.CHECKPOINT_SECONDS = 0.0
class Slow(Regression):
    def losses(self, batch):
        time.sleep(0.01)
        yield from super().losses(batch)
numbers = loop.Training(epochs=12, patience=0)
loop.train(Slow(dropout=0.3, side=True), numbers, path=Path(sys.argv[1]))
"""


def test_kill_nine_and_another_start_end_with_the_same_bits(tmp_path):
    path, t = tmp_path / "checkpoint.safetensors", Training(epochs=12, patience=0)
    script = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"))
    victim = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not path.is_file():
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert 0 < load_tensors(path)[1]["counts"]["updates"] < 60, "killed too late to test anything"
    whole, again = Regression(dropout=0.3, side=True), Regression(dropout=0.3, side=True)
    first, second = train(whole, t), train(again, t, path=path)
    assert same(state(again), state(whole)) and again.seen == whole.seen == 60
    assert same(first.last, second.last) and first.valid_loss == second.valid_loss


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    path, t = tmp_path / "checkpoint.safetensors", Training(epochs=3, patience=0)
    checkpoint(path, t)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        every_batch(patch)
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(files.NoRoom, match="the disk is full"):
            train(Regression(), t, path=path, identity="mine")
    assert path.read_bytes() == before
