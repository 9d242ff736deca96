"""Everything done to notebooks from the command line.

    python tools/notebooks.py prepare            shared cells, mocks and metadata from the library
    python tools/notebooks.py run --size quick   execute copies into results/notebooks/quick
    python tools/notebooks.py run --size full    the same at the full size (resumable)
    python tools/notebooks.py adopt              prepare, show the committed rows, keep the outputs
    python tools/notebooks.py check              the gate: outputs present, current and clean
    python tools/notebooks.py read --only 03     its words were read beside the verdicts that stand

``--only 03,04`` takes a subset. Every run is papermill into ``results/notebooks/<size>``. An
adopted run takes the notebook's place when it has come to its end, normalised so that two runs of
the same thing differ in no line of metadata; one that fails stays where it is.
"""

import argparse
import html
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from IPython.display import HTML, Markdown

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import words_read  # noqa: E402
from notebook_files import (  # noqa: E402
    TRACES,
    adopt,
    identity,
    nbformat,
    normalise,
    tagged,
    write,
)

from lib import notebook, registry  # noqa: E402
from lib.parameters import SIZES, listed  # noqa: E402
from lib.refusals import told  # noqa: E402
from lib.results import front, legible, scoreboard  # noqa: E402
from lib.runs import devices, files  # noqa: E402
from lib.runs.places import kept_folder, shown  # noqa: E402

NOTEBOOKS = ROOT / "notebooks"
ADOPTED = "adopted"
# papermill without the grammar that ``notebook_files`` leaves out
PAPERMILL = "import sys; sys.modules['rfc3987_syntax'] = None; from papermill.cli import papermill"
PAPERMILL += "; papermill()"
REF = "main"  # what the badges open
REPOSITORY = f"https://github.com/{front.REPOSITORY}"
BOOTSTRAP = f'''# Find the repository (Colab: fetch it, and packages that are missing or too old).
import os, subprocess, sys
from pathlib import Path
keep_in = ""  # @param {{type: "string"}}
# a folder that outlives the machine (Drive, say): an interrupted run goes on from there
if keep_in:
    keep_in = str(Path(keep_in).expanduser().absolute())  # as seen from here, before any chdir
    os.environ.update(DEPTH_KEEP=keep_in, DEPTH_CACHE=str(Path(keep_in) / "cache"))
    kept_in = keep_in  # so that an emptied field is noticed when this cell is run again
elif globals().pop("kept_in", ""):
    for name in ("DEPTH_KEEP", "DEPTH_CACHE"):
        os.environ.pop(name, None)
if "google.colab" in sys.modules and not Path("lib/notebook.py").is_file():
    source = os.environ.get("DEPTH_REPOSITORY", "{REPOSITORY}")
    ref = os.environ.get("DEPTH_REF", "{REF}")
    clone = ["git", "clone", "-q", "--depth", "1", "--branch", ref, source, "repository"]
    if not Path("repository/lib/notebook.py").is_file() and subprocess.run(clone).returncode:
        sys.exit(f"{{source}} could not be fetched: remove the folder repository and try again.")
    pip = [sys.executable, "-m", "pip", "install", "-q", "-r", "repository/requirements-colab.txt"]
    if subprocess.run(pip).returncode:
        sys.exit("pip could not install repository/requirements-colab.txt; run this cell again.")
    os.chdir("repository")
here = Path.cwd().resolve()
# run from elsewhere, the library must be installed: pip install -e .
ROOT = next((p for p in (here, *here.parents) if (p / "lib" / "notebook.py").is_file()), None)
sys.path[:0] = [str(ROOT)] if ROOT else []
from lib import notebook; notebook.begin(globals())'''


def chosen(only: str) -> list[Path]:
    """Notebook files in order; ``only`` lists numbers. Exits if a number has no notebook."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    wanted = [number.zfill(2) for number in listed(only)]
    numbers = {path.name[:2]: path for path in found}
    if missing := [number for number in wanted if number not in numbers]:
        sys.exit(f"no notebook {', '.join(missing)}; allowed: {', '.join(sorted(numbers))}")
    return [numbers[number] for number in wanted] or found


def prepare(path: Path) -> None:
    """Put the shared parts of a notebook right: badge, answer, bootstrap, mock, kernel, ids."""
    book = nbformat.read(path, as_version=4)
    tagged(book, "bootstrap").source = BOOTSTRAP
    tiny = registry.experiment(path.stem).parameters.TINY if registry.has(path.stem) else {}
    mock = {"nbmake": {"mock": dict(tiny)}}
    tagged(book, "parameters").metadata.update(mock)
    place_answer(book, path.stem)
    badge = f"[![Open in Colab]({front.BADGE})]({front.COLAB}/{path.name})"
    title, *rest = book.cells[0].source.split("\n")
    rest = [line for line in rest if "colab-badge" not in line]
    words = "\n".join(rest).strip()
    book.cells[0].source = "\n\n".join(part for part in (title, badge, words) if part)
    if registry.has(path.stem) and registry.experiment(path.stem).pending:
        show_tour(book)
    normalise(book)
    for number, cell in enumerate(book.cells):
        cell.id = f"cell-{number:02d}"
    write(book, path)


TOUR = {"mechanism", "toy"}  # what needs no results: lines of the library, one sentence through it


def show_tour(book: nbformat.NotebookNode) -> None:
    """Run the guided tour of a notebook that has not been run: code and a toy, no results.

    Raises ValueError for a toy with a picture, which is left to the run.
    """
    for cell in tour(book):
        shown: list[Markdown | HTML] = []
        with patch.object(notebook, "display", shown.append):
            exec(cell.source, {"notebook": notebook})
        kinds = {Markdown: "text/markdown", HTML: "text/html"}
        if any(type(part) not in kinds for part in shown):
            raise ValueError("a cell of the tour shows more than words and tables")
        cell.outputs = [
            nbformat.v4.new_output(
                "display_data",
                {
                    kinds[type(part)]: part.data,
                    "text/plain": f"<IPython.core.display.{type(part).__name__} object>",
                },
            )
            for part in shown
        ]


def tour(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that show how the mechanism works: lines of the library, and a toy."""
    return [cell for cell in book.cells if TOUR & set(cell.metadata.get("tags", []))]


def answer(slug: str) -> str:
    """What the answer box of an experiment says, made from claims.csv."""
    experiment = registry.experiment(slug)
    ids = [claim.id for claim in experiment.claims]
    over = experiment.claims[0].over if ids else "seeds"
    said = "random seeds" if over == "seeds" else f"{over} of the text"
    claims = scoreboard.saved()
    return front.answer(slug[:2], experiment.question, ids, claims, said)


def place_answer(book: nbformat.NotebookNode, slug: str) -> None:
    """The box of asked, found and how sure as the second cell."""
    if not registry.has(slug):
        return
    box = nbformat.v4.new_markdown_cell(answer(slug))
    box.metadata["tags"] = ["answer"]
    rest = [cell for cell in book.cells if "answer" not in cell.metadata.get("tags", [])]
    book.cells = [rest[0], box, *rest[1:]]


def execute(path: Path, size: str, beside: int) -> tuple[Path, float, str]:
    """Run one notebook in a process of its own; returns (path, seconds, failure or '').

    ``beside``: how many run at once. A full run shows what its cells print as it goes. Fails if
    another process is at this very run.
    """
    started = time.perf_counter()
    target = kept_folder() / "notebooks" / size / path.name
    command = [sys.executable, "-c", PAPERMILL, str(path), str(target), "-k", "python3"]
    command += ["--cwd", str(NOTEBOOKS), "--no-progress-bar", "--log-output"]
    variables = {**os.environ, **devices.environment(beside)}
    if size == ADOPTED:
        variables["DEPTH_SHOW"] = "committed"
    elif size != "full":
        command += ["-y", json.dumps(small(path, size))]
    try:
        with files.locked(target.with_suffix(".lock"), wait=False):
            text, before = path.read_bytes(), identity(path)
            failure = papermill(command, variables, shown_log=beside == 1)
            if not failure and size == ADOPTED:
                if path.read_bytes() == text:
                    adopt(target, path, before)
                else:
                    failure = f"it was edited while it ran; the executed copy is {shown(target)}"
    except BlockingIOError:
        return path, 0.0, f"another process is running it at the {size} size; wait for its end"
    except files.NoRoom as refusal:
        return path, 0.0, str(refusal)
    return path, time.perf_counter() - started, failure


def papermill(command: list[str], variables: dict[str, str], shown_log: bool) -> str:
    """Run papermill and return why it failed, or ''; ``shown_log`` passes its log on."""
    log: deque[str] = deque(maxlen=100)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=variables,
    ) as child:
        for line in child.stdout:
            log.append(line)
            if shown_log:
                print(line, end="", flush=True)
    if not child.returncode:
        return ""
    tail = "".join(log)[-3000:]
    # papermill itself was killed, or says that its kernel was
    hint = " (killed: out of memory?)" if child.returncode == 138 or child.returncode < 0 else ""
    return f"exit {child.returncode}{hint}\n{tail}"


def small(path: Path, size: str) -> dict:
    """Parameters of a size of the experiment behind a notebook; one process each."""
    if not registry.has(path.stem):
        return {}
    schema = registry.experiment(path.stem).parameters
    return {**schema.preset(size), "workers": 1}


def check_size(path: Path, size: str) -> None:
    """Exits if the experiment behind a notebook has no such size."""
    if registry.has(path.stem):
        sizes = registry.experiment(path.stem).parameters.sizes()
        if size not in sizes:
            sys.exit(f"{path.stem} has no size {size!r}; allowed: {', '.join(sizes)}")


def run(size: str, only: str, parallel: int) -> None:
    """Run notebooks; exits 1 if one failed, after all have had their turn."""
    paths = chosen(only)
    for path in paths:
        if size == ADOPTED:
            prepare(path)
        else:
            check_size(path, size)
    # a full run parallelises inside each notebook, a small one across notebooks
    slots = parallel if size in ("quick", "tiny") else 1
    failures = []
    with ThreadPoolExecutor(slots) as pool:
        for path, seconds, failure in pool.map(lambda p: execute(p, size, slots), paths):
            print(f"{'FAILED' if failure else 'ok':6}  {seconds:6.1f} s  {path.name}", flush=True)
            if failure:
                failures.append((path.name, failure))
    for name, failure in failures:
        print(f"\n{name}: {failure}", file=sys.stderr)
    if failures:
        sys.exit(
            f"{len(failures)} of {len(paths)} notebooks failed: {', '.join(n for n, _ in failures)}"
        )


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


LEAST_WORDS = 40  # characters of an alternative text


def pictures_of(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell that are pictures."""
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def alternative_text(output: nbformat.NotebookNode) -> str:
    """What a picture says to a reader who cannot see it; empty where it says nothing."""
    return output.metadata.get("image/png", {}).get("alt", "")


def table_rows(output: nbformat.NotebookNode) -> list[list[str]]:
    """The cells of a shown table, its headings first, as they stand in HTML."""
    page = output.get("data", {}).get("text/html", "")
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
            for row in re.findall(r"<tr>(.*?)</tr>", page, re.S)]  # fmt: skip


def table_faults(output: nbformat.NotebookNode) -> list[str]:
    """What keeps a reader from reading a table: too many columns, names of the code, NaN."""
    page, rows = output.get("data", {}).get("text/html", ""), table_rows(output)
    found = []
    if any(len(row) > legible.WIDEST for row in rows):
        found.append(f"a table has more than {legible.WIDEST} columns")
    if any("_" in name for row in rows[:1] for name in row):
        found.append("a table names a column as the code does")
    for heading in re.findall(r"<thead>(.*?)</thead>", page, re.S):
        if re.match(r"<th[^>]*>\s*</th>", heading.split("<tr>")[-1]):
            found.append("the first column of a table has no name")
    if any(text.lower() in ("nan", "none", "<na>") for row in rows for text in row):
        found.append("a table shows NaN")
    return found


def stale_verdicts(output: nbformat.NotebookNode, saved: pd.DataFrame) -> list[str]:
    """Rows of a table of verdicts that are not those of ``saved``, the table claims.csv: the
    correction for many claims moves with those of other experiments."""
    rows = table_rows(output)
    if not rows or scoreboard.DECIDES not in rows[0]:
        return []
    decided = scoreboard.shown(saved).reset_index()
    columns = decided[["verdict", scoreboard.DECIDES, "text, size"]].itertuples(index=False)
    known = {(verdict, claim.split("\n")[0], text) for verdict, claim, text in columns}
    found = []
    for row in rows[1:]:
        verdict, claim, *_, text = (html.unescape(cell.replace("<br>", "\n")) for cell in row)
        claim = claim.split("\n")[0]
        if (verdict, claim, text) not in known:
            found.append(f"claims.csv does not say {verdict!r} of {claim!r}")
    return found


def faults(path: Path) -> list[str]:
    """Why a committed notebook may not be shown to a reader; an empty list if it may.

    The notebook of a pending experiment holds no output but its tour: there are no committed rows
    to show.
    """
    book = nbformat.read(path, as_version=4)
    notes = [book.metadata, *(cell.metadata for cell in book.cells)]
    found = [f"its metadata hold {key}" for key in TRACES if any(key in note for note in notes)]
    if any(MACHINE_PATH.search(text) for text in texts(notes)):
        found.append("its metadata hold a path of the machine it ran on")
    boxes = [cell.source for cell in book.cells if "answer" in cell.metadata.get("tags", [])]
    if registry.has(path.stem) and boxes != [answer(path.stem)]:
        found.append("its answer box is not what claims.csv says")
    code = [cell for cell in book.cells if cell.cell_type == "code" and cell.source.strip()]
    if registry.has(path.stem) and registry.experiment(path.stem).pending:
        shown = any(cell.outputs for cell in code if cell not in tour(book))
        return [*found, "its experiment is pending, yet it holds outputs"] if shown else found
    stamped = book.metadata.get("provenance", {})
    if any(cell.execution_count is None for cell in code):
        found.append("not every cell has been run")
    if stamped.get("cells") != identity(path)["cells"]:
        found.append("the code cells have changed since the run")
    if stamped.get("tables") != identity(path)["tables"]:
        found.append("the committed tables have changed since the run")
    outputs = [output for cell in code for output in cell.outputs]
    if any(output.output_type == "error" for output in outputs):
        found.append("it holds an error")
    pictures = [pictures_of(cell) for cell in code]
    if not any(pictures):
        found.append("it holds no figure")
    if any(len(shown) > 1 for shown in pictures):
        found.append("a cell shows more than one figure, and a page of the site names but one")
    if any(len(alternative_text(one)) < LEAST_WORDS for shown in pictures for one in shown):
        found.append("a figure has no alternative text")
    found += sorted({fault for output in outputs for fault in table_faults(output)})
    saved = scoreboard.saved()
    found += [fault for output in outputs for fault in stale_verdicts(output, saved)]
    if registry.has(path.stem) and (moved := words_read.moved(book, path.stem, saved)):
        found.append(
            f"{len(moved)} verdicts have moved since its words were read ({'; '.join(moved[:3])});"
            f" read them again, then `python tools/notebooks.py read --only {path.name[:2]}`"
        )
    if any(MACHINE_PATH.search(text) for text in texts(outputs)):
        found.append("an output holds a path of the machine it ran on")
    if path.stat().st_size > 1_000_000:
        found.append("it is larger than 1 MB")
    return found


def read(only: str) -> None:
    """Note in notebooks that their words were read beside the verdicts that now stand."""
    for path in chosen(only):
        if registry.has(path.stem) and not registry.experiment(path.stem).pending:
            book = nbformat.read(path, as_version=4)
            words_read.mark(book, path.stem)
            write(book, path)


def check(only: str) -> None:
    """Print the faults of the notebooks; exits 1 if there are any."""
    bad = {path.name: faults(path) for path in chosen(only)}
    for name, found in bad.items():
        if found:
            print(f"{name}: {'; '.join(found)}; `make notebooks NB={name[:2]}` makes it again")
    print(f"{len(bad)} notebooks, {sum(bool(found) for found in bad.values())} with faults")
    sys.exit(1 if any(bad.values()) else 0)


@told()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("action", choices=("prepare", "run", "adopt", "check", "read"))
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--only", default="", help="numbers, such as 03,04")
    parser.add_argument("--parallel", type=int, default=2, help="notebooks at once (small sizes)")
    given = parser.parse_args()
    if given.parallel < 1:
        sys.exit(f"--parallel is {given.parallel}; allowed: a whole number at least 1")
    if given.action in ("run", "adopt"):
        run(ADOPTED if given.action == "adopt" else given.size, given.only, given.parallel)
    elif given.action == "check":
        check(given.only)
    elif given.action == "read":
        read(given.only)
    else:
        for path in chosen(given.only):
            prepare(path)


if __name__ == "__main__":
    main()
