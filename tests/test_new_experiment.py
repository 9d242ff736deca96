"""``make new-experiment``: what it makes runs at once and has the common shape; what it refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.runs.places import ROOT

STUDIES = ("character", "cascade", "context", "depth")
PARTS = ("lib", "tools", "tests", "notebooks", "results", "docs")
ALONE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}

# makes one experiment a study, then looks at each as the repository's own tests would
MAKE_AND_RUN = """
import sys
sys.path[:0] = ["tools", "tests", "."]
import new_experiment
for study in {studies!r}:
    module, book = new_experiment.make("idea_of_" + study, study)
    print("made", module.name, book.name)
import test_repository
from lib import registry
for slug in [slug for slug in registry.module_names() if "idea_of" in slug]:
    experiment = registry.experiment(slug)
    assert test_repository.skeleton(new_experiment.ROOT / "notebooks" / f"{{slug}}.ipynb") == []
    assert test_repository.tool.faults(new_experiment.ROOT / "notebooks" / f"{{slug}}.ipynb") == []
    assert experiment.pending and len(experiment.claims) == len(experiment.figures) == 1
    results = experiment.run(experiment.parameters.at("tiny"))
    for draw in experiment.figures.values():
        draw(results)
    values = experiment.claims[0].measure(results)
    print("ran", slug, len(values), bool((values == values).all()))
"""


def copy(folder: Path) -> Path:
    """The repository without what running makes, in a folder of its own."""
    made = shutil.ignore_patterns("__pycache__", "runs", "sets", "golden", ".*")
    for part in PARTS:
        # lib/runs is a part of the library, results/runs is not
        ignored = shutil.ignore_patterns("__pycache__") if part == "lib" else made
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    for name in ("Makefile", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    given = {**os.environ, **ALONE, "DEPTH_KEEP": str(folder / "kept")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    return copy(tmp_path_factory.mktemp("copy"))


def files_of(folder: Path) -> dict[str, bytes]:
    found = [*folder.glob("lib/*/experiments/*.py"), *folder.glob("notebooks/*.ipynb")]
    return {str(path): path.read_bytes() for path in [*found, folder / "docs" / "PENDING.md"]}


def test_an_experiment_of_every_study_runs_at_once_and_has_the_common_shape(repository):
    done = python(repository, "-c", MAKE_AND_RUN.format(studies=STUDIES))
    assert done.returncode == 0, done.stderr[-2000:]
    made = [line for line in done.stdout.splitlines() if line.startswith("made ")]
    numbers = [int(line.split()[2][:2]) for line in made]
    assert len(made) == 4 and numbers == list(range(numbers[0], numbers[0] + 4))
    for number, study in zip(numbers, STUDIES, strict=True):
        assert f"ran {number}_idea_of_{study} 1 True" in done.stdout
        pending = (repository / "docs" / "PENDING.md").read_text(encoding="utf-8")
        assert f"| {number} | idea of {study} ({study}): full size | not measured |" in pending
    modules = [str(path) for path in repository.glob("lib/*/experiments/e*_idea_of_*.py")]
    for check in (["check"], ["format", "--check"]):  # as `make test` would
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", *modules]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    book = f"notebooks/{numbers[0]}_idea_of_character.ipynb"
    done = python(repository, "-m", "pytest", "-q", "-c", os.devnull, "--nbmake", book)
    assert done.returncode == 0, done.stdout[-2000:]


REFUSED = [
    ("", "character", "NAME is ''; allowed: small letters and digits"),
    ("My Idea", "character", "NAME is 'My Idea'; allowed"),
    ("../x", "character", "NAME is '../x'; allowed"),
    ("1st", "character", "NAME is '1st'; allowed"),
    ("two__bars", "character", "NAME is 'two__bars'; allowed"),
    ("a" * 41, "character", "at most 40 characters"),
    ("$(shell touch x)", "character", "NAME is '$(shell touch x)'; allowed"),
    ("`touch x`;touch x", "character", "allowed: small letters"),
    ("my_idea", "", "STUDY is ''; allowed: cascade, character, context, depth"),
    ("my_idea", "../runs", "STUDY is '../runs'; allowed: cascade"),
    ("my_idea", "$(shell touch x)", "STUDY is '$(shell touch x)'; allowed: cascade"),
    ("early_exit", "depth", "NAME is 'early_exit', and 09_early_exit exists; allowed: a name"),
]


def test_what_is_typed_wrongly_gives_one_sentence_and_changes_nothing(repository):
    """All in one process, as ``main`` reads them: each start takes seconds."""
    before = files_of(repository)
    code = f"""
import os, sys
sys.path[:0] = ["tools", "."]
import new_experiment
for name, study, sentence in {REFUSED!r}:
    os.environ.update(NAME=name, STUDY=study)
    try:
        new_experiment.main()
        print("MADE", name, study)
    except SystemExit as end:
        if sentence not in str(end.code) or "\\n" in str(end.code):
            print("WRONG", name, study, end.code)
"""
    done = python(repository, "-c", code)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr[-500:]
    assert files_of(repository) == before


def test_make_hands_on_text_and_never_a_command(repository):
    command = ["make", "--no-print-directory", "-o", ".venv/.ready"]
    command += [f"BIN={Path(sys.executable).parent}"]
    command += ["new-experiment", "STUDY=character", "NAME=$(shell touch x)`touch x`;touch x"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode and done.stdout == ""
    assert done.stderr.startswith("NAME is '$(shell touch x)`touch x`;touch x'; allowed: small")
    assert not (repository / "x").exists()


def test_nothing_is_left_of_one_that_cannot_be_finished(repository):
    before = files_of(repository)
    code = """
import sys
sys.path[:0] = ["tools", "."]
import new_experiment
def full(path):
    raise OSError("no room")
new_experiment.notebooks.prepare = full
try:
    new_experiment.make("half_made", "character")
except OSError as error:
    print(error)
"""
    done = python(repository, "-c", code)
    assert done.stdout == "no room\n", done.stderr[-500:]
    assert files_of(repository) == before
