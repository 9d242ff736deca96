"""``make test-colab``: a version that is not Colab's is never used in silence."""

import re
import subprocess
import sys

import pytest
from conftest import load_tool

from lib.runs.places import ROOT

tool = load_tool("colab")


@pytest.fixture
def index(monkeypatch, tmp_path):
    """An environment of names and versions, and an index that has all pins but some."""
    held: dict[str, str] = {}
    absent: set[str] = set()

    def pip(*arguments: str) -> subprocess.CompletedProcess:
        wanted = arguments[-1]
        if arguments[0] == "--no-deps":
            if wanted in absent:
                error = f"ERROR: No matching distribution found for {wanted}\n"
                return subprocess.CompletedProcess([], 1, "", error)
            name, version = re.match(r"(\w+)(?:==|>=)([\d.]+)", wanted).groups()
            held[name] = version + ("+cpu" if name == "torch" else "")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr(tool, "pip", pip)
    monkeypatch.setattr(tool, "installed", lambda name: held.get(name, ""))
    monkeypatch.setattr(tool, "PLACE", tmp_path)
    return absent


def test_all_as_on_colab_says_nothing_and_pins_are_exact(index, tmp_path):
    assert tool.image("") == []
    kept = (tmp_path / "held.txt").read_text().splitlines()
    assert len(kept) == len(tool.pins()) >= 7 and all("==" in line for line in kept)


def test_a_pin_that_cannot_be_had_and_a_torch_that_was_asked_for_are_named(index):
    index.add("numpy==2.1.3")
    torch, numpy = tool.image("2.13.0")
    assert torch == "torch 2.13.0+cpu instead of 2.11.0 (asked for with TORCH)"
    assert numpy.startswith("numpy 2.0 instead of 2.1.3 (could not be had: ERROR: No matching")


def test_a_torch_that_was_asked_for_and_is_not_there_ends_it(index):
    index.add("torch==2.13.0")
    with pytest.raises(SystemExit, match="torch 2.13.0, asked for with TORCH, could not be had"):
        tool.image("2.13.0")


def test_the_python_is_one_that_starts_and_is_allowed():
    assert tool.interpreter(sys.executable) == sys.executable
    assert tool.version_of(tool.interpreter("")) in tool.ALLOWED
    with pytest.raises(SystemExit, match="COLAB_PYTHON is 'nothing'; allowed: a Python of 3.13"):
        tool.interpreter("nothing")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TORCH", "2.13.0;touch x", "TORCH is '2.13.0;touch x'; allowed: a version such as"),
        ("EXACT", "yes", "EXACT is 'yes'; allowed: 1, or nothing"),
        ("COLAB_PYTHON", "$(shell touch x)", r"COLAB_PYTHON is '\$\(shell touch x\)'; allowed"),
    ],
)
def test_what_is_typed_is_checked_before_any_work(name, value, sentence, monkeypatch):
    for other in ("TORCH", "EXACT", "COLAB_PYTHON"):
        monkeypatch.setenv(other, value if other == name else "")
    monkeypatch.setattr(tool, "make", lambda python: pytest.fail("work has begun"))
    with pytest.raises(SystemExit, match=sentence):
        tool.main()


def test_what_it_runs_exists_and_needs_no_notebook_server():
    for name in tool.TESTS:
        assert (ROOT / "tests" / f"{name}.py").is_file(), name
    for name in tool.NOTEBOOKS:
        assert (ROOT / "notebooks" / f"{name}.ipynb").is_file(), name
    for name in ("requirements-colab.txt", "requirements-colab-test.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"^(jupyterlab|papermill|torch|numpy|pandas)\b", text, re.M), name
