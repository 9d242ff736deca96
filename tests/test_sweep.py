"""Each task runs once, alone or beside others with the same numbers, and nothing is lost."""

import json
from dataclasses import replace
from importlib.metadata import version

import pytest

from lib.character.models.transformer import TransformerConfig
from lib.runs.places import closure, closure_hash
from lib.results.schema import SchemaError, check
from lib.character import character_run
from lib.character.character_run import CharacterRun
from lib.training.fit import Training
from lib.character.objectives import Standard
from lib.runs.sweep import Task, fingerprint, sweep


@pytest.fixture
def tasks(corpus):
    config = CharacterRun(corpus, TransformerConfig(97), Standard(), Training(epochs=1))
    labels = {"experiment": "exp03", "variant": "Standard"}
    return [Task(character_run.run, config, seed, labels) for seed in (0, 1)]


def numbers(outcomes):
    return [(o.row["val_ppl"], o.row["test_ppl"], o.row["run_id"]) for o in outcomes]


def test_parallel_equals_plain_and_finished_runs_are_read(tasks, tmp_path, capsys):
    plain = sweep(tasks, 1, tmp_path / "plain")
    beside = sweep(tasks, 2, tmp_path / "parallel")
    assert numbers(plain) == numbers(beside)
    capsys.readouterr()
    again = sweep(tasks, 1, tmp_path / "plain")
    assert numbers(again) == numbers(plain)
    assert "2 of 2 runs are on disk already" in capsys.readouterr().out
    assert (tmp_path / "plain" / tasks[0].run_id / "curve.csv").is_file()


def test_a_corrupt_record_is_named_not_skipped(tasks, tmp_path):
    sweep(tasks[:1], 1, tmp_path)
    (tmp_path / tasks[0].run_id / "run.json").write_text("{")
    with pytest.raises(RuntimeError, match=f"record of run {tasks[0].run_id} is corrupt"):
        sweep(tasks[:1], 1, tmp_path)


def test_the_run_id_names_what_is_computed(tasks):
    first, second = tasks
    assert first.run_id != second.run_id
    relabelled = replace(first, labels={"experiment": "exp04", "variant": "other"})
    assert relabelled.run_id == first.run_id
    deeper = replace(first, config=replace(first.config, model=TransformerConfig(97, layers=2)))
    assert deeper.run_id != first.run_id


def test_the_code_hash_follows_imports_and_ignores_words(tasks):
    reached = closure("lib.character.character_run")
    assert {"lib.training.fit", "lib.text.corpus", "lib.training.checkpoint"} <= reached
    assert "lib.figures.style" not in reached and "lib.runs.sweep" not in reached
    assert tasks[0].code_hash == closure_hash(
        "lib.character.character_run",
        "lib.character.models.transformer",
        "lib.text.alphabet",
        "lib.text.corpus",
        "lib.training.fit",
        "lib.character.objectives",
    )


def test_the_code_hash_ignores_docstrings_only(tmp_path, monkeypatch):
    from lib import provenance

    (tmp_path / "lib").mkdir()
    hashes = []
    for text in ('"""One."""\nX = 1\n', '"""Two."""\n# note\nX = 1\n', '"""One."""\nX = 2\n'):
        (tmp_path / "lib" / "m.py").write_text(text)
        monkeypatch.setattr(provenance, "ROOT", tmp_path)
        provenance.closure_hash.cache_clear()
        hashes.append(provenance.closure_hash("lib.m"))
    provenance.closure_hash.cache_clear()
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_configuration_without_a_stable_description_is_refused():
    with pytest.raises(TypeError, match="cannot hold a object"):
        fingerprint({"thing": object()})


def test_records_hold_their_configuration(tasks, tmp_path):
    sweep(tasks[:1], 1, tmp_path)
    record = json.loads((tmp_path / tasks[0].run_id / "run.json").read_text())
    assert record["config"]["model"]["class"] == "TransformerConfig"
    assert record["config"]["corpus"]["sha256"] == tasks[0].config.corpus.sha256
    assert record["environment"]["torch"] and record["row"]["updates"] > 0


def test_a_row_names_the_torch_its_run_was_made_with(tasks, tmp_path):
    assert sweep(tasks[:1], 1, tmp_path)[0].row["torch"] == version("torch")
    path = tmp_path / tasks[0].run_id / "run.json"
    record = json.loads(path.read_text())
    record["environment"]["torch"] = "2.6.0"
    path.write_text(json.dumps(record))
    assert sweep(tasks[:1], 1, tmp_path)[0].row["torch"] == "2.6.0"  # not that of the reader


def test_the_schema_refuses_bad_rows(tasks, tmp_path):
    import pandas as pd

    row = {**sweep(tasks[:1], 1, tmp_path)[0].row, "size": "tiny"}
    assert list(check(pd.DataFrame([row]))["variant"]) == ["Standard"]
    for change, rule in [
        ({"val_ppl": 0.0}, "finite and at least 1"),
        ({"val_ppl": float("inf")}, "finite and at least 1"),
        ({"corpus": "shakespeare"}, "corpus names begin"),
        ({"corpus_sha256": "abc"}, "64 hex digits"),
        ({"size": "huge"}, "size must be"),
        ({"seed": None}, "empty cells"),
    ]:
        with pytest.raises(SchemaError, match=rule):
            check(pd.DataFrame([{**row, **change}]))
    with pytest.raises(SchemaError, match="two rows"):
        check(pd.DataFrame([row, row]))
