"""A run against the committed tables: what agrees, what does not, and what was not run."""

import json
import multiprocessing

import numpy as np
import pandas as pd
import pytest
from conftest import load_tool

from lib.results import store, verified
from lib.results.store import Results
from lib.results.verify import compare, lack

tool = load_tool("results")


def tables(**columns) -> Results:
    """Two variants of one seed, with a curve of two epochs."""
    main = pd.DataFrame({"variant": ["a", "b"], "corpus": "repeated", "size": "small", "seed": 0})
    main = main.assign(run_id=["x", "y"], test_ppl=[9.0, 8.0], seconds=[1.0, 2.0], rule="gate")
    main["params"] = 100
    curve = pd.concat([main.drop(columns="test_ppl")] * 2).assign(val_ppl=[9.5, 9.1, 8.5, 8.1])
    return Results("98_small", {"": main.assign(**columns), "curve": curve})


def verdicts(yours: Results, ours: Results) -> dict[tuple[str, str], str]:
    found = compare(yours, ours)
    return dict(zip(zip(found["table"], found["variant"], strict=True), found["verdict"],
                    strict=True))  # fmt: skip


ALL_EQUAL = {(table, variant): "equal" for table in ("main", "curve") for variant in "ab"}


@pytest.mark.parametrize(
    ("columns", "verdict"),
    [
        ({}, "equal"),
        ({"seconds": [7.0, 7.0], "run_id": ["p", "q"]}, "equal"),
        ({"speedup": [7.0, 7.0]}, "equal"),
        ({"ideal_speedup": [2.0, 3.0]}, "differs"),
        ({"times": [2, 3]}, "differs"),
        ({"test_ppl": [9.0 * (1 + 0.9e-5), 8.0]}, "equal"),
        ({"test_ppl": [9.0 * (1 + 1.1e-5), 8.0]}, "close"),
        ({"test_ppl": [9.0 * (1 + 0.9e-3), 8.0]}, "close"),
        ({"test_ppl": [9.0 * (1 + 1.1e-3), 8.0]}, "differs"),
        ({"test_ppl": [9.1, 8.0]}, "differs"),
        ({"test_ppl": [np.nan, 8.0]}, "differs"),
        ({"rule": ["oracle", "gate"]}, "differs"),
    ],
)
def test_a_verdict_says_how_far_the_numbers_of_a_row_are_apart(columns, verdict):
    ours = tables(**{name: [3.0, 3.0] for name in columns if name.endswith(("speedup", "times"))})
    assert verdicts(tables(**columns), ours) == {**ALL_EQUAL, ("main", "a"): verdict}


def test_a_column_that_no_committed_row_of_the_text_has_is_not_compared_but_named():
    ours, yours = tables(more=np.nan), tables(more=[1.0, 2.0])
    assert verdicts(yours, ours) == ALL_EQUAL
    assert lack(yours, ours) == {("main", "repeated", "small"): ["more"]}
    for more in ([1.0, np.nan], [np.nan, 2.0]):
        assert lack(yours, tables(more=more)) == {}
        assert list(verdicts(yours, tables(more=more)).values()).count("differs") == 1
    assert verdicts(tables(), tables(more=[1.0, 2.0]))["main", "a"] == "not run"


def summed(yours: Results) -> pd.DataFrame:
    return verified.summary("98_small", compare(yours, tables(**ABOUT)), yours)


ABOUT = {"seconds": [20.0, 30.0], "commit": "abc", "torch": "2.13.0"}


@pytest.mark.parametrize(
    ("columns", "verdict", "mark"),
    [
        ({"test_ppl": [9.1, 8.0]}, "differs", "≠"),
        ({"test_ppl": [9.0 * (1 + 1e-4), 8.0]}, "close", "≈"),
        ({}, "equal", "="),
    ],
)
def test_what_was_verified_is_told_in_marks(columns, verdict, mark, tmp_path):
    row = summed(tables(**ABOUT, **columns))
    assert row[["main", "verdict"]].to_numpy().tolist() == [[verdict, verdict]]
    verified.keep(row.assign(size="full"), tmp_path / "verified.csv")
    assert verified.told(tmp_path / "verified.csv") == f"{mark} 98 (1)"


def test_a_further_table_and_a_row_that_was_not_run_have_a_say_in_the_verdict():
    yours = tables(**ABOUT)
    yours.frames["curve"] = yours("curve").assign(val_ppl=9.0)
    assert summed(yours)[["main", "verdict"]].iloc[0].tolist() == ["equal", "differs"]
    less = tables(**ABOUT)
    less.frames[""] = less()[:1]
    assert summed(less)[["main", "verdict"]].iloc[0].tolist() == ["differs", "differs"]


def test_one_row_a_text_is_kept_and_the_front_page_tells_the_full_size_alone(tmp_path):
    path, row = tmp_path / "verified.csv", summed(tables(**ABOUT))
    full = row.assign(size="full", corpus="wikipedia")
    verified.keep(pd.concat([row, full.assign(main="close"), full], ignore_index=True), path)
    verified.keep(full.assign(corpus="repeated", main="differs"), path)
    held = pd.read_csv(path)[["corpus", "size", "main"]].agg(" ".join, axis=1)
    assert held.tolist() == [
        "repeated full differs",
        "repeated small equal",
        "wikipedia full equal",
    ]
    assert verified.told(path) == "= 98 (2); ≠ 98 `repeated`"
    verified.keep(full.assign(processor="arm64"), path)
    assert verified.told(path).startswith("= 98 on arm64 (1), 98 on ")


def _keep(path, worker):
    for number in range(10):
        verified.keep(summed(tables(**ABOUT)).assign(experiment=f"{worker}_{number}"), path)


def test_two_processes_that_verify_lose_no_row(tmp_path):
    path, start = tmp_path / "verified.csv", multiprocessing.get_context("spawn")
    others = [start.Process(target=_keep, args=(path, worker)) for worker in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0] and len(pd.read_csv(path)) == 20


def test_committed_rows_are_told_from_trained_ones():
    ours = tables(**ABOUT)
    part = tables(**ABOUT)
    part.frames[""] = part()[:1]
    assert verified.copied(part, ours)
    assert verified.copied(tables(**{**ABOUT, "seconds": [20.0, 31.0]}), ours)  # one is enough
    assert not verified.copied(tables(**{**ABOUT, "seconds": [21.0, 31.0]}), ours)
    assert not verified.copied(tables(**ABOUT, params=None), ours)  # counts are no trainings


def test_a_run_that_diverged_alike_is_equal():
    lost = tables(test_ppl=[np.inf, 8.0])
    assert verdicts(lost, lost) == ALL_EQUAL


def test_what_ours_has_and_yours_has_not_is_told_where_text_and_size_are_the_same():
    ours, yours = tables(), tables()
    other = {name: frame.assign(size="full") for name, frame in ours.frames.items()}
    ours.frames.update({n: pd.concat([f, other[n]]) for n, f in ours.frames.items()})
    assert verdicts(yours, ours) == ALL_EQUAL, "another size is no part of it"
    for name, frame in yours.frames.items():
        yours.frames[name] = frame[frame["variant"] == "a"]
    assert verdicts(yours, ours)["main", "b"] == verdicts(yours, ours)["curve", "b"] == "not run"
    del yours.frames["curve"]
    assert verdicts(yours, ours)["curve", "a"] == "not run"
    bare = Results("98_small", {"": tables()().drop(columns="test_ppl")})
    found = compare(bare, tables()).set_index(["table", "variant"]).loc[("main", "a")]
    assert (found["verdict"], found["where"]) == ("not run", "test_ppl")


def test_what_ours_has_not_is_missing():
    ours = tables()
    ours.frames["curve"] = ours("curve")[1:]
    del ours.frames[""]
    found = verdicts(tables(), ours)
    assert found == {**dict.fromkeys(ALL_EQUAL, "missing"), ("curve", "b"): "equal"}


def test_the_command_compares_the_size_that_was_asked_for(kept, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "TABLES", tmp_path / "committed")
    monkeypatch.setattr(tool, "chosen", lambda only: ["98_small"])
    ours = tables()
    store._write(tmp_path / "committed", "98_small", ours.frames)
    for size in ("full", "small"):
        folder = kept / "sets" / "98_small" / f"{size}-1"
        about = {"experiment": "98_small", "size": size, "outstanding": 0, "written": "2026-01-01",
                 "parameters": {}, "texts": [], "runs": 2}  # fmt: skip
        frames = {n: f.assign(size=size) for n, f in ours.frames.items()}
        store._write(folder, "98_small", frames)
        (folder / "set.json").write_text(json.dumps(about))
        folder.with_name(f"{folder.name}.lock").touch()
    kept_rows = []
    monkeypatch.setattr(verified, "keep", kept_rows.append)
    text = ours.corpora[0]
    nothing = f"98_small: nothing to compare; run here: {text} full; committed: {text} small"
    for size, code in (("small", 0), ("full", nothing)):
        words = ["verify", "--only", "98", "--size", size]
        for argv in (words, [*words, "--record"]) if code else (words,):
            monkeypatch.setattr("sys.argv", ["results.py", *argv])
            with pytest.raises(SystemExit) as end:
                tool.main()
            assert end.value.code == code, capsys.readouterr().out
    assert kept_rows == [], "what was not compared is not recorded"
    monkeypatch.setattr("sys.argv", ["results.py", "verify", "--only", "98", "--size", "third"])
    with pytest.raises(SystemExit, match="98_small was not run here at the third size; `make rep"):
        tool.main()
