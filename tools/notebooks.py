"""Everything done to notebooks from the command line.

    python tools/notebooks.py prepare            shared cells, mocks and metadata from the library
    python tools/notebooks.py run --size quick   execute copies into results/quick/notebooks
    python tools/notebooks.py run --size full    execute in place, outputs kept (resumable)
    python tools/notebooks.py check              the gate: outputs present, current and clean

``--only 03,04`` takes a subset. A full run is papermill in place without parameters, then
normalised so that two runs of the same thing differ in no line of metadata.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.experiments import registry  # noqa: E402
from lib.provenance import closure_hash  # noqa: E402

NOTEBOOKS = ROOT / "notebooks"
REPOSITORY = "https://github.com/depth-adaptive-lm/depth-adaptive-lm"
BOOTSTRAP = f'''# Find the repository (Colab: fetch it, and only the packages that are missing).
import importlib.util, os, subprocess, sys
from pathlib import Path
if "google.colab" in sys.modules and not Path("lib/notebook.py").is_file():
    PACKAGES = ("accelerate", "datasets", "gguf", "peft")
    if not Path("repository").exists():
        subprocess.run(["git", "clone", "--depth", "1", "{REPOSITORY}", "repository"], check=True)
        missing = [p for p in PACKAGES if not importlib.util.find_spec(p)]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "pip", *missing], check=True)
    os.chdir("repository")
here = Path.cwd().resolve()
# run from elsewhere, the library must be installed: pip install -e .
ROOT = next((p for p in (here, *here.parents) if (p / "lib" / "notebook.py").is_file()), None)
sys.path[:0] = [str(ROOT)] if ROOT else []
from lib import notebook; notebook.begin(globals())'''
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name})"
)


def chosen(only: str) -> list[Path]:
    """Notebook files in order; ``only`` lists numbers. Exits if a number has no notebook."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        return found
    wanted = [number.strip().zfill(2) for number in only.split(",")]
    numbers = {path.name[:2]: path for path in found}
    if missing := [number for number in wanted if number not in numbers]:
        sys.exit(f"no notebook {', '.join(missing)}; there are {', '.join(sorted(numbers))}")
    return [numbers[number] for number in wanted]


def tagged(book: nbformat.NotebookNode, tag: str) -> nbformat.NotebookNode:
    """The one cell with a tag. Raises ValueError if there is not exactly one."""
    cells = [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged {tag!r}; exactly one must be")
    return cells[0]


def prepare(path: Path) -> None:
    """Put the shared parts of a notebook right: badge, bootstrap, mock, kernel, cell ids."""
    book = nbformat.read(path, as_version=4)
    module = registry.modules()[path.stem]
    tagged(book, "bootstrap").source = BOOTSTRAP
    mock = {"nbmake": {"mock": dict(module.PARAMETERS.TINY)}}
    tagged(book, "parameters").metadata.update(mock)
    badge = BADGE.format(repository=REPOSITORY.split("github.com/")[1], name=path.name)
    title, *rest = book.cells[0].source.split("\n")
    rest = [line for line in rest if "colab-badge" not in line]
    book.cells[0].source = "\n".join([title, "", badge, "", *rest]).replace("\n\n\n", "\n\n")
    book.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            **{k: v for k, v in book.metadata.items() if k == "provenance"},
        }
    )
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02d}"
    write(book, path)


def normalise(path: Path) -> None:
    """Take out what differs between two runs of the same notebook: times, ids, widgets."""
    book = nbformat.read(path, as_version=4)
    for key in ("papermill", "widgets"):
        book.metadata.pop(key, None)
    for cell in book.cells:
        for key in ("papermill", "execution", "trusted"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            merge_streams(cell)
    write(book, path)


def merge_streams(cell: nbformat.NotebookNode) -> None:
    """Join neighbouring outputs of one stream: where they were cut depends on timing."""
    merged = []
    for output in cell.outputs:
        last = merged[-1] if merged else None
        if output.output_type == "stream" and last and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    cell.outputs = merged


def stamp(path: Path, before: dict[str, str]) -> None:
    """Record what a full run stood on, as it was before the first cell ran."""
    book = nbformat.read(path, as_version=4)
    book.metadata["provenance"] = {**before, "executed": time.strftime("%Y-%m-%d")}
    write(book, path)


def identity(path: Path) -> dict[str, str]:
    """Hashes of the code cells and of the library code behind a notebook."""
    book = nbformat.read(path, as_version=4)
    code = "\x1e".join(cell.source for cell in book.cells if cell.cell_type == "code")
    module = registry.modules()[path.stem].__name__
    return {
        "cells": hashlib.sha256(code.encode()).hexdigest()[:12],
        "code": closure_hash(module),
    }


def write(book: nbformat.NotebookNode, path: Path) -> None:
    """Save a notebook with the indentation and key order that all of them have."""
    nbformat.validate(book)
    text = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def execute(path: Path, size: str, workers: int) -> tuple[Path, float, str]:
    """Run one notebook in a process of its own; returns (path, seconds, failure or '')."""
    started = time.perf_counter()
    if size == "full":
        before, target, parameters = identity(path), path, {}
    else:
        module = registry.modules()[path.stem]
        target = ROOT / "results" / size / "notebooks" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        parameters = {**getattr(module.PARAMETERS, size.upper()), "workers": workers}
        fields = {field.name for field in dataclasses.fields(module.PARAMETERS)}
        parameters = {name: value for name, value in parameters.items() if name in fields}
    command = [sys.executable, "-m", "papermill", str(path), str(target), "-k", "python3"]
    command += ["--cwd", str(NOTEBOOKS), "--no-progress-bar", "--log-output"]
    if parameters:
        command += ["-y", json.dumps(parameters)]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        hint = " (the kernel died: out of memory?)" if done.returncode in (137, 138) else ""
        return path, seconds, f"exit {done.returncode}{hint}\n{done.stderr[-3000:]}"
    if size == "full":
        normalise(path)
        stamp(path, before)
    return path, seconds, ""


def run(size: str, only: str, parallel: int) -> None:
    """Run notebooks; exits 1 if one failed, after all have had their turn."""
    paths = chosen(only)
    # a full run parallelises inside each notebook, a small one across notebooks
    slots, workers = (1, 2) if size == "full" else (parallel, 1)
    failures = []
    with ThreadPoolExecutor(slots) as pool:
        for path, seconds, failure in pool.map(lambda p: execute(p, size, workers), paths):
            print(f"{'FAILED' if failure else 'ok':6}  {seconds:6.1f} s  {path.name}", flush=True)
            if failure:
                failures.append((path.name, failure))
    for name, failure in failures:
        print(f"\n{name}: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


MACHINE_PATH = re.compile(r"(?<![\w.])/(home|root|tmp|work|Users|content|mnt)/\w")


def texts(value: object) -> Iterator[str]:
    """Every string inside nested outputs as it reads, pictures left out.

    Not their JSON: there a line break is a backslash and an n, and a path after an n is not seen.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if not name.startswith("image/"):
                yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def faults(path: Path) -> list[str]:
    """Why a committed notebook may not be shown to a reader; an empty list if it may.

    Library code that has changed since the run is no fault: ``check`` says it beside the ok.
    """
    book, found = nbformat.read(path, as_version=4), []
    code = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]
    if path.stem in registry.pending():
        half_run = any(cell.outputs or cell.execution_count for cell in code)
        return ["docs/PENDING.md lists it as not run, but it holds outputs"] if half_run else []
    stamped = book.metadata.get("provenance", {})
    if any(cell.execution_count is None for cell in code):
        found.append("not every cell has been run")
    if stamped.get("cells") != identity(path)["cells"]:
        found.append("the code cells have changed since the run")
    outputs = [output for cell in code for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        found.append("it holds an error")
    if not any("image/png" in output.get("data", {}) for output in outputs):
        found.append("it holds no figure")
    if any(MACHINE_PATH.search(text) for text in texts(outputs)):
        found.append("an output holds a path of the machine it ran on")
    if "widgets" in book.metadata:
        found.append("it holds widget state")
    if path.stat().st_size > 1_000_000:
        found.append("it is larger than 1 MB")
    return found


def check(only: str) -> None:
    """Print the faults of every notebook; exits 1 if there are any."""
    bad = {path.name: faults(path) for path in chosen(only)}
    for path in chosen(only):
        book = nbformat.read(path, as_version=4)
        stale = book.metadata.get("provenance", {}).get("code") != identity(path)["code"]
        fine = "ok, library changed since" if stale else "ok"
        if path.stem in registry.pending():
            fine = "not yet run at the full size (docs/PENDING.md)"
        words = "; ".join(bad[path.name]) or fine
        print(f"{path.name}: {words}")
    sys.exit(1 if any(bad.values()) else 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=("prepare", "run", "check"))
    parser.add_argument("--size", choices=("full", "quick", "tiny"), default="quick")
    parser.add_argument("--only", default="", help="numbers, such as 03,04")
    parser.add_argument("--parallel", type=int, default=2, help="notebooks at once (small sizes)")
    given = parser.parse_args()
    if given.action == "run":
        run(given.size, given.only, given.parallel)
    elif given.action == "check":
        check(given.only)
    else:
        for path in chosen(given.only):
            prepare(path)


if __name__ == "__main__":
    main()
