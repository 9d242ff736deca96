"""Features of the base: what they are, and a cache that is shared, resumed and mended."""

import pytest
import torch
from torch.nn import functional

from lib.cascade import dataset as datasets
from lib.cascade import features as module
from lib.cascade.baselines import states_under
from lib.cascade.dataset import token_dataset
from lib.cascade.difficulty import hidden_cosine
from lib.cascade.features import TokenFeatures, token_features
from lib.cascade.packing import select
from lib.runs import files
from lib.text.instructions import load_instructions
from lib.text.records import render
from lib.text.token_stream import TokenWindows, joined_windows

COUNTS = {"train": 16, "valid": 4, "test": 6}


@pytest.fixture(scope="module")
def windows(base):
    texts = [render(r, "response") for r in load_instructions("embedded").records]
    return joined_windows(texts, base.tokenizer, 32, "test").first(20)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 4)


def test_features_are_those_of_the_whole_model(base, windows, tmp_path):
    found = token_features(base, windows, tmp_path)
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
    part = found.windows(3, 2)
    assert torch.equal(part.final, found.final[96:160]) and part.tokens == 64
    for name in ("loss", "last_layer"):
        assert torch.equal(part.scalars[name], found.scalars[name][96:160])
        assert torch.equal(part.windows(1, 9).scalars[name], found.scalars[name][128:160])


def test_the_head_is_asked_only_where_something_needs_it(base, windows, tmp_path, monkeypatch):
    asked, real = [], module.head_statistics
    monkeypatch.setattr(module, "head_statistics", lambda *a: asked.append(1) or real(*a))
    found = token_features(base, windows, tmp_path)
    found.scalars["last_layer"]
    assert not asked
    found.scalars["loss"], found.scalars["entropy"]
    assert len(asked) == 1
    token_features(base, windows, tmp_path).scalars["margin"]
    assert len(asked) == 1, "it is kept"


def test_a_dataset_is_named_without_any_feature(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets, "token_features", None)
    found = token_dataset("tiny", "stream", COUNTS, "embedded")
    other = token_dataset("tiny", "chunks", COUNTS, "embedded")
    assert found.name == "embedded" and len(found.sha256) == 64 and found.sha256 != other.sha256
    monkeypatch.setattr(datasets, "FEATURES_VERSION", 99)
    datasets._opened.cache_clear()
    assert token_dataset("tiny", "stream", COUNTS, "embedded").sha256 != found.sha256
    with pytest.raises(ValueError, match="not the one"):
        found.open()
    datasets._opened.cache_clear()


def test_a_second_start_computes_nothing(base, windows, tmp_path, monkeypatch):
    first = token_features(base, windows, tmp_path)
    monkeypatch.setattr(module, "window_states", None)
    again = token_features(base, windows, tmp_path)
    assert torch.equal(first.final, again.final)


def test_a_longer_text_shares_what_it_has_in_common(
    base, windows, tmp_path, monkeypatch, small_shards
):
    token_features(base, windows.first(12), tmp_path)
    calls, real = [], module.window_states
    monkeypatch.setattr(module, "window_states", lambda *a: calls.append(1) or real(*a))
    token_features(base, windows, tmp_path)
    assert len(calls) == 2  # five shards of four windows, three of them known


@pytest.mark.parametrize("harm", ["truncate", "flip"])
def test_a_damaged_shard_is_set_aside_and_made_again(
    base, windows, tmp_path, harm, capsys, small_shards
):
    first = token_features(base, windows, tmp_path).final.clone()
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    raw = bytearray(shard.read_bytes())
    if harm == "truncate":
        raw = raw[:-64]
    else:
        raw[-100] ^= 255
    shard.write_bytes(raw)
    again = token_features(base, windows, tmp_path)
    assert "is kept as" in capsys.readouterr().out
    assert torch.equal(again.final, first) and len(list(tmp_path.glob("*.damaged-1"))) == 1


def test_other_tokens_or_another_version_are_other_shards(base, windows, tmp_path, monkeypatch):
    token_features(base, windows, tmp_path)
    ids = windows.inputs.clone()
    ids[0, 0] = 7 if ids[0, 0] != 7 else 8
    token_features(base, TokenWindows(ids, windows.labels, "x"), tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr(module, "FEATURES_VERSION", 2)
    token_features(base, windows, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_an_interrupted_collection_goes_on(base, windows, tmp_path, monkeypatch, small_shards):
    whole = token_features(base, windows, tmp_path / "whole")
    real, calls = module.window_states, []

    def failing(*args):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(module, "window_states", failing)
    with pytest.raises(KeyboardInterrupt):
        token_features(base, windows, tmp_path / "cut")
    calls.clear()
    monkeypatch.setattr(module, "window_states", lambda *a: calls.append(1) or real(*a))
    again = token_features(base, windows, tmp_path / "cut")
    assert len(calls) == 2 and torch.equal(again.final, whole.final)


def test_no_room_is_said_before_anything_is_computed(base, windows, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 1000)
    monkeypatch.setattr(module, "window_states", None)
    with pytest.raises(files.NoRoom, match="features of the base needs"):
        token_features(base, windows, tmp_path)


def test_damaged_states_under_the_last_layers_are_made_again(
    base, windows, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    first = states_under(base, windows, 2)
    (path,) = (tmp_path / "states").glob("*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-50] ^= 255
    path.write_bytes(raw)
    assert torch.equal(states_under(base, windows, 2), first)
    assert "made again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("last_two_layers", [(2, 3), (3, 4)]),
        ("last_layer", [(3, 4)]),
        ("embedding_to_final", [(0, 5)]),
    ],
)
def test_hardness_is_the_cosine_of_the_named_layers(name, pairs):
    hidden = torch.randn(6, 9, 32, generator=torch.Generator().manual_seed(0))
    by_hand = sum(functional.cosine_similarity(hidden[a], hidden[b], dim=-1) for a, b in pairs)
    torch.testing.assert_close(hidden_cosine(list(hidden), name), by_hand / len(pairs))


def test_random_tokens_lie_anywhere_and_a_count_takes_the_first():
    ids = torch.zeros(640, dtype=torch.long)
    text = TokenFeatures(torch.zeros(640, 1), {"loss": torch.arange(640.0)}, ids, ids, 32)
    drawn = select(text, "random", 0.1, "loss", seed=1)
    assert len(drawn) == 64 and drawn.max() > 500 and drawn.min() < 140
    assert len(drawn.diff().unique()) > 3
    hard = select(text, "loss", 0.5, "loss", count=50)
    assert hard.tolist() == list(range(320, 370)), "the first of the hard ones, not the hardest"


def test_selection_rules(base, windows, tmp_path):
    found = token_features(base, windows, tmp_path)
    hard = select(found, "hard", 0.1, "last_layer")
    assert len(hard) == 64 and (hard.diff() > 0).all()
    values = found.scalars["last_layer"]
    assert values[hard].max() <= values.sort().values[64]
    assert torch.equal(select(found, "first", 0.1, "last_layer"), torch.arange(64))
    assert torch.equal(select(found, "all", 0.1, "last_layer"), torch.arange(found.tokens))
    assert torch.equal(select(found, "all", 0.1, "last_layer", count=9), torch.arange(9))
    draws = [select(found, "random", 0.1, "last_layer", seed=s) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    worst = select(found, "loss", 0.1, "last_layer", count=50)
    assert len(worst) == 50 and found.scalars["loss"][worst].min() > found.scalars["loss"].mean()
    ends = torch.zeros(found.tokens, dtype=torch.bool)
    ends[hard[::2]] = True
    others = select(found, "hard", 0.1, "last_layer", left_out=ends)
    assert len(others) == 64 and not ends[others].any()
    assert torch.isin(hard[1::2], others).all(), "the rest of the hard ones stay"
    with pytest.raises(ValueError, match="allowed"):
        select(found, "easy", 0.1, "last_layer")


def test_without_alpaca_wikipedia_is_cut_and_without_both_the_embedded_records(monkeypatch, capsys):
    from lib.cascade import dataset as datasets
    from lib.runs import fetch

    monkeypatch.delenv("DEPTH_DATA", raising=False)
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "the hub does not answer")
    articles = {"train": "A b.\n\nC d.", "valid": "E f.", "test": "G h."}
    monkeypatch.setattr(datasets, "splits", lambda: articles)
    parts, name, _ = datasets.texts_by_part("auto", "", True)
    assert name == "wikipedia" and parts["train"] == ["A b.", "C d."]
    assert "wikipedia is used instead" in capsys.readouterr().out

    def nowhere():
        raise datasets.CorpusUnavailable("the package index does not answer")

    monkeypatch.setattr(datasets, "splits", nowhere)
    assert datasets.texts_by_part("auto", "", True)[1] == "embedded"
    assert "embedded records are used" in capsys.readouterr().out
    with pytest.raises(datasets.CorpusUnavailable):
        datasets.texts_by_part("local", "", True)
