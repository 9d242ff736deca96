"""The loop: golden numbers, early stopping, loud failure, and resume after kill -9."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lib.character.models.transformer import TransformerConfig
from lib.text.windows import Windows
from lib.training import checkpoint
from lib.training import fit as loop
from lib.character.evaluation import mean_loss
from lib.training.fit import Diverged, Training, fit
from lib.character.objectives import Objective, Standard, cross_entropy

ROOT = Path(__file__).resolve().parents[1]
# mean training loss of four epochs of five steps, torch 2.13 on CPU
GOLDEN = [5.04254, 4.72409, 4.54364, 4.41994]


def windows(corpus):
    encode = corpus.alphabet.encode
    return Windows.cut(encode(corpus.train), 64), Windows.cut(encode(corpus.valid), 64)


def test_golden_losses_of_twenty_steps():
    # fixed symbols, not text: the embedded prose changes with the Python version
    generator = torch.Generator().manual_seed(5)
    symbols = torch.randint(97, (16 * 64 * 5 + 1,), generator=generator)
    torch.manual_seed(0)
    model = TransformerConfig(97).build()
    data = Windows.cut(symbols, 64)
    record = fit(model, Standard(), data, data, Training(epochs=4), seed=0)
    assert record.updates == 20
    assert [row["train_loss"] for row in record.curve] == pytest.approx(GOLDEN, abs=2e-4)


def test_the_best_epoch_is_put_back_and_stopping_waits(corpus):
    torch.manual_seed(0)
    model = TransformerConfig(97).build()
    train, valid = windows(corpus)
    numbers = Training(epochs=40, patience=2, learning_rate=2e-2)
    record = fit(model, Standard(), train, valid, numbers, seed=0)
    losses = [row["valid_loss"] for row in record.curve]
    assert record.best_epoch == losses.index(min(losses)) + 1
    assert len(losses) == record.best_epoch + 2 < 40
    assert mean_loss(model, valid) == record.valid_loss


def test_keeping_the_last_state_keeps_it(corpus):
    torch.manual_seed(0)
    model = TransformerConfig(97).build()
    train, valid = windows(corpus)
    numbers = Training(epochs=40, patience=2, learning_rate=2e-2, restore="last")
    record = fit(model, Standard(), train, valid, numbers, seed=0)
    assert mean_loss(model, valid) == record.curve[-1]["valid_loss"] > record.valid_loss


class Explosive(Objective):
    """Standard training whose third loss is not a number."""

    calls = 0

    def losses(self, model, symbols, targets):
        Explosive.calls += 1
        yield cross_entropy(model(symbols), targets) * (math.nan if Explosive.calls > 2 else 1)


def test_a_loss_that_is_no_number_stops_the_run(corpus):
    with pytest.raises(Diverged, match="epoch 1"):
        fit(TransformerConfig(97).build(), Explosive(), *windows(corpus), Training(), seed=0)


def test_an_early_stop_and_a_resume_end_with_the_same_bits(corpus, tmp_path, monkeypatch):
    results, trained, real = [], [], loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *given: trained.append(given[5]) or real(*given))
    for limits in ((6,), (2, 6)):
        path = tmp_path / f"checkpoint{len(limits)}.pt"
        for epochs in limits:
            torch.manual_seed(0)
            model = TransformerConfig(97).build()
            record = fit(
                model, Standard(), *windows(corpus), Training(epochs=epochs), seed=0, path=path
            )
        results.append((model.state_dict(), record.valid_loss, len(record.curve)))
    assert trained == 2 * [1, 2, 3, 4, 5, 6], "the resumed run trains no epoch again"
    assert results[0][1:] == results[1][1:]
    assert all(torch.equal(results[0][0][k], results[1][0][k]) for k in results[0][0])


KILLED = """
import sys
from pathlib import Path
import torch
from lib.character.models.transformer import TransformerConfig
from lib.text.corpus import load_corpus
from lib.training import fit as loop
from lib.character.character_run import CharacterRun
from lib.training.fit import Training
from lib.character.objectives import Standard
from lib.runs.sweep import Task, sweep
from lib.character import character_run
loop.CHECKPOINT_SECONDS = 0.0
trained, real = [], loop._epoch
loop._epoch = lambda *given: trained.append(given[5]) or real(*given)
corpus = load_corpus("python-docs", "", 8000, 1000, 1000)
run = CharacterRun(corpus, TransformerConfig(97, layers=2), Standard(), Training(epochs=12))
task = Task(character_run.run, run, 0, {"experiment": "exp03", "variant": "Standard"})
found = repr(sweep([task], runs=Path(sys.argv[1]))[0].row["val_ppl"])
print(trained)
print(found)
"""


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", KILLED, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)


def test_kill_nine_and_rerun_end_with_the_same_bits(tmp_path):
    whole = start(tmp_path / "whole").communicate(timeout=240)[0].splitlines()[-2:]
    victim = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").glob("*/checkpoint.pt")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert not list((tmp_path / "killed").glob("*/run.json")), "killed too late to test anything"
    saved = checkpoint.load(next((tmp_path / "killed").glob("*/checkpoint.pt")))["epoch"]
    again = start(tmp_path / "killed").communicate(timeout=240)[0].splitlines()[-2:]
    assert again[1] == whole[1]
    every, left = (json.loads(run[0]) for run in (whole, again))
    assert saved and left == every[saved:], "it goes on after the saved epoch"
    assert not list(tmp_path.glob("*/*/checkpoint*")), "a finished run keeps no checkpoint"


def test_a_corrupt_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RuntimeError, match="checkpoint.pt cannot be read"):
        checkpoint.load(path)
    assert checkpoint.load(tmp_path / "absent.pt") is None
