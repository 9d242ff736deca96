"""A full run takes a notebook's place when it has come to its end, and not before."""

import fcntl

import nbformat
import pytest
from test_notebooks import tool

from lib.runs.places import ROOT

NAME = "03_iterative_refinement.ipynb"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """``run(source) -> (path, bytes before, failure)`` of a notebook with one cell, full size."""
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)

    def start(source: str):
        path = tmp_path / NAME
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
        before = path.read_bytes()
        return path, before, tool.execute(path, "full", 1)[2]

    return start


def test_a_finished_run_takes_the_place_without_traces(run, tmp_path):
    path, before, failure = run("print(6 * 7)")
    assert failure == ""
    book = nbformat.read(path, as_version=4)
    assert book.cells[0].outputs[0].text == "42\n" and book.cells[0].execution_count == 1
    assert book.metadata["provenance"]["cells"] == tool.identity(path)["cells"]
    assert tool.faults(path) == ["it holds no figure"]
    assert [found.name for found in tmp_path.glob("*.*")] == [NAME], "nothing partial is left"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise RuntimeError('no luck')", "no luck"),
        ("import os; os.kill(os.getppid(), 9)", "exit -9 (killed: out of memory?)"),
        ("import os; os.kill(os.getpid(), 9)", "exit 138 (killed: out of memory?)"),
        (f"from pathlib import Path; Path({NAME!r}).open('a').write(' ')", "edited while it ran"),
    ],
    ids=["error", "killed", "kernel killed", "edited"],
)
def test_a_run_that_fails_leaves_the_notebook_as_it_was(run, source, sentence, tmp_path):
    path, before, failure = run(source)
    assert sentence in failure
    assert path.read_bytes().rstrip() == before.rstrip()
    assert (tmp_path / "results" / "full" / "notebooks" / NAME).is_file()


def test_a_full_run_shows_its_lines_and_a_second_one_keeps_away(run, tmp_path, capfd):
    lock = tmp_path / "results" / "full" / "notebooks" / NAME.replace(".ipynb", ".lock")
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        path, before, failure = run("print(6 * 7)")
        assert "another process is running it" in failure and path.read_bytes() == before
    assert run("print(6 * 7)")[2] == ""
    assert "42" in capfd.readouterr().out


def test_the_gate_sees_what_papermill_leaves_in_the_metadata(tmp_path, monkeypatch):
    path = tmp_path / NAME
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    book.metadata["papermill"] = {"input_path": "/" + "home/me/x.ipynb"}
    for pending in (set(), {path.stem}):
        monkeypatch.setattr(tool.registry, "pending", lambda pending=pending: pending)
        nbformat.write(book, path)
        found = tool.faults(path)
        assert "its metadata hold papermill" in found
        assert "its metadata hold a path of the machine it ran on" in found
    book.metadata.pop("papermill")
    book.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
    nbformat.write(book, path)
    assert "its metadata hold execution" in tool.faults(path)


def test_prepare_clears_a_copied_notebook_that_is_pending_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / NAME
    for pending in (set(), {path.stem}):
        path.write_bytes((ROOT / "notebooks" / NAME).read_bytes())
        monkeypatch.setattr(tool.registry, "pending", lambda pending=pending: pending)
        tool.prepare(path)
        book = nbformat.read(path, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        kept = any(cell.outputs or cell.execution_count for cell in code)
        assert kept == ("provenance" in book.metadata) == (not pending)
    assert tool.faults(path) == []
