"""Every notebook: its skeleton, and a run through papermill from a foreign folder.

nbmake runs them a second time (`make test`), through the mocks that this file checks.
"""

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lib.experiments import registry
from lib.runs.places import ROOT
from lib.results import store
from lib.results.schema import check

spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

MODULES = registry.modules()
BOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
HEADINGS = (
    "## Why it matters",
    "## Parameters",
    "## Ours against the seed's",
    "## Figures",
    "## Checks",
    "## Verdict",
    "## What was not tested",
)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def names(path: Path) -> str:
    return path.stem


def test_every_experiment_has_a_notebook_and_the_other_way_round():
    assert [path.stem for path in BOOKS] == list(MODULES)


@pytest.mark.parametrize("path", BOOKS, ids=names)
def test_skeleton(path):
    book = read(path)
    text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    places = [text.find(heading) for heading in HEADINGS]
    assert -1 not in places and places == sorted(places)
    first = book.cells[0].source
    assert first.startswith(f"# {path.name[:2]} · ") and first.split("\n")[0].endswith("?")
    assert f"/blob/main/notebooks/{path.name}" in first and "**Answer:**" in first
    assert len(book.cells) <= 25
    for cell in book.cells:
        shared = {"bootstrap", "parameters"} & set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and not shared:
            assert len(cell.source.splitlines()) <= 15
            tree = ast.parse(cell.source)
            assert not [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    assert book.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", BOOKS, ids=names)
def test_shared_cells(path):
    book, schema = read(path), MODULES[path.stem].PARAMETERS
    assert tool.tagged(book, "bootstrap").source == tool.BOOTSTRAP
    cell = tool.tagged(book, "parameters")
    assert cell.metadata["nbmake"]["mock"] == schema.TINY
    literals = {}
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        literals[node.targets[0].id] = node.value.value
    full = schema.checked(literals)
    assert full == schema(), "the cell repeats the defaults of the library"
    assert set(literals) == {f.name for f in dataclasses.fields(schema)}
    for line in cell.source.splitlines():
        assert "# @param" in line and len(line) <= 110


@pytest.mark.parametrize("path", BOOKS, ids=names)
def test_committed_outputs_are_complete_and_clean(path):
    assert tool.faults(path) == []


@pytest.mark.parametrize("path", BOOKS, ids=names)
def test_papermill_from_a_foreign_folder(path, tmp_path):
    module = MODULES[path.stem]
    command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / "out.ipynb")]
    command += ["-k", "python3", "--no-progress-bar"]
    command += ["-y", json.dumps(dict(module.PARAMETERS.TINY))]
    # the caller's folder is the kernel's: the library is found as an installed package is
    home = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=home)
    assert done.returncode == 0, done.stderr[-3000:]
    frame = check(store.read(path.stem, size="tiny"))
    assert (frame["size"] == "tiny").all() and frame["seconds"].ge(0).all()
    trained = frame[frame["params"].notna()]
    assert len(trained) and trained["val_ppl"].dropna().between(1, 1e9).all()
    figures = [ROOT / "figures" / "tiny" / f"{path.stem}_{what}.png" for what in module.FIGURES]
    assert figures and all(figure.stat().st_size > 3_000 for figure in figures)
    outputs = [o for c in read(tmp_path / "out.ipynb").cells for o in c.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_gate_sees_a_stale_and_a_dirty_notebook(tmp_path):
    book = read(BOOKS[0])
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    code[-1].source += "\nprint(1)"
    line = "saved\n/" + "home/me/x"  # at the beginning of a line, where such paths stand
    code[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text=line)]
    code[1].execution_count = None
    path = tmp_path / BOOKS[0].name
    nbformat.write(book, path)
    found = "; ".join(tool.faults(path))
    for fault in ("have changed since", "path of the machine", "not every cell"):
        assert fault in found
