"""The first cell of every notebook on Colab: what it fetches, what it installs, how it stops."""

import os
import subprocess
import sys
import time
from pathlib import Path

import kill_test
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
print("kept in", os.environ.get("DEPTH_KEEP"))
exec({emptied!r})
print("emptied", os.environ.get("DEPTH_KEEP"), os.environ.get("DEPTH_CACHE"))
"""


@pytest.fixture
def colab(tmp_path):
    """``colab(source, pip, keep_in) -> finished process`` of the cell in one folder, run after
    run."""

    def run(source: Path, pip: int = 0, keep_in: str = "") -> subprocess.CompletedProcess:
        cell = tool.BOOTSTRAP.replace('keep_in = ""', f"keep_in = {keep_in!r}")
        home = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "DEPTH_DATA")}
        return subprocess.run(
            [sys.executable, "-c", KERNEL.format(cell=cell, emptied=tool.BOOTSTRAP, pip=pip)],
            cwd=tmp_path,
            env={**home, "DEPTH_REPOSITORY": str(source)},
            capture_output=True,
            text=True,
        )

    return run


def test_it_fetches_installs_and_finds_the_library_again_and_again(colab, tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone: there is nothing to clone from")
    source = tmp_path / "source"  # a checkout of a pull request has no branch main
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    subprocess.run(["git", "checkout", "-q", "-B", "main"], cwd=source, check=True)
    failed = colab(source, pip=1)
    assert failed.returncode and failed.stderr.strip().splitlines()[-1] == (
        "pip could not install repository/requirements-colab.txt; run this cell again."
    )
    # the clone is there already, which is no hindrance; it is left for the repository meanwhile
    done = colab(source, keep_in="drive/mine")
    assert done.returncode == 0, done.stderr
    assert f"kept in {tmp_path / 'drive' / 'mine'}\n" in done.stdout
    assert "emptied None None\n" in done.stdout
    assert "pip ['install', '-q', '-r', 'repository/requirements-colab.txt']" in done.stdout
    assert f"library {tmp_path / 'repository' / 'lib' / 'notebook.py'}" in done.stdout
    assert (tmp_path / "repository" / "requirements-colab.txt").is_file()


def test_a_folder_of_the_environment_stays_where_the_field_is_empty():
    """As for a notebook that is started from another one, whose field is filled in."""
    said = f"exec({tool.BOOTSTRAP!r})\nprint(os.environ['DEPTH_KEEP'])"
    done = subprocess.run(
        [sys.executable, "-c", said],
        cwd=ROOT,
        env={**os.environ, "DEPTH_KEEP": "theirs"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["theirs"], done.stderr


def test_a_repository_that_cannot_be_fetched_is_said_in_one_sentence(colab, tmp_path):
    done = colab(tmp_path / "nowhere")
    assert done.returncode and "Traceback" not in done.stderr and "pip" not in done.stdout
    sentence = f"{tmp_path}/nowhere could not be fetched: remove the folder repository and try"
    assert done.stderr.strip().splitlines()[-1].startswith(sentence)


# a notebook that keeps its runs in a folder: two variants, two seeds, often a checkpoint
KEPT = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import kill_test
kill_test.often()  # in worker processes too, which import this file
if __name__ == "__main__":
    exec({cell!r})
    import dataclasses
    from lib import registry
    experiment = registry.experiment("03_iterative_refinement")
    variants = {{name: experiment.variants[name] for name in ("standard", "irt")}}
    experiment = dataclasses.replace(experiment, variants=variants)
    schema = experiment.parameters
    run = schema.checked({{**schema.TINY, **kill_test.WANTED, "workers": {workers}}})
    print("begun", flush=True)
    experiment.run(run)
"""


def keeping(program: Path, folder: Path, workers: int) -> subprocess.Popen:
    """The first cell with ``keep_in`` filled in, and four runs; returns when they begin."""
    cell = tool.BOOTSTRAP.replace('keep_in = ""', f"keep_in = {str(folder)!r}")
    assert cell != tool.BOOTSTRAP
    program.write_text(KEPT.format(root=str(ROOT), cell=cell, workers=workers))
    given = {k: v for k, v in os.environ.items() if k not in ("DEPTH_KEEP", "DEPTH_CACHE")}
    child = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=ROOT,
        env={**given, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while child.stdout.readline() not in ("begun\n", ""):
        pass
    return child


def ended(child: subprocess.Popen) -> str:
    said, _ = child.communicate(timeout=300)
    return said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    """What the four runs leave when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert "all finished" in ended(keeping(folder / "notebook.py", folder / "kept", 1))
    return kill_test.state(folder / "kept")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_that_vanishes_in_the_middle_and_comes_back_changes_no_result(
    workers, undisturbed, tmp_path
):
    drive, away = tmp_path / "drive", tmp_path / "away"
    program, kept = tmp_path / "notebook.py", drive / "runs of mine"
    child = keeping(program, kept, workers)
    end = time.monotonic() + 120
    while not list(kept.glob("runs/*/*checkpoint*")):
        assert child.poll() is None and time.monotonic() < end, "no checkpoint was seen"
        time.sleep(0.01)
    drive.rename(away)  # in the middle of the first training
    said = ended(child)
    assert child.returncode, said
    sentence = "could not be written: the folder of DEPTH_KEEP (keep_in) is gone; what was"
    assert sentence in said and "FileNotFoundError:" not in said, said
    assert not drive.exists()  # nothing was kept where it would be lost with the machine
    assert list((away / kept.name).glob("runs/*/*checkpoint*"))
    away.rename(drive)
    child = keeping(program, kept, workers)
    assert "all finished" in ended(child) and child.returncode == 0
    assert kill_test.state(kept) == undisturbed
