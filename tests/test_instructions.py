"""Instruction records: where they come from is said, and their parts share nothing."""

import json

import pytest

from lib.base.pretrained import load_base
from lib.text.corpus import CorpusUnavailable
from lib.text.instructions import load_instructions, split_records
from lib.text.records import Record, render
from lib.text.token_stream import joined_windows, record_chunks


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.delenv("DEPTH_DATA", raising=False)
    monkeypatch.setattr("lib.runs.fetch.hub_refusal", lambda: "the hub does not answer")


def test_templates_are_those_of_the_reports():
    record = Record("Add.", "1 2", "3")
    assert render(record, "response") == (
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3"
    )
    assert render(Record("Add.", "", "3"), "response") == (
        "### Instruction:\nAdd.\n\n### Response:\n3"
    )
    assert render(Record("Add.", "", "3"), "plain") == "Add.\n\n3"
    with pytest.raises(ValueError, match="allowed"):
        render(record, "chat")


def test_a_local_file_is_read(tmp_path):
    folder = tmp_path / "alpaca"
    folder.mkdir()
    rows = [{"instruction": "A", "input": "", "output": "B"}] * 3
    (folder / "some.json").write_text(json.dumps(rows))
    found = load_instructions("local", str(tmp_path))
    assert found.name == "alpaca_some" and found.records == (Record("A", "", "B"),) * 3


def test_of_two_files_none_is_chosen(tmp_path):
    for name in ("alpaca_a.json", "alpaca_b.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(ValueError, match="holds 2 JSON files; one is allowed"):
        load_instructions("local", str(tmp_path))


def test_an_input_of_null_is_no_input(tmp_path):
    (tmp_path / "alpaca.json").write_text('[{"instruction": "A", "input": null, "output": "B"}]')
    assert load_instructions("local", str(tmp_path)).records == (Record("A", "", "B"),)


def test_no_answer_of_the_embedded_records_is_part_of_another():
    outputs = [record.output for record in load_instructions("embedded").records]
    longest = sorted(outputs, key=len)[-12:]
    assert not any(short in long for long in longest for short in outputs if short != long)


def test_what_is_not_there_fails_loudly(nowhere):
    for source in ("local", "hub", "auto"):
        with pytest.raises(CorpusUnavailable):
            load_instructions(source)
    with pytest.raises(ValueError, match="allowed"):
        load_instructions("wikipedia")


def test_embedded_records_are_fixed_and_different():
    first, second = load_instructions("embedded"), load_instructions("embedded")
    assert first.sha256 == second.sha256
    assert len(set(first.records)) == len(first.records) == 108


def test_the_parts_share_no_record():
    corpus = load_instructions("embedded")
    parts = split_records(corpus, (0.6, 0.2, 0.2))
    assert sum(map(len, parts.values())) == 108
    whole = [record for part in parts.values() for record in part]
    assert len(whole) == len(set(whole)) == 108
    assert parts["train"] != corpus.records[:65], "they are shuffled"
    assert split_records(corpus, (0.6, 0.2, 0.2), None)["train"] == corpus.records[:65]
    with pytest.raises(ValueError, match="sum 1"):
        split_records(corpus, (0.6, 0.2, 0.1))


def test_the_stream_is_joined_by_end_tokens_and_labels_are_the_next_tokens():
    tokenizer = load_base("tiny").tokenizer
    texts = ["one two three", "four", "five six seven eight nine"]
    ids = [i for t in texts for i in [*tokenizer(t).input_ids, 2]]
    windows = joined_windows(texts, tokenizer, 8)
    count = (len(ids) - 1) // 8
    assert windows.inputs.flatten().tolist() == ids[: 8 * count]
    assert windows.labels.flatten().tolist() == ids[1 : 8 * count + 1]
    with pytest.raises(ValueError, match="were asked for"):
        windows.first(99)


def test_chunks_start_with_their_record_and_short_ones_give_nothing():
    tokenizer = load_base("tiny").tokenizer
    long, short = "abcdefghij" * 3, "abc"
    ids = tokenizer(long).input_ids
    chunks = record_chunks([short, long], tokenizer, 8)
    expected = [ids[s : s + 9] for s in range(0, len(ids) - 8, 8)]
    assert chunks.inputs.tolist() == [c[:8] for c in expected]
    assert chunks.labels.tolist() == [c[1:] for c in expected]
    assert all(len(c) == 9 for c in expected)
    with pytest.raises(ValueError, match="no text"):
        record_chunks([short], tokenizer, 8)
