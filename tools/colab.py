"""The bootstrap cell, unit tests and three notebooks on the versions that Colab's image holds.

    make test-colab                                        Python 3.13 and constraints/colab.txt
    make test-colab COLAB_PYTHON=python3.11 TORCH=2.13.0   where those cannot be had

In .venv-colab, in this order: the image (every pin by itself; one that cannot be had is replaced by
what requirements.txt allows), the bootstrap cell as a notebook holds it, which may move no pin, all
experiments imported with nothing else installed, then requirements-colab-test.txt and the tests.
Every version that is not Colab's is named at the end; EXACT=1 makes it a failure.

Only the standard library is imported here: it runs before any environment is there.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".venv-colab"
PYTHON = PLACE / "bin" / "python"
LIKE_COLAB = "3.13"
ALLOWED = ("3.13", "3.12", "3.11")
IMAGE = ("scipy", "ipython", "ipykernel", "pyarrow")  # Colab has them too; any version will do
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)")
TESTS = (  # what code in a notebook stands on; the bootstrap cell is run for itself
    "test_parameters", "test_key", "test_files", "test_tensors", "test_store", "test_sweep",
    "test_experiment", "test_statistics", "test_claims", "test_figures", "test_corpus",
    "test_loop", "test_objectives", "test_hrm", "test_early_exit", "test_pretrained",
    "test_cascade_model", "test_context_blocks", "test_depth_networks", "test_properties",
)  # fmt: skip
NOTEBOOKS = ("03_iterative_refinement", "14_staged_training", "20_adaptive_or_fixed_depth")

# a kernel on Colab: the module that says so is there, all else is real
KERNEL = """
import sys
from importlib import machinery, util
sys.modules["google.colab"] = util.module_from_spec(machinery.ModuleSpec("google.colab", None))
exec({cell!r})
from lib import registry
print(f"{{len(registry.experiments())}} experiments load from {{Path(notebook.__file__).parent}}")
"""


def version_of(python: str) -> str:
    """``3.13`` and the like of an interpreter; "" if it does not start."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def interpreter(asked: str) -> str:
    """The Python that makes the environment. Exits if the one asked for will not do."""
    if asked:
        if version_of(asked) not in ALLOWED:
            sys.exit(
                f"COLAB_PYTHON is {asked!r}; allowed: a Python of {', '.join(ALLOWED)} that starts"
            )
        return asked
    kept = sorted(Path.home().glob(f".pyenv/versions/{LIKE_COLAB}.*/bin/python3"), reverse=True)
    names = [f"python{LIKE_COLAB}", *map(str, kept), *(f"python{v}" for v in ALLOWED[1:])]
    for name in (*names, sys.executable):
        if version_of(name) in ALLOWED:
            return name
    sys.exit(
        f"no Python of {', '.join(ALLOWED)} was found; name one: make test-colab COLAB_PYTHON="
    )


def pip(*arguments: str) -> subprocess.CompletedProcess:
    """pip in the environment, its words caught. PIP_ARGS of make count."""
    extra = os.environ.get("PIP_ARGS", "").split()
    command = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    return subprocess.run([*command, *extra, *arguments], capture_output=True, text=True)


def installed(name: str) -> str:
    """The version of a package in the environment, "" if it is not there."""
    code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    done = subprocess.run([str(PYTHON), "-c", code, name], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def last(done: subprocess.CompletedProcess) -> str:
    """The last line of an error."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return lines[-1] if lines else done.stderr.strip()[-300:]


def pins() -> dict[str, str]:
    """What Colab's image holds: version by name."""
    text = (ROOT / "constraints" / "colab.txt").read_text(encoding="utf-8")
    return dict(PIN.fullmatch(line).groups() for line in text.splitlines() if PIN.match(line))


def allowed(name: str) -> str:
    """The line of requirements.txt for a package."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if re.match(rf"{name}[<>=]", line))


def same(wanted: str, had: str) -> bool:
    """Whether a version is the wanted one, whatever it was built for (``+cpu``)."""
    return had.split("+")[0] == wanted


def make(python: str) -> None:
    """The environment, empty but for pip; one of another Python is made again."""
    if version_of(str(PYTHON)) != version_of(python):
        done = subprocess.run([python, "-m", "venv", "--clear", str(PLACE)])
        if done.returncode:
            sys.exit(
                f"{python} could not make .venv-colab: its module venv or ensurepip is missing"
            )
    must(pip("-U", "pip>=25,<27"), "pip could not be brought up to date")


def must(done: subprocess.CompletedProcess, sentence: str) -> None:
    """Exit with a sentence if a command failed."""
    if done.returncode:
        sys.exit(f"{sentence}: {last(done)}")


def image(torch: str) -> list[str]:
    """Install what Colab's image holds; returns a line for each pin that is not as there."""
    differs, held = [], []
    for name, version in pins().items():
        wanted = torch if name == "torch" and torch else version
        why = "asked for with TORCH" if wanted != version else ""
        if not same(wanted, installed(name)):
            done = pip("--no-deps", f"{name}=={wanted}")
            if done.returncode and why:
                sys.exit(f"torch {wanted}, asked for with TORCH, could not be had: {last(done)}")
            if done.returncode:
                why = f"could not be had: {last(done)}"
                must(pip("--no-deps", allowed(name)), f"nothing of {allowed(name)} could be had")
        had = installed(name)
        held.append(f"{name}=={had}")
        if not same(version, had):
            differs.append(f"{name} {had} instead of {version} ({why})")
        print(f"  {held[-1]}", flush=True)
    constraints(held)
    done = pip("-c", str(PLACE / "held.txt"), *held, *IMAGE)
    must(done, "what the image's packages ask for could not be had")
    return differs


def constraints(held: list[str]) -> None:
    """Keep what was installed, so that nothing later moves it."""
    (PLACE / "held.txt").write_text("\n".join(held) + "\n", encoding="utf-8")


def bootstrap() -> None:
    """Run the first cell of a notebook in an empty folder, as Colab does. Exits if a pin moved."""
    book = json.loads((ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in book["cells"] if "bootstrap" in c["metadata"].get("tags", []))
    before = {name: installed(name) for name in pins()}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"  # a checkout of a pull request has no branch main
        for command in (["clone", "-q", str(ROOT), str(source)], ["checkout", "-q", "-B", "main"]):
            where = source if command[0] == "checkout" else ROOT
            must(
                subprocess.run(["git", *command], cwd=where, capture_output=True, text=True),
                "the repository could not be cloned from this folder, which must be a git clone",
            )
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DEPTH_", "PYTHONPATH"))}
        done = subprocess.run(
            [str(PYTHON), "-c", KERNEL.format(cell="".join(cell["source"]))],
            cwd=folder,
            env={**kept, "DEPTH_REPOSITORY": str(source), "DEPTH_KEEP": str(Path(folder) / "kept")},
        )
    if done.returncode:
        sys.exit("the bootstrap cell failed with what Colab holds and requirements-colab.txt")
    moved = [name for name, version in before.items() if installed(name) != version]
    if moved:
        sys.exit(f"requirements-colab.txt moved what Colab's image holds: {', '.join(moved)}")


def tests() -> bool:
    """Install the test tools, run unit tests and notebooks at the tiny size; whether all passed."""
    tools = str(ROOT / "requirements-colab-test.txt")
    done = pip("-c", str(PLACE / "held.txt"), "-r", tools)
    must(done, "requirements-colab-test.txt could not be installed")
    given = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    units = [f"tests/{name}.py" for name in TESTS]
    books = [f"notebooks/{name}.ipynb" for name in NOTEBOOKS]
    codes = [
        subprocess.run([str(PYTHON), "-m", "pytest", "-q", *arguments], cwd=ROOT, env=given)
        for arguments in (units, ["--nbmake", "--nbmake-timeout=300", *books])
    ]
    return not any(done.returncode for done in codes)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    torch, exact = os.environ.get("TORCH", ""), os.environ.get("EXACT", "")
    if torch and not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", torch):
        sys.exit(f"TORCH is {torch!r}; allowed: a version such as 2.13.0")
    if exact not in ("", "1"):
        sys.exit(f"EXACT is {exact!r}; allowed: 1, or nothing")
    python = interpreter(os.environ.get("COLAB_PYTHON", ""))
    make(python)
    here, differs = version_of(str(PYTHON)), []
    if here != LIKE_COLAB:
        differs.append(f"Python {here} instead of {LIKE_COLAB}")
    print(f"Python {here}, the image:", flush=True)
    differs += image(torch)
    bootstrap()
    passed = tests()
    if differs:
        print("not as on Colab:", *differs, sep="\n  ")
    else:
        print(f"all as on Colab: Python {LIKE_COLAB} and every pin of constraints/colab.txt")
    if not passed:
        sys.exit("tests failed on these versions")
    if differs and exact:
        sys.exit("EXACT=1 was asked for, and these versions are not Colab's")


if __name__ == "__main__":
    main()
