"""Tables: sets in folders of their own, replaced as one, published by text and size."""

import dataclasses
import json
import multiprocessing
import os
import signal
import time

import pandas as pd
import pytest
from small_experiment import Smalls, SmallVariant, experiment
from small_runs import Text, task

from lib import registry
from lib.parameters import ParameterError, words
from lib.results import scoreboard, store
from lib.results.schema import COLUMNS, SchemaError, check
from lib.results.store import Absent, Results, assemble, save_set
from lib.runs import files, places, sweep

SLUG = "98_small"


@pytest.fixture(autouse=True)
def tables(kept, tmp_path, monkeypatch):
    """Committed tables of each test's own."""
    monkeypatch.setattr(store, "TABLES", tmp_path / "results")
    return tmp_path / "results"


def record(value: float = 9.0, corpus: str = "embedded", digit: str = "a", **row) -> dict:
    """A finished record as a sweep gives it."""
    about = {"seconds": 1.0, "device": "cpu", "code_hash": "c" * 12, "commit": "123456789"}
    own = {"corpus": corpus, "corpus_sha256": digit * 64, "val_ppl": value, "test_ppl": value}
    key = row.pop("key", f"{value}{corpus}{digit}")
    curve = [{"epoch": 1, "val_ppl": value}, {"epoch": 2, "val_ppl": value}]
    return {"key": key, "row": {**about, **own, **row}, "tables": {"curve": curve}}


def results(value: float = 9.0, size: str = "full", **more) -> Results:
    """Tables of two seeds in which every number is ``value``."""
    pairs = [(task("a", seed), record(value, key=f"{value}-{seed}", **more)) for seed in (0, 1)]
    return Results(SLUG, assemble(pairs, size))


def test_a_set_comes_back_as_it_was_written():
    e = experiment()
    made = e.run(e.parameters(seeds=2))
    again = store.load_set(made.folder)
    assert again.slug == SLUG and again.folder == made.folder and again.outstanding == 0
    assert again.frames.keys() == {"", "curve", "side"} == made.frames.keys()
    for name, frame in made.frames.items():
        text = frame.to_csv(index=False, float_format="%.6g")
        assert again.frames[name].to_csv(index=False, float_format="%.6g") == text
    assert list(again().columns[: len(COLUMNS)]) == list(COLUMNS)
    (about,) = store.all_sets()
    assert about["runs"] == 6 and about["size"] == "quick" and about["folder"] == made.folder


def test_each_set_of_parameters_has_a_folder_of_its_own():
    e = experiment()
    folders = {}
    for given in ({"seeds": 1}, {"seeds": 2}, {"seeds": 1, "epochs": 4}, {"epochs": 2, "seeds": 1}):
        made = e.run(e.parameters(**given))
        folders[made.folder] = made()
    assert len(folders) == 4 == len(store.all_sets())
    for folder, frame in folders.items():
        assert len(store.load_set(folder)()) == len(frame)
    before = {f: (f / f"{SLUG}.csv").read_bytes() for f in folders}
    assert e.run(e.parameters(seeds=2)).folder in folders
    assert {f: (f / f"{SLUG}.csv").read_bytes() for f in folders} == before


def test_a_run_that_ends_early_leaves_the_tables_of_what_is_there():
    e = experiment(base=SmallVariant(1.0, "Base"), bad=SmallVariant(2.0, "Bad", "fails"))
    with pytest.raises(RuntimeError, match="3 of 6 runs failed"):
        e.run(e.parameters())
    (about,) = store.all_sets()
    held = store.load_set(about["folder"])
    assert about["outstanding"] == held.outstanding == 3
    assert held()["variant"].tolist() == ["base"] * 3


def _rewrite(folder, value, keys):
    """Write the set again and again, every number the same."""
    parameters = experiment().parameters()
    for _ in range(100_000):
        pairs = [(task("a", s), record(value, key=f"{value}-{s}")) for s in (0, 1)]
        save_set(SLUG, parameters, keys, pairs)


def test_readers_under_load_never_see_a_mix_and_five_writers_do_no_harm(tmp_path):
    keys = ["1", "2"]
    folder = store.set_folder(SLUG, "full", keys)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_rewrite, args=(folder, v, keys)) for v in (1, 2, 3, 4, 5)]
    for writer in writers:
        writer.start()
    try:
        end = time.monotonic() + 30
        while not folder.is_dir():
            assert time.monotonic() < end
        seen, reads = set(), 0
        while len(seen) < 3 or reads < 20:
            assert time.monotonic() < end
            found = store.load_set(folder)
            values = set(found()["val_ppl"]) | set(found("curve")["val_ppl"])
            assert len(values) == 1, "one writer's main table beside another's curve"
            assert len(store.all_sets()) == 1
            seen |= values
            reads += 1
    finally:
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
    pairs = [(task("a", 0), record(7.0))]
    save_set(SLUG, experiment().parameters(), keys, pairs)
    assert store.load_set(folder)()["val_ppl"].tolist() == [7.0]
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == [folder.name, f"{folder.name}.lock"], "what the killed left is cleared"


def test_publishing_replaces_the_same_text_and_size_and_nothing_else(tables):
    first = [("embedded", "full"), ("wikitext-2", "full"), ("embedded", "third")]
    for place, (corpus, size) in enumerate(first):
        store.publish(results(10.0 + place, size, corpus=corpus))
    assert store.publish(results(20.0, corpus="embedded")) == [f"{SLUG}.csv", f"{SLUG}_curve.csv"]
    held = store.committed(SLUG)
    for name in ("", "curve"):
        found = held(name).groupby(["corpus", "size"])["val_ppl"].unique().explode().to_dict()
        assert found == {
            ("embedded", "full"): 20.0,
            ("embedded", "third"): 12.0,
            ("wikitext-2", "full"): 11.0,
        }
    assert held.on("embedded").sizes == ["full", "third"], "the largest first"
    for size in ("quick", "tiny", "custom"):
        with pytest.raises(ValueError, match=f"size {size} is not published; allowed"):
            store.publish(results(1.0, size))
    assert sorted(p.name for p in tables.glob("*")) == [
        f".{SLUG}.lock", f"{SLUG}.csv", f"{SLUG}_curve.csv"
    ]  # fmt: skip


def test_a_variant_may_be_called_what_tables_take_for_nothing(kept):
    e = experiment()
    for name in ("null", "NA", "None"):
        pairs = [(task(name, 0), record(key=name))]
        made = save_set(SLUG, e.parameters(), [name], pairs)
        assert store.load_set(made.folder)()["variant"].tolist() == [name]


def test_a_word_among_numbers_is_refused_by_name(tables):
    store.publish(results())
    path = tables / f"{SLUG}.csv"
    text = path.read_text()
    path.write_text(text.replace(",9,9,", ",abc,9,", 1))
    assert path.read_text() != text
    with pytest.raises(SchemaError, match="98_small.csv has a val_ppl that is no number"):
        store.committed(SLUG)


def test_relative_folders_are_those_of_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEPTH_KEEP", "kept")
    monkeypatch.setenv("DEPTH_CACHE", "cached")
    assert (places.kept_folder(), places.cache_folder()) == (
        places.ROOT / "kept",
        places.ROOT / "cached",
    )


def test_rows_of_another_text_or_base_are_not_published_beside_those_that_stay():
    def made(name: str, **own) -> Results:
        pairs = [(task(name, 0), record(key=f"{name}{own}", **own))]
        return Results(SLUG, assemble(pairs, "full"))

    store.publish(made("a", base="wheel"))
    with pytest.raises(SchemaError, match="embedded, size full: these rows have corpus_sha256 bb"):
        store.publish(made("b", base="wheel", digit="b"))
    with pytest.raises(SchemaError, match="have base hub, the committed ones that stay wheel"):
        store.publish(made("b", base="hub"))
    assert set(store.committed(SLUG)()["variant"]) == {"a"}
    store.publish(made("b", base="wheel"))
    store.publish(made("b", base="wheel", digit="b", corpus="wikipedia"))
    longer = {"corpus": "wikipedia", "digit": "c", "train_chars": 50_000}
    store.publish(made("a", base="wheel", train_chars=20_000, corpus="wikipedia", digit="b"))
    store.publish(made("c", base="wheel", **longer))  # another part of the text
    with pytest.raises(SchemaError, match="wikipedia, size full: these rows have corpus_sha256 dd"):
        store.publish(made("d", base="wheel", **{**longer, "digit": "d"}))
    store.publish(made("c", digit="b"), variants=("c",))  # nothing else stays
    assert set(store.committed(SLUG)()["variant"]) == {"c"}


def test_some_variants_take_the_place_of_themselves_alone(tables, monkeypatch):
    """Rows of variants that were not run again stay; those of a variant that is gone go."""
    e = experiment(base=SmallVariant(1.0), worse=SmallVariant(2.0))
    e.variants["gone"] = SmallVariant(3.0, side=True)
    order, full = tuple(e.variants), e.parameters.at("full")
    store.publish(e.run(full), order)
    before = store.committed(SLUG)()
    e = dataclasses.replace(e, variants={**e.variants, "base": SmallVariant(9.0)})
    some = e.run(full, only=("base",))
    assert set(some()["variant"]) == {"base"}
    store.publish(some, order)
    shown = store.committed(SLUG)()
    assert list(shown["variant"].unique()) == ["base", "worse", "gone"]
    moved = (shown["val_ppl"] != before["val_ppl"]).groupby(shown["variant"]).any()
    assert moved.to_dict() == {"base": True, "worse": False, "gone": False}
    store.publish(some, order[:2])
    assert list(store.committed(SLUG)()["variant"].unique()) == ["base", "worse"]
    assert store.committed(SLUG).frames.keys() == {"", "curve"}, (
        "no rows of the variant's own table"
    )
    with pytest.raises(ParameterError, match="no variant bse; allowed: base, worse, gone"):
        e.run(full, only=("bse",))


@pytest.mark.parametrize("slug", registry.module_names())
def test_committed_rows_are_of_variants_that_exist(slug, monkeypatch):
    monkeypatch.undo()  # the repository's own tables
    if store.has_committed(slug):
        for table, frame in store.committed(slug).frames.items():
            strange = set(frame["variant"]) - set(registry.experiment(slug).variants)
            assert not strange, f"{slug} {table}: rows of {strange}"


def test_a_publisher_that_is_killed_half_way_leaves_no_mix(tables, monkeypatch):
    store.publish(results(1.0))
    real, moves = os.replace, []

    def mortal(source, target):
        moves.append(target)
        if len(moves) == 3:  # the new tables are complete, one of two is in its place
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", mortal)
        with pytest.raises(KeyboardInterrupt):
            store.publish(results(2.0))
    held = store.committed(SLUG)
    assert set(held()["val_ppl"]) == set(held("curve")["val_ppl"])
    assert not [p.name for p in tables.iterdir() if p.name.endswith((".ready", ".part"))]


def test_recorded_runs_come_back_from_the_committed_tables(tmp_path, monkeypatch, capsys):
    """All of them: side runs, a run of two variants, one of two sizes; nothing is trained."""
    marks = tmp_path / "marks"
    marks.mkdir()
    e = experiment(
        base=SmallVariant(1.0, "Base", mark=str(marks)),
        twin=SmallVariant(1.0, "Twin", mark=str(marks)),
        worse=SmallVariant(2.0, "Worse", side=True, mark=str(marks), factors={"layers": 2}),
    )
    full = e.run(e.parameters())
    store.publish(full)
    third = Results(SLUG, {name: f.assign(size="third") for name, f in full.frames.items()})
    store.publish(third)
    trained = {path.name: path.read_text() for path in marks.iterdir()}
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("DEPTH_RECORDED", "1")
    again = e.run(e.parameters())
    assert {path.name: path.read_text() for path in marks.iterdir()} == trained
    assert not (tmp_path / "elsewhere" / "runs").exists()
    for name in full.frames:
        pd.testing.assert_frame_equal(again(name), full(name), check_dtype=False, rtol=1e-5)


def test_some_seeds_are_trained_and_the_finished_rows_of_others_stay(tmp_path, monkeypatch):
    """So that two machines share an experiment: each publishes beside what is committed."""
    e = experiment(base=SmallVariant(1.0, "Base"), worse=SmallVariant(2.0, "Worse", side=True))
    full = e.parameters.at("full")
    store.publish(e.run(full, seeds=[1]))
    assert store.committed(SLUG)()["seed"].tolist() == [1, 1]
    monkeypatch.setenv("DEPTH_KEEP", str(tmp_path / "another machine"))
    monkeypatch.setenv("DEPTH_RECORDED", "1")
    store.publish(e.run(full, seeds=[0, 2], only=["worse"]))
    rows = store.committed(SLUG)()
    assert rows.groupby("variant")["seed"].agg(list).to_dict() == {"base": [1], "worse": [0, 1, 2]}
    assert store.committed(SLUG)("side")["seed"].tolist() == [0, 1, 2]
    with pytest.raises(ParameterError, match="has no seed 3 with these parameters; allowed: 0, 1"):
        e.run(full, seeds=[3])


def test_two_processes_with_seeds_of_their_own_keep_each_others_rows(monkeypatch):
    monkeypatch.setenv("DEPTH_RECORDED", "1")
    monkeypatch.setattr(sweep, "TOLD_SHARE", 1e9)
    e = experiment(base=SmallVariant(1.0, "Base"), worse=SmallVariant(2.0, "Worse", side=True))
    full, begun = e.parameters.at("full"), []

    def meanwhile(results):  # the other begins and ends while this one has some of its runs
        store.publish(results)
        if not begun:
            begun.append(True)
            store.publish(e.run(full, seeds=[0, 1]))

    store.publish(e.run(full, published=meanwhile, seeds=[2]))
    rows = store.committed(SLUG)()
    assert rows.groupby("variant")["seed"].agg(list).to_dict() == {v: [0, 1, 2] for v in e.variants}
    assert store.committed(SLUG)("side")["seed"].tolist() == [0, 1, 2]


def test_whole_numbers_keep_their_digits():
    """In a table, beside empty cells, and after it was published and merged."""
    big = 2**62 + 1
    pairs = [(task("a", 0), record(operations=big, key="x"))]
    pairs += [(task("b", 0), record(key="y")), (task("c", 0), record(operations=3, key="z"))]
    store.publish(Results(SLUG, assemble(pairs, "full")))
    store.publish(results(corpus="repeated"))
    rows = store.committed(SLUG)()
    found = rows[rows["corpus"] == "embedded"].set_index("variant")["operations"]
    assert int(found["a"]) == big and int(found["c"]) == 3 and pd.isna(found["b"])
    assert str(big) in (store.TABLES / f"{SLUG}.csv").read_text()


def test_whole_numbers_stay_whole_beside_a_variant_that_has_none():
    store.publish(Results(SLUG, assemble([(task("a", 0), record(best=7))], "full")))
    store.publish(Results(SLUG, assemble([(task("b", 0), record(best=None, key="y"))], "full")))
    store.publish(Results(SLUG, assemble([(task("b", 0), record(best=None, key="z"))], "full")))
    held = pd.read_csv(store.TABLES / f"{SLUG}.csv", dtype=str)
    assert held.set_index("variant")["best"].dropna().to_dict() == {"a": "7"}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({}, "ok"),
        ({"status": "diverged"}, "diverged"),
        ({"val_ppl": None, "test_ppl": None}, "ok"),
        ({"val_ppl": 99_000.0}, "ok"),
        ({"val_ppl": 2e6}, "diverged"),
        ({"test_ppl": 4e299, "status": "ok"}, "diverged"),
        ({"test_ppl": float("inf")}, "diverged"),
        ({"test_ppl": float("nan")}, "diverged"),
        ({"val_ppl": 350.0, "vocabulary": 180}, "ok"),
        ({"val_ppl": 370.0, "vocabulary": 180}, "diverged"),
    ],
)
def test_a_run_of_any_study_that_is_worse_than_blind_guessing_has_diverged(row, status):
    given = record()
    given["row"].update(row)
    assert assemble([(task("a"), given)], "full")[""]["status"].tolist() == [status]


def test_numbers_that_are_large_and_not_whole_come_back(recwarn):
    """Perplexities of diverged runs, which no whole number holds."""
    pairs = [(task("a", s), record(key=str(s), test_ppl=v)) for s, v in ((0, 3.5e20), (1, 1.5))]
    store.publish(Results(SLUG, assemble(pairs, "full")))
    assert store.committed(SLUG)()["test_ppl"].tolist() == [3.5e20, 1.5] and not recwarn.list


@pytest.mark.parametrize("commit", ["123456789", "12345e678", "001234567", "12345678e+"])
def test_a_commit_is_text_whatever_it_looks_like(commit):
    store.publish(Results(SLUG, assemble([(task("a"), record(commit=commit))], "full")))
    assert store.committed(SLUG)()["commit"].tolist() == [commit]


def test_what_is_absent_names_the_command():
    with pytest.raises(
        FileNotFoundError, match="98_small.csv is not there; `make reproduce NB=98`"
    ):
        store.committed(SLUG)
    with pytest.raises(FileNotFoundError, match="98_small_exits is not there; `make reproduce NB="):
        results()("exits")
    assert store.recorded(SLUG) == {} and not store.has_committed(SLUG)
    with pytest.raises(Absent, match="no single reported value for exp03, IRT, ppl"):
        store.reported_value("exp03", "IRT", "ppl")
    assert store.reported_value("exp03", "IRT", "best_val_ppl") == 11.52
    two = results()
    two.frames[""] = pd.concat([two(), results(corpus="repeated")()])
    assert two.on("repeated").corpus == "repeated"
    with pytest.raises(ValueError, match="holds 2 texts; choose one with"):
        _ = two.corpus


GOOD = {
    "experiment": "e", "variant": "a", "label": "A", "corpus": "embedded", "size": "full",
    "corpus_sha256": "a" * 64, "seed": 0, "run_id": "x", "status": "ok", "seconds": 1.0,
    "device": "cpu", "code_hash": "c", "val_ppl": 9.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"val_ppl": 0.0}, "val_ppl must be finite and at least 1"),
        ({"test_ppl": float("inf")}, "test_ppl must be finite"),
        ({"corpus": "shakespeare"}, "corpus names begin"),
        ({"corpus_sha256": "abc"}, "64 hex digits"),
        ({"size": "huge"}, "size must be one of full"),
        ({"status": "fine"}, "status must be ok or diverged"),
        ({"seed": None}, "column seed has empty cells"),
        ({"label": None}, "column label has empty cells"),
    ],
)
def test_rows_that_are_no_results_are_refused(change, rule):
    assert list(check(pd.DataFrame([GOOD])).columns[: len(COLUMNS)]) == list(COLUMNS)
    with pytest.raises(SchemaError, match=rule):
        check(pd.DataFrame([{**GOOD, **change}]))


def test_missing_columns_and_doubled_rows_are_refused():
    with pytest.raises(SchemaError, match="column device is missing"):
        check(pd.DataFrame([GOOD]).drop(columns="device"))
    with pytest.raises(SchemaError, match="two rows for one variant"):
        check(pd.DataFrame([GOOD, GOOD]))
    worst = {**GOOD, "status": "diverged", "val_ppl": float("inf"), "variant": "b"}
    assert len(check(pd.DataFrame([GOOD, worst]))) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name,value\na,1\nb,", "t.csv ends in the middle of a line"),
        ("name,value\n", "t.csv has no row"),
        ("name,value\na,1\n,2\n", "t.csv has a row without name"),
        ("name,value\na,1\nb,garbage\n", "t.csv has a value that is no number"),
        ("value\n1\n", "t.csv has no column name"),
        ("\n", "t.csv is no table of results"),
    ],
)
def test_a_table_that_is_not_whole_is_refused(text, sentence, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SchemaError, match=sentence):
        store.whole_table(path, ["name"], numbers=["value"])


def test_claims_and_reported_numbers_are_read_whole(tables, tmp_path, monkeypatch):
    tables.mkdir()
    for name in ("claims", "reported"):
        whole = (places.ROOT / "results" / f"{name}.csv").read_text()
        (tables / f"{name}.csv").write_text(whole[: len(whole) // 2].rstrip("\n"))
    monkeypatch.setattr(scoreboard, "PATH", tables / "claims.csv")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    for read in (scoreboard.saved, store.reported):
        with pytest.raises(SchemaError, match="ends in the middle of a line"):
            read()


def test_tables_are_published_by_one_process_at_a_time(monkeypatch):
    write = store._write

    def alone(*given):
        with pytest.raises(BlockingIOError), files.locked(store._lock(SLUG), wait=False):
            pass
        return write(*given)

    monkeypatch.setattr(store, "_write", alone)
    store.publish(results())


def test_a_full_disk_leaves_the_old_set(monkeypatch):
    e = experiment()
    made = e.run(e.parameters(seeds=1))
    before = {p.name: p.read_bytes() for p in made.folder.iterdir()}

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(files.NoRoom, match="the disk is full"):
            e.run(e.parameters(seeds=1))
    assert {p.name: p.read_bytes() for p in made.folder.iterdir()} == before
    assert len(list(made.folder.parent.iterdir())) == 2


class Placed(Smalls):
    """Parameters that name a folder of this machine."""

    data_dir: str = words("")


def test_a_set_says_what_it_is_and_names_no_folder_of_the_machine(tmp_path):
    e = dataclasses.replace(experiment(), parameters=Placed)
    given = e.parameters(seeds=1, data_dir=str(tmp_path))
    about = json.loads((e.run(given).folder / "set.json").read_text())
    assert about["parameters"]["seeds"] == 1 and about["texts"] == ["embedded"]
    assert str(tmp_path) not in json.dumps(about)
    other = dataclasses.replace(Text(), sha256="b" * 64)
    moved = e.run(e.parameters(seeds=1), [other])
    assert moved.folder != store.all_sets()[0]["folder"] or len(store.all_sets()) == 2
    assert places.shown(moved.folder).count("/") == 1


def test_rows_of_a_run_beside_another_go_with_it():
    who = {"corpus": "text", "size": "full", "seed": 0}
    main = pd.DataFrame([{"variant": v, **who, "run_id": v, "status": "ok"} for v in "ab"])
    beside = main.assign(run_id=["side a", "side b"], ppl=[1.0, 2.0])
    main.loc[0, "status"] = "diverged"
    results = store.Results("98_x", {"": main, "passes": beside})
    results.used.add("side a")
    assert results.looked_at()["run_id"].tolist() == ["a"]
    assert results.sound()("passes")["variant"].tolist() == ["b"]
