"""Where text comes from is never silent, and a missing hub is noticed within seconds."""

import hashlib

import pytest
import torch

from lib.runs import fetch
from lib.text import corpus as corpora
from lib.text import wikipedia
from lib.text.alphabet import Alphabet
from lib.text.corpus import CorpusUnavailable, TooShort, load_corpus
from lib.text.records import embedded_texts
from lib.text.windows import Windows


@pytest.fixture(autouse=True)
def no_folder_and_no_hub(monkeypatch):
    """Every test says itself what can be reached."""
    monkeypatch.delenv("DEPTH_DATA", raising=False)
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "the hub does not answer")

    def refuse():
        raise CorpusUnavailable("the package index does not answer")

    monkeypatch.setattr(wikipedia, "articles", refuse)


def folder(tmp_path, monkeypatch, **files):
    """A wikitext-2 folder with invented text, whose validation hash is made the expected one."""
    home = tmp_path / "wikitext-2"
    home.mkdir()
    for name, text in files.items():
        (home / f"{name}.txt").write_bytes(text.encode())
    digest = hashlib.sha256(files["validation"][:5_000].encode()).hexdigest()
    monkeypatch.setattr(corpora, "VALID_SHA256", digest)
    return tmp_path


LONG = "".join(f"sentence {i} .\n" for i in range(12_000))


def test_the_embedded_fallback_is_announced(capsys):
    corpus = load_corpus("auto")
    assert corpus.name == "python-docs"
    assert "Wikipedia is not to be had (the package index" in capsys.readouterr().out
    assert len(corpus.train) == 20_000 and len(corpus.valid) == 5_000


def test_too_long_a_part_of_the_text_at_hand_takes_no_other_text(monkeypatch, capsys):
    parts = {"train": "a" * 50, "valid": "b" * 50, "test": "c" * 50}
    monkeypatch.setattr(corpora, "splits", lambda: parts)
    with pytest.raises(TooShort, match="train_chars is 90; at most 50"):
        load_corpus("auto", train_chars=90, valid_chars=9, test_chars=9)
    assert "python-docs" not in capsys.readouterr().out


def test_the_text_written_here_needs_nothing():
    corpus = load_corpus("embedded", "", 2_000, 1_000, 1_000)
    assert corpus.name == "embedded" and len(corpus.test) == 1_000
    assert load_corpus("embedded", "", 2_000, 1_000, 1_000).sha256 == corpus.sha256


def test_the_parts_of_a_text_are_the_whole_text_once():
    whole = load_corpus("embedded", "", 10**7, 10**7, 10**7, at_most=True)
    assert whole.train + whole.valid + whole.test == "\n\n".join(embedded_texts())


def test_demanding_what_is_not_there_stops():
    with pytest.raises(CorpusUnavailable, match="no data folder is set, and .* hub does not"):
        load_corpus("wikitext-2")
    with pytest.raises(CorpusUnavailable, match="the package index does not answer"):
        load_corpus("wikipedia")
    with pytest.raises(CorpusUnavailable, match="does not exist"):
        load_corpus("wikitext-2", "no/such/folder")
    with pytest.raises(ValueError, match="allowed: auto"):
        load_corpus("wikitext")


def test_a_folder_with_train_is_used_whole(tmp_path, monkeypatch):
    home = folder(tmp_path, monkeypatch, train=LONG, validation=LONG[::-1])
    monkeypatch.setenv("DEPTH_DATA", str(home))
    corpus = load_corpus("wikitext-2", "", 300, 200, 100)
    assert corpus.name == "wikitext-2" and corpus.train == LONG[:300]
    assert corpus.test == LONG[::-1][100_000:100_100]
    assert corpus.sha256 != load_corpus("wikitext-2", "", 300, 200, 101).sha256
    with pytest.raises(ValueError, match="valid_chars is 100,001; at most 100,000"):
        load_corpus("wikitext-2", "", 300, 100_001, 100)  # it would reach into the test slice


def test_a_folder_without_train_says_stand_in(tmp_path, monkeypatch):
    home = folder(tmp_path, monkeypatch, test=LONG, validation=LONG[::-1])
    corpus = load_corpus("wikitext-2", str(home / "wikitext-2"), 300, 200, 100)
    assert corpus.name == "wikitext-2-standin" and "in place of train" in corpus.describe()


def test_a_file_that_differs_beyond_its_beginning_is_said_aloud(tmp_path, monkeypatch, capsys):
    home = folder(tmp_path, monkeypatch, test=LONG, validation=LONG[::-1])
    load_corpus("wikitext-2", str(home), 300, 200, 100)
    said = capsys.readouterr().out
    assert "validation.txt is not the known valid file of WikiText-2: its hash is " in said
    assert "test.txt is not the known test file" in said
    known = hashlib.sha256(LONG.encode()).hexdigest()
    monkeypatch.setattr(corpora, "KNOWN", {"test": known})
    load_corpus("wikitext-2", str(home), 300, 200, 100)
    assert "is not the known" not in capsys.readouterr().out


def test_hub_rows_become_the_original_text(monkeypatch):
    import datasets

    rows = {"text": ["", " = Title = \n", ""] + [" word word\n"] * 20_000}
    monkeypatch.setattr(fetch, "hub_refusal", lambda: "")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or rows)
    text = corpora._from_hub("train")
    assert text.startswith(" \n = Title = \n \n word word\n")
    assert asked[0][1]["revision"] == corpora.REVISION and len(corpora.REVISION) == 40


def test_training_slices_can_be_disjoint():
    slices = [
        load_corpus("python-docs", "", 300, 200, 100, train_offset=300 * i).train for i in range(3)
    ]
    assert "".join(slices) == load_corpus("python-docs", "", 900, 200, 100).train
    with pytest.raises(ValueError, match="train_chars is 300; at most 0"):
        load_corpus("python-docs", "", 300, train_offset=90_000_000)
    for name, offset in (("python-docs", -1), ("repeated", 300)):
        with pytest.raises(ValueError, match="train_offset"):
            load_corpus(name, train_offset=offset)


def test_repeated_text_is_that_of_the_report():
    corpus = load_corpus("repeated")
    assert (len(corpus.train), len(corpus.valid), len(corpus.alphabet)) == (19_980, 5_112, 30)
    assert "A" not in corpus.train and corpus.test == ""
    windows = Windows.cut(corpus.alphabet.encode(corpus.train), 64).whole_batches(16)
    assert len(windows) == 304 and len(set(map(tuple, windows.inputs.tolist()))) == 45
    valid = Windows.cut(corpus.alphabet.encode(corpus.valid), 64).whole_batches(16)
    assert valid.targets.numel() == 4_096 and len(set(map(tuple, valid.inputs.tolist()))) == 9


def test_alphabet_round_trip_and_unknown():
    alphabet = Alphabet()
    assert len(alphabet) == 97
    assert alphabet.decode(alphabet.encode("Tab\tand\nline")) == "Tab\tand\nline"
    assert alphabet.encode("é").tolist() == [0] and alphabet.unknown("é1é") == 2


def test_windows_have_a_true_next_symbol():
    windows = Windows.cut(torch.arange(20_000), 64)
    assert len(windows) == 312 and torch.equal(windows.targets, windows.inputs + 1)
    assert [len(x) for x, _ in windows.batches(16)] == [16] * 19 + [8]
    shuffled = torch.cat([x for x, _ in windows.batches(16, torch.Generator().manual_seed(1))])
    assert not torch.equal(shuffled, windows.inputs)
    assert torch.equal(shuffled.sort(0).values, windows.inputs)
    with pytest.raises(ValueError, match="do not fill one window"):
        Windows.cut(torch.arange(64), 64)


def test_a_part_that_is_shorter_than_asked_for_is_refused_or_taken_whole():
    asked = ("embedded", "", 10**7, 10**7, 10**7)
    with pytest.raises(TooShort, match="train_chars is 10,000,000; at most"):
        load_corpus(*asked)
    whole = load_corpus(*asked, at_most=True)
    assert whole.train and whole.valid and whole.test and len(whole.train) < 10**7
