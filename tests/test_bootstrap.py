"""The first cell of every notebook on Colab: what it fetches, what it installs, how it stops."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_repository import tool

from lib.runs.places import ROOT

# a kernel on Colab, whose pip only says what it was asked for
KERNEL = """
import subprocess, sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
real = subprocess.run
def run(command, **options):
    if command[1:3] != ["-m", "pip"]:
        return real(command, **options)
    print("pip", command[3:])
    return subprocess.CompletedProcess(command, {pip})
subprocess.run = run
exec({cell!r})
print("library", notebook.__file__)
"""


@pytest.fixture
def colab(tmp_path):
    """``colab(source, pip) -> finished process`` of the cell in one folder, run after run."""

    def run(source: Path, pip: int = 0) -> subprocess.CompletedProcess:
        home = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DEPTH_DATA")}
        return subprocess.run(
            [sys.executable, "-c", KERNEL.format(cell=tool.BOOTSTRAP, pip=pip)],
            cwd=tmp_path,
            env={**home, "DEPTH_REPOSITORY": str(source)},
            capture_output=True,
            text=True,
        )

    return run


def test_it_fetches_installs_and_finds_the_library_again_and_again(colab, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone: there is nothing to clone from")
    failed = colab(ROOT, pip=1)
    assert failed.returncode and failed.stderr.strip().splitlines()[-1] == (
        "pip could not install repository/requirements-colab.txt; run this cell again."
    )
    done = colab(ROOT)  # the clone is there already, which is no hindrance
    assert done.returncode == 0, done.stderr
    assert "pip ['install', '-q', '-r', 'repository/requirements-colab.txt']" in done.stdout
    assert f"library {tmp_path / 'repository' / 'lib' / 'notebook.py'}" in done.stdout
    assert (tmp_path / "repository" / "requirements-colab.txt").is_file()


def test_a_repository_that_cannot_be_fetched_is_said_in_one_sentence(colab, tmp_path):
    done = colab(tmp_path / "nowhere")
    assert done.returncode and "Traceback" not in done.stderr and "pip" not in done.stdout
    sentence = f"{tmp_path}/nowhere could not be fetched: remove the folder repository and try"
    assert done.stderr.strip().splitlines()[-1].startswith(sentence)
