"""A run takes a notebook's place when it has come to its end, adopted, and not before."""

import fcntl
import os
import re
import shlex
import subprocess
import sys

import nbformat
import pytest
from test_repository import tool

from lib import registry
from lib.runs.places import ROOT

NAME = "03_iterative_refinement.ipynb"


@pytest.fixture
def run(tmp_path, monkeypatch, kept):
    """``run(source, size) -> (path, bytes before, failure)`` of a notebook with one cell."""
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)

    def start(source: str, size: str = tool.ADOPTED):
        path = tmp_path / NAME
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
        before = path.read_bytes()
        return path, before, tool.execute(path, size, 1)[2]

    return start


def test_an_adopted_run_takes_the_place_without_traces_and_reads_committed_rows(run, tmp_path):
    path, before, failure = run("import os; print(6 * 7, os.environ['DEPTH_SHOW'])")
    assert failure == ""
    book = nbformat.read(path, as_version=4)
    assert book.cells[0].outputs[0].text == "42 committed\n" and book.cells[0].execution_count == 1
    assert book.metadata["provenance"]["cells"] == tool.identity(path)["cells"]
    assert book.metadata["language_info"] == {"name": "python", "file_extension": ".py"}
    assert tool.faults(path) == ["its answer box is not what claims.csv says", "it holds no figure"]
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
def test_a_run_that_fails_leaves_the_notebook_as_it_was(run, source, sentence, kept):
    path, before, failure = run(source)
    assert sentence in failure
    assert path.read_bytes().rstrip() == before.rstrip()
    assert (kept / "notebooks" / tool.ADOPTED / NAME).is_file()


def test_a_full_run_shows_its_lines_takes_no_place_and_a_second_one_keeps_away(run, kept, capfd):
    lock = (kept / "notebooks" / "full" / NAME).with_suffix(".lock")
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        path, before, failure = run("print(6 * 7)", "full")
        assert "another process is running it" in failure and path.read_bytes() == before
    path, before, failure = run("print(6 * 7)", "full")
    assert failure == "" and path.read_bytes() == before
    assert "42" in capfd.readouterr().out


def test_adopting_brings_answer_box_and_shared_cells_first(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(tool, "execute", lambda path, size, beside: (path, 0.0, ""))
    path = tmp_path / NAME
    path.write_bytes((ROOT / "notebooks" / NAME).read_bytes())
    book = nbformat.read(path, as_version=4)
    tool.tagged(book, "answer").source = "old"
    tool.tagged(book, "bootstrap").source = "old"
    nbformat.write(book, path)
    tool.run(tool.ADOPTED, "03", 1)
    book = nbformat.read(path, as_version=4)
    assert tool.tagged(book, "bootstrap").source == tool.BOOTSTRAP
    answer = tool.tagged(book, "answer").source
    assert "**Asked.**" in answer and "**Found.**" in answer and "**How sure.**" in answer


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_the_line_for_ones_own_numbers_is_run_to_a_verdict(page, kept, tmp_path):
    """The papermill line of the front page, with fewer seeds and epochs than it names."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^\.venv/bin/papermill .*$", text, re.M)
    _, book, _, *given = shlex.split(line)
    names, values = given[1::3], given[2::3]
    schema = registry.experiment(NAME.removesuffix(".ipynb")).parameters
    assert set(given[::3]) == {"-p"} and schema.checked(
        dict(zip(names, map(int, values), strict=True))
    )
    if page != "README.md":
        return  # the same line, run once
    small = {"seeds": 1, "epochs": 1, "train_chars": 2000, "test_chars": 1000, "valid_chars": 1000,
             "corpus": "python-docs", "workers": 1}  # fmt: skip
    more = [part for name, value in small.items() for part in ("-p", name, str(value))]
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", book, str(out), *given, *more]
    keeps = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=keeps, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = [
        "".join(output["data"].get("text/html", ""))
        for cell in nbformat.read(out, as_version=4).cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    assert any("undecided" in html and "python-docs" in html for html in shown), "a verdict"
