"""What a stranger gets from a clone: the library, its shape, and nothing of any one machine."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lib.runs.places import ROOT, closure

CLONE = (ROOT / ".git").exists() and shutil.which("git") is not None
needs_git = pytest.mark.skipif(not CLONE, reason="not a git clone")


def tracked() -> list[str]:
    """Files that git holds; in a download the library's files that are there."""
    if CLONE:
        command = ["git", "ls-files"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("lib/**/*.py"))


TRACKED = tracked()
MODULES = [path for path in TRACKED if path.startswith("lib/") and path.endswith(".py")]
# rooms in the order in which data flow; a module imports from its own room and earlier ones
ORDER = (
    "parameters",
    "provenance",
    "text",
    "models",
    "training",
    "analysis",
    "cascade",
    "context",
    "results",
    "figures",
    "notebook",
    "experiments",
)


@needs_git
def test_git_does_not_hide_the_library():
    ignored = subprocess.run(["git", "check-ignore", "lib/new_module.py"], cwd=ROOT)
    assert ignored.returncode == 1
    assert "lib/models/transformer.py" in TRACKED


@needs_git
def test_a_clean_clone_imports_from_anywhere(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(clone)!r}); "
        "import lib.experiments.registry as r; print(r.__file__, len(r.modules()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(clone) in done.stdout


@pytest.mark.parametrize("path", MODULES)
def test_modules_are_short_and_introduce_themselves(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 300
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_point_one_way():
    wrong = []
    for path in MODULES:
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if module == "lib":
            continue
        assert room(module) in ORDER, f"{module} lies in a room that has no place in the order"
        for target in imported(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if ORDER.index(room(target)) > ORDER.index(room(module)):
                wrong.append(f"{module} imports {target}")
    assert not wrong


def imported(tree: ast.Module) -> list[str]:
    """Modules of the library that a module imports, in whichever spelling; none relatively."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import escapes the hash of a run's code"
            alone = [f"lib.{alias.name}" for alias in node.names]
            found += alone if node.module == "lib" else [node.module]
    return [name for name in found if name.startswith("lib.")]


def test_no_import_cycles():
    names = [
        p.removesuffix(".py").replace("/", ".") for p in MODULES if not p.endswith("__init__.py")
    ]
    for name in names:
        direct = closure(name) - {name}
        assert not [other for other in direct if name in closure(other) - {other}], name


TEXT = [p for p in TRACKED if p.endswith((".py", ".ipynb", ".md", ".toml", ".txt", ".csv", "run"))]
# a path below the root that belongs to one machine, not a web address or a git pathspec
MACHINE = re.compile(r"(?<![\w./:!])/(?:home|root|work|Users|mnt)/\w+")


@pytest.mark.parametrize("path", TEXT)
def test_no_file_names_a_machine(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert not MACHINE.search(text.replace("\\n", "\n"))  # line breaks as notebooks spell them


def test_a_machine_path_is_seen_in_quotes_and_at_a_line_start():
    for text in ("x = '/{}/me/data'", 'open("/{}/me")', "saved to\n/{}/me/x"):
        assert MACHINE.search(text.format("home"))
    assert not MACHINE.search("https://example.org/{}/me".format("home"))


def test_requirements_hold_the_packages_of_the_card_as_ranges():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    ranges = {re.split(r"[><=]", line)[0]: line for line in lines if line and line[0] != "#"}
    card = "torch transformers datasets matplotlib pandas jupyterlab papermill nbmake"
    assert set(card.split()) <= set(ranges)
    assert all(">=" in line and "<" in line and "==" not in line for line in ranges.values())
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "torch==2.13.0" in lock
    locked = {line.split("==")[0].lower() for line in lock.splitlines() if "==" in line}
    assert {name.lower() for name in ranges} <= locked


def test_the_floor_of_peft_is_what_transformers_asks_for():
    from packaging.requirements import Requirement
    from packaging.version import Version
    from transformers.integrations.peft import MIN_PEFT_VERSION

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    peft = next(Requirement(line) for line in lines if line.startswith("peft"))
    floor = next(part.version for part in peft.specifier if part.operator == ">=")
    assert Version(floor) >= Version(MIN_PEFT_VERSION)


def test_the_readme_names_the_commands_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("run", "test", "reproduce", "claims", "figures", "bench"):
        assert f"make {target}" in readme and re.search(rf"^{target}:", makefile, re.M)
    for path in re.findall(r"\]\(((?:notebooks|lib|figures|docs|results)/[^)#]+)\)", readme):
        assert (Path(ROOT) / path).exists(), path
