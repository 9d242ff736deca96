"""Embedding, restricted vocabulary, token streams, UltraChat rows and whole runs."""

import copy
import dataclasses
import types

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model

from lib.base.pretrained import BaseUnavailable
from lib.context import agreement_run, block_run, features, language_run, sources, ultrachat
from lib.context.agreement_run import AgreementRun, run_agreement
from lib.context.block_run import BlockRun, run_phase_one, trained_block
from lib.context.collection_clock import CollectionClock, run_clock
from lib.context.embedding import _embedding, load_embedding, narrowed
from lib.context.language_run import LanguageRun, UnigramRun, run_language, run_unigram
from lib.context.phase_one import PhaseOneSettings
from lib.context.phase_two import recipe
from lib.context.sources import Recurrent, TruncatedBptt, Window
from lib.context.token_stream import (
    UNSCORED,
    StreamChoice,
    build_vocabulary,
    first,
    load_streams,
    tokenise,
    unigram_perplexity,
)
from lib.runs import fetch, files, task
from lib.runs.key import run_key
from lib.runs.places import cache_folder
from lib.runs.task import Place, Task, run_one
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


def test_token_ids_are_cached_and_damaged_ones_made_again(capsys):
    embedding, text = load_embedding("tiny"), "the cat sat on the mat " * 20
    ids = tokenise(text, embedding)
    (path,) = (cache_folder() / "token_ids").iterdir()
    broken = types.SimpleNamespace(sha256=embedding.sha256, tokenizer=None)
    assert torch.equal(tokenise(text, broken), ids)
    tokenizer = copy.deepcopy(embedding.tokenizer)
    tokenizer.add_tokens(["the cat"])
    other = _embedding(embedding.table, tokenizer, embedding.name)
    assert len(tokenise(text, other)) != len(ids)
    path.write_bytes(path.read_bytes()[:-8])
    assert torch.equal(tokenise(text, embedding), ids) and "made again" in capsys.readouterr().out
    with pytest.raises(ValueError, match="30,000 tokens were asked for"):
        first(ids, 30_000)


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
SETTINGS = recipe(batch=100, epochs=2, patience=0)
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


def place(folder):
    return Place(folder / "run")


@pytest.mark.parametrize("scoring", ["held", "full"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_makes_a_row_and_repeats(name, scoring, tmp_path):
    config = LanguageRun(choice(scoring=scoring), SOURCES[name], SETTINGS)
    rows = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        outcome = run_language(config, 0, place(folder))
        rows.append([row["valid_loss"] for row in outcome.tables["curve"]])
    assert rows[0] == rows[1] and len(rows[0]) == 2
    assert outcome.row["test_ppl"] > 1 and outcome.row["updates"] == 6
    assert ("held_test_ppl" in outcome.row) == (scoring == "full")


def test_every_type_of_the_tokenizer_is_scored_or_only_those_of_the_text():
    full, held = (load_streams(choice(scoring=scoring)) for scoring in ("full", "held"))
    assert full.vocabulary.size == load_embedding("tiny").table.shape[0] > held.vocabulary.size
    assert int((full.test.outputs == UNSCORED).sum()) == 0
    left_out = int((held.test.outputs == UNSCORED).sum())
    assert left_out == round(120 * full.vocabulary.unscored_share(full.test.ids)) > 0


def saved_gpt2(folder):
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=1, n_positions=16)
    GPT2Model(config).save_pretrained(folder)
    load_embedding("tiny").tokenizer.save_pretrained(folder)
    return folder / "model.safetensors"


def without_table(weights):
    kept = {name: t for name, t in load_file(weights).items() if "wte" not in name}
    save_file(kept, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda weights: weights.unlink(), "cannot be read"),
        (lambda weights: weights.write_bytes(weights.read_bytes()[:-100]), "cannot be read"),
        (without_table, "no input embedding"),
        (lambda weights: [p.unlink() for p in weights.parent.glob("*token*")], "belong together"),
    ],
)
def test_a_folder_without_its_embedding_is_refused_in_one_sentence(tmp_path, spoil, sentence):
    weights = saved_gpt2(tmp_path)
    load_embedding.cache_clear()
    assert load_embedding(str(tmp_path)).table.shape == (300, 16)
    spoil(weights)
    load_embedding.cache_clear()
    with pytest.raises(BaseUnavailable, match=sentence):
        load_embedding(str(tmp_path))


def test_contexts_in_memory_and_contexts_made_when_read_train_alike(tmp_path, monkeypatch):
    config = LanguageRun(choice(), SOURCES["documents"], SETTINGS)
    held = run_language(config, 0, place(tmp_path / "a"))
    monkeypatch.setattr(features, "IN_MEMORY", 0)
    made = run_language(config, 0, place(tmp_path / "b"))
    for name in ("val_ppl", "test_ppl", "er_pct"):
        assert made.row[name] == pytest.approx(held.row[name], rel=1e-4)


def test_a_block_is_trained_once_for_all_that_stand_on_it(tmp_path, monkeypatch):
    sizes = []
    real = run_phase_one
    monkeypatch.setattr(
        block_run, "run_phase_one", lambda *given: sizes.append(len(given[1])) or real(*given)
    )
    recurrent = SOURCES["trained"]
    ways = [recurrent, dataclasses.replace(recurrent, way="table"), SOURCES["memory"]]
    for number, source in enumerate(ways):
        here = Place(tmp_path / f"run{number}")
        run_language(LanguageRun(choice(valid_tokens=100 + number), source, SETTINGS), 0, here)
    run_agreement(
        AgreementRun(choice(test_tokens=110), recurrent, 2), 0, Place(tmp_path / "agreement")
    )
    assert sizes == [300]
    run_language(LanguageRun(choice(tokens=200), recurrent, SETTINGS), 0, place(tmp_path))
    assert sizes == [300, 200]


def test_agreement_is_with_contexts_that_begin_where_those_of_phase_one_did(tmp_path, monkeypatch):
    starts, outcomes = [], []
    real, block = agreement_run.sequential, agreement_run.trained_block
    monkeypatch.setattr(
        agreement_run, "sequential", lambda b, x, start: starts.append(start) or real(b, x, start)
    )
    monkeypatch.setattr(
        agreement_run, "trained_block", lambda *given: outcomes.append(block(*given)) or outcomes[0]
    )
    found = run_agreement(AgreementRun(choice(), SOURCES["trained"], 2), 0, place(tmp_path))
    assert starts == [outcomes[0].start]
    curve = {line["tokens_seen"]: line["cos"] for line in found.tables["forgetting"]}
    assert found.row["cos_after_3"] == curve[3] != curve[1]
    agreed = [seen for seen, cos in curve.items() if cos >= 0.99]
    assert found.row["memory_tokens"] == (min(agreed) if agreed else None)


def test_a_killed_run_reads_its_contexts_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    config = LanguageRun(choice(), SOURCES["trained"], SETTINGS)
    job = Task(run_language, config, 0, {"variant": "x"})
    whole = run_one(job, tmp_path / "whole", task.CPU)
    runs = tmp_path / "killed"
    folder = runs / job.key()

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(language_run, "phase_two", stop)
        with pytest.raises(KeyboardInterrupt):
            run_one(job, runs, task.CPU)
        cache = folder / "checkpoint_contexts.safetensors"
        assert cache.is_file()
        cache.write_bytes(cache.read_bytes()[:-4] + b"\x00\x00\x00\x01")
        with pytest.raises(KeyboardInterrupt):
            run_one(job, runs, task.CPU)
        assert "made again" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr(block_run, "run_phase_one", stop)
        patched.setattr(language_run, "collect", stop)
        resumed = run_one(job, runs, task.CPU)
    metrics = [[row["valid_loss"] for row in r["tables"]["curve"]] for r in (resumed, whole)]
    assert metrics[0] == metrics[1]
    assert not list(folder.glob("checkpoint_contexts.safetensors"))


def test_a_damaged_block_is_set_aside_and_made_again(tmp_path, capsys):
    source = SOURCES["trained"]
    before = trained_block(source, choice().training(), 0, place(tmp_path))
    (path,) = tmp_path.glob("*/block.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    after = trained_block(source, choice().training(), 0, place(tmp_path))
    assert torch.equal(before.table, after.table) and "made again" in capsys.readouterr().out


def test_a_cache_that_does_not_fit_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10)
    with pytest.raises(files.NoRoom, match="table of Phase 1 needs"):
        run_language(LanguageRun(choice(), SOURCES["trained"], SETTINGS), 0, place(tmp_path))
    with pytest.raises(files.NoRoom, match="cache of contexts needs"):
        run_language(LanguageRun(choice(), SOURCES["random"], SETTINGS), 0, place(tmp_path))


def test_the_key_follows_the_hash_of_the_embedding_and_not_where_it_is():
    def key(**changes):
        return run_key(
            run_language, LanguageRun(choice(**changes), SOURCES["trained"], SETTINGS), 0
        )

    assert key() == key(embedding="elsewhere")
    assert len({key(), key(embedding_sha256="0" * 64), key(tokens=200), key(scoring="full")}) == 4
    block = BlockRun(choice().training(), SOURCES["table"].cell())
    assert block.cell == SOURCES["documents"].cell() == SOURCES["trained"]


def test_the_clock_times_every_way_of_one_block(tmp_path):
    names = ("sequential", "documents", "parallel", "table")
    choices = tuple(SOURCES[way] for way in ("trained", *names[1:]))
    found = run_clock(CollectionClock(choice(), choices, names), 0, place(tmp_path)).tables["clock"]
    assert tuple(row["way"] for row in found) == names
    assert all(row["collect_seconds"] > 0 for row in found)
    with pytest.raises(ValueError, match="at least one"):
        CollectionClock(choice(), (), ())


def test_the_clock_walks_the_sequential_way_token_by_token(tmp_path, monkeypatch):
    """Also where a text is long enough for lanes, which ``exact`` would take unseen."""
    walked, real = [], sources.steps
    monkeypatch.setattr(sources, "steps", lambda block, x: walked.append(len(x)) or real(block, x))
    monkeypatch.setattr(sources, "exact", lambda *given, **least: pytest.fail("lanes were tried"))
    run_clock(CollectionClock(choice(), (SOURCES["trained"],), ("sequential",)), 0, place(tmp_path))
    assert set(walked) == {300}


def test_unigram_row_is_a_perplexity():
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


def test_ultrachat_rows_are_joined_as_in_the_report(monkeypatch):
    assert ultrachat.join_rows(ROWS, 15) == "hello\ntheresecond"[:15]
    with pytest.raises(ValueError, match="hold 17"):
        ultrachat.join_rows(ROWS, 100)
    asked = []
    monkeypatch.setattr(ultrachat, "_rows", lambda split: asked.append(split) or iter(ROWS * 9))
    corpus = ultrachat.load_ultrachat(12, 6, 5)
    assert corpus.name == "ultrachat" and corpus.train == "hello\ntheres"
    assert corpus.valid + corpus.test == "hello\nthere" and asked == ["train_sft", "test_sft"]


def test_ultrachat_without_hub_says_what_is_allowed(monkeypatch):
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "the hub does not answer")
    with pytest.raises(CorpusUnavailable, match="wikitext-2"):
        ultrachat.load_ultrachat(10, 10, 10)


def test_the_pinned_revision_is_what_is_asked_for(monkeypatch):
    seen = {}
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "")
    fake = types.SimpleNamespace(load_dataset=lambda name, **options: seen.update(options) or [])
    monkeypatch.setitem(__import__("sys").modules, "datasets", fake)
    assert list(ultrachat._rows("train_sft")) == []
    assert seen["revision"] == ultrachat.REVISION and len(seen["revision"]) == 40


def test_a_hub_that_breaks_off_between_rows_is_named(monkeypatch):
    def rows():
        yield ROWS[0]
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(fetch, "hub_refusal", lambda: "")
    fake = types.SimpleNamespace(load_dataset=lambda name, **options: rows())
    monkeypatch.setitem(__import__("sys").modules, "datasets", fake)
    with pytest.raises(CorpusUnavailable, match="reset by peer"):
        ultrachat.join_rows(ultrachat._rows("train_sft"), 100)
