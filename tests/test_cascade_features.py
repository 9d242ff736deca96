import pytest
import torch

from lib.cascade import features as module
from lib.cascade.features import collect
from lib.cascade.packing import select
from lib.text.instructions import load_instructions, render
from lib.text.token_stream import TokenWindows, joined_windows


@pytest.fixture(scope="module")
def windows(base):
    texts = [render(r, "response") for r in load_instructions("embedded").records]
    return joined_windows(texts, base.tokenizer, 32, "test").first(20)


def test_features_are_those_of_the_whole_model(base, windows, tmp_path):
    found = collect(base, windows, tmp_path, batch=3)
    with torch.no_grad():
        out = base.model(windows.inputs, output_hidden_states=True)
    hidden = out.hidden_states
    assert torch.allclose(hidden[-1], base.model.model(windows.inputs).last_hidden_state)
    assert torch.allclose(found.final, hidden[-1].flatten(0, 1), atol=1e-5)
    loss = torch.nn.functional.cross_entropy(
        out.logits.flatten(0, 1), windows.labels.flatten(), reduction="none"
    )
    assert torch.allclose(found.scalars["loss"], loss, atol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(hidden[0], hidden[-1], dim=-1).flatten()
    assert torch.allclose(found.scalars["embedding_to_final"], cosine, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(hidden[-3], hidden[-2], dim=-1).flatten()
    assert torch.allclose(found.scalars["last_layer"], cosine, atol=1e-5)


def test_a_second_start_computes_nothing(base, windows, tmp_path, monkeypatch):
    first = collect(base, windows, tmp_path)
    monkeypatch.setattr(module, "window_features", None)
    again = collect(base, windows, tmp_path)
    assert torch.equal(first.final, again.final)


@pytest.mark.parametrize("harm", ["truncate", "flip", "foreign", "manifest"])
def test_a_damaged_or_foreign_cache_is_rebuilt(base, windows, tmp_path, harm, caplog):
    first = collect(base, windows, tmp_path).final.clone()
    folder = next(tmp_path.iterdir())
    data = folder / "final.f32"
    if harm == "truncate":
        data.write_bytes(data.read_bytes()[:-64])
    elif harm == "flip":
        raw = bytearray(data.read_bytes())
        raw[100] ^= 255
        data.write_bytes(raw)
    elif harm == "foreign":
        manifest = folder / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"key": "', '"key": "00'))
    else:
        (folder / "manifest.json").unlink()
    again = collect(base, windows, tmp_path)
    assert "damaged or foreign" in caplog.text
    assert torch.equal(again.final, first)


def test_another_corpus_or_model_has_another_key(base, windows):
    key = module.feature_key(base, windows)
    labels = windows.labels.clone()
    labels[0, 0] += 1
    assert module.feature_key(base, TokenWindows(windows.inputs, labels, "x")) != key


def test_an_interrupted_collection_goes_on(base, windows, tmp_path, monkeypatch):
    whole = collect(base, windows, tmp_path / "whole", batch=1)
    real, calls = module.window_features, []

    def failing(*args):
        if len(calls) == 11:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(module, "window_features", failing)
    with pytest.raises(KeyboardInterrupt):
        collect(base, windows, tmp_path / "cut", batch=1)
    calls.clear()
    monkeypatch.setattr(module, "window_features", lambda *a: calls.append(1) or real(*a))
    again = collect(base, windows, tmp_path / "cut", batch=1)
    assert len(calls) == 12  # 20 windows, the first 8 were written before the interruption
    assert torch.equal(again.final, whole.final)


WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
torch.distributed.init_process_group("gloo")
from lib.cascade.features import collect
from lib.base.pretrained import load_base
from lib.text.instructions import load_instructions, render
from lib.text.token_stream import joined_windows
base = load_base("tiny")
texts = [render(r, "response") for r in load_instructions("embedded").records]
collect(base, joined_windows(texts, base.tokenizer, 32, "test").first(20), Path(sys.argv[1]), 3)
"""


def test_two_processes_collect_what_one_collects(base, windows, tmp_path, in_two_processes):
    in_two_processes(WORKER, tmp_path / "two")
    one = collect(base, windows, tmp_path / "one", batch=3)
    two = collect(base, windows, tmp_path / "two", batch=3)
    assert torch.allclose(one.final, two.final, atol=1e-6)


def test_selection_rules(base, windows, tmp_path):
    found = collect(base, windows, tmp_path)
    hard = select(found, "hard", 0.1, "last_layer")
    assert len(hard) == 64 and (hard.diff() > 0).all()
    values = found.scalars["last_layer"]
    assert values[hard].max() <= values.sort().values[64]
    assert torch.equal(select(found, "first", 0.1, "last_layer"), torch.arange(64))
    draws = [select(found, "random", 0.1, "last_layer", seed=s) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    worst = select(found, "loss", 0.1, "last_layer", count=50)
    assert len(worst) == 50 and found.scalars["loss"][worst].min() > found.scalars["loss"].mean()
    with pytest.raises(ValueError, match="allowed"):
        select(found, "easy", 0.1, "last_layer")
