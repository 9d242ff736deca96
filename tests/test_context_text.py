"""Embedding, restricted vocabulary, token streams, UltraChat rows and whole runs."""

import copy
import types

import pytest
import torch

from lib.context import ultrachat
from lib.context.collection_clock import CollectionClock
from lib.context.collection_clock import run as clock
from lib.context.embedding import _embedding, load_embedding, narrowed
from lib.context.language_run import LanguageRun, UnigramRun, run, run_unigram
from lib.context.phase_one import PhaseOneSettings
from lib.context.phase_two import PhaseTwoSettings
from lib.context.sources import Recurrent, TruncatedBptt, Window
from lib.context.token_stream import (
    UNSCORED,
    StreamChoice,
    build_vocabulary,
    load_streams,
    tokenise,
    unigram_perplexity,
)
from lib.text.corpus import CorpusUnavailable, load_corpus


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path / "cache"))


def choice(**changes):
    corpus = load_corpus("python-docs", "", 3000, 1500, 1500)
    fields = {
        "corpus": corpus,
        "embedding": "tiny",
        "tokens": 300,
        "valid_tokens": 120,
        "test_tokens": 120,
        "vocabulary_tokens": 300,
        "width": 16,
        "embedding_sha256": load_embedding("tiny").sha256,
    }
    return StreamChoice(**{**fields, **changes})


def test_narrowing_keeps_most_of_the_table_and_full_width_is_untouched():
    table = torch.randn(50, 8) @ torch.diag(torch.tensor([9.0, 5, 1, 1, 1, 1, 1, 1]))
    assert narrowed(table, 0) is table and narrowed(table, 8) is table
    kept = narrowed(table, 2).square().sum() / table.square().sum()
    assert kept > 0.8
    with pytest.raises(ValueError, match="between 1 and 8"):
        narrowed(table, 9)


def test_vocabulary_holds_the_types_of_its_text_and_others_are_not_scored():
    vocabulary = build_vocabulary(torch.tensor([5, 5, 5, 2, 2, 7]), 10)
    assert vocabulary.types.tolist() == [5, 2, 7] and vocabulary.size == 3
    other = torch.tensor([7, 5, 9, 9])
    assert vocabulary.encode(other).tolist() == [2, 0, UNSCORED, UNSCORED]
    assert vocabulary.unscored_share(other) == 0.5


def test_unigram_perplexity_of_a_known_case():
    train = torch.tensor([0, 0, 0, 1])
    expected = (4 / 7 * 2 / 7) ** -0.5  # add-one over three types
    assert unigram_perplexity(train, torch.tensor([0, 1]), 3) == pytest.approx(expected)
    seen = torch.tensor([0, UNSCORED, 1])
    assert unigram_perplexity(train, seen, 3) == pytest.approx(expected)


def test_token_ids_are_cached_and_short_texts_refused():
    embedding = load_embedding("tiny")
    first = tokenise("the cat sat on the mat " * 20, embedding, 30)
    broken = types.SimpleNamespace(sha256=embedding.sha256, tokenizer=None)
    assert torch.equal(tokenise("the cat sat on the mat " * 20, broken, 30), first)
    tokenizer = copy.deepcopy(embedding.tokenizer)
    tokenizer.add_tokens(["the cat"])
    other = _embedding(embedding.table, tokenizer, embedding.name)
    assert not torch.equal(tokenise("the cat sat on the mat " * 20, other, 30), first)
    with pytest.raises(ValueError, match="asked for"):
        tokenise("short", embedding, 30)


def test_streams_share_one_vocabulary_and_embedding_changes_are_noticed():
    streams = load_streams(choice())
    assert len(streams.train) == 300 and streams.train.embedded.shape == (300, 16)
    assert streams.vocabulary.unscored_share(streams.train.ids) == 0  # all of it is learnt
    small = load_streams(choice(tokens=100))
    assert small.vocabulary.size == streams.vocabulary.size
    assert torch.equal(small.test.outputs, streams.test.outputs)
    with pytest.raises(RuntimeError, match="changed"):
        load_streams(choice(embedding_sha256="0" * 64))
    with pytest.raises(ValueError, match="vocabulary_tokens"):
        choice(vocabulary_tokens=10)


PHASE_ONE = PhaseOneSettings(chunk=150, max_iterations=3)
SETTINGS = PhaseTwoSettings(batch=100, max_epochs=2, patience=0)
SOURCES = {
    "trained": Recurrent(layers=2, width=8, phase_one=PHASE_ONE),
    "first": Recurrent("first_layer", 2, 8, PHASE_ONE),
    "random": Recurrent(layers=2, width=8, phase_one=None),
    "documents": Recurrent(layers=2, width=8, phase_one=PHASE_ONE, way="documents", document=64),
    "parallel": Recurrent(layers=2, width=8, phase_one=PHASE_ONE, way="parallel", sweeps=3),
    "table": Recurrent(layers=2, width=8, phase_one=PHASE_ONE, way="table"),
    "memory": Recurrent(layers=2, width=8, phase_one=PHASE_ONE, memory=2),
    "window": Window(3, 2),
    "bptt": TruncatedBptt(layers=2, width=8, lanes=10, window=10),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_makes_a_row_and_repeats(name, tmp_path):
    rows = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        outcome = run(LanguageRun(choice(), SOURCES[name], SETTINGS), 0, tmp_path / place)
        rows.append([row["val_loss"] for row in outcome.tables["curve"]])
    assert rows[0] == rows[1] and len(rows[0]) == 2
    assert outcome.row["test_ppl"] > 1 and outcome.row["updates"] == 6
    assert not (tmp_path / "a" / "contexts").exists()


def test_a_killed_run_reads_its_block_and_cache(tmp_path, monkeypatch):
    config = LanguageRun(choice(), SOURCES["trained"], SETTINGS)
    import lib.context.language_run as module

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    whole = run(config, 0, tmp_path)
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(module, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, 0, tmp_path)
        assert (tmp_path / "contexts" / "about.json").is_file()
    with monkeypatch.context() as patched:
        patched.setattr("lib.context.sources.run_phase_one", stop)
        patched.setattr(module, "collect", stop)
        resumed = run(config, 0, tmp_path)
    assert resumed.tables["curve"] == whole.tables["curve"]
    block = tmp_path / "checkpoint_block.safetensors"
    block.write_bytes(block.read_bytes()[:-10])
    with pytest.raises(RuntimeError, match="checkpoint_block.safetensors is damaged"):
        run(config, 0, tmp_path)


def test_the_clock_times_every_way_of_one_block(tmp_path):
    choices = tuple(SOURCES[way] for way in ("trained", "documents", "parallel", "table"))
    found = clock(CollectionClock(choice(), choices), 0, tmp_path).tables["clock"]
    assert [row["way"] for row in found] == ["sequential", "documents", "parallel", "table"]
    assert all(row["collect_seconds"] > 0 for row in found)
    with pytest.raises(ValueError, match="at least one"):
        CollectionClock(choice(), ())


def test_unigram_row_is_a_floor_line():
    outcome = run_unigram(UnigramRun(choice()), 0, None)
    assert 1 < outcome.row["test_ppl"] < load_streams(choice()).vocabulary.size * 2


def test_sources_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="sequential"):
        Recurrent(way="sideways")
    with pytest.raises(ValueError, match="needs a Phase 1"):
        Recurrent(way="table", phase_one=None)
    with pytest.raises(ValueError, match="sweeps"):
        Recurrent(way="parallel", memory=2)


ROWS = [
    {"messages": [{"content": "hello"}, {"content": "there"}]},
    {"messages": [{"content": "second"}]},
]


def test_ultrachat_rows_are_joined_as_in_the_seed(monkeypatch):
    assert ultrachat.join_rows(ROWS, 15) == "hello\ntheresecond"[:15]
    with pytest.raises(ValueError, match="hold 17"):
        ultrachat.join_rows(ROWS, 100)
    asked = []
    monkeypatch.setattr(ultrachat, "reachable", lambda: True)
    monkeypatch.setattr(ultrachat, "_rows", lambda split: asked.append(split) or iter(ROWS * 9))
    corpus = ultrachat.load_ultrachat(12, 6, 5)
    assert corpus.name == "ultrachat" and corpus.train == "hello\ntheres"
    assert corpus.valid + corpus.test == "hello\nthere" and asked == ["train_sft", "test_sft"]


def test_ultrachat_without_hub_says_what_is_allowed(monkeypatch):
    monkeypatch.setattr(ultrachat, "reachable", lambda: False)
    with pytest.raises(CorpusUnavailable, match="wikitext-2"):
        ultrachat.load_ultrachat(10, 10, 10)


def test_the_pinned_revision_is_what_is_asked_for(monkeypatch):
    seen = {}
    fake = types.SimpleNamespace(load_dataset=lambda name, **options: seen.update(options) or [])
    monkeypatch.setitem(__import__("sys").modules, "datasets", fake)
    assert list(ultrachat._rows("train_sft")) == []
    assert seen["revision"] == ultrachat.REVISION and len(seen["revision"]) == 40


def test_a_hub_that_breaks_off_between_rows_is_named(monkeypatch):
    def rows():
        yield ROWS[0]
        raise ConnectionError("reset by peer")

    fake = types.SimpleNamespace(load_dataset=lambda name, **options: rows())
    monkeypatch.setitem(__import__("sys").modules, "datasets", fake)
    with pytest.raises(CorpusUnavailable, match="reset by peer"):
        ultrachat.join_rows(ultrachat._rows("train_sft"), 100)
