"""What every notebook does at its start and when it shows something."""

import ast
import inspect
import platform
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from IPython.display import HTML, Markdown, display

from lib.experiment import Experiment
from lib.figures import gallery, style
from lib.parameters import Parameters, check_environment
from lib.results import legible, scoreboard, store, tables
from lib.results.claims import SEEDS
from lib.results.store import Results
from lib.runs import devices, places
from lib.runs.places import ROOT
from lib.toy import Toy

_known: set[str] = set()
_refused: set[str] = set()
_reserved: dict[str, Any] = {}  # what Python and the first cell define, and nobody else
_space: list[dict[str, Any]] = []  # the notebook that ``_reserved`` is about


def begin(names: dict[str, Any]) -> None:
    """Remember which names exist before the parameters cell, and set the look of figures.

    ``names`` is the notebook's ``globals()``. Raises FileNotFoundError if the library was installed
    without its repository, whose tables it reads.
    """
    if not (ROOT / "results" / "reported.csv").is_file():
        raise FileNotFoundError(
            "the library stands without its repository; install it with `pip install -e .` in a "
            "clone, or run the notebook there"
        )
    first = not _space or _space[0] is not names
    before = names.keys() if first else _reserved.keys()
    reserved = {name: value for name, value in names.items() if name in before}
    _space[:] = [names]
    _reserved.clear()
    _reserved.update(reserved)
    _known.clear()
    _known.update(names.keys() - _refused)
    style.use()
    # transformers asks for a progress widget that a headless run has no use for
    warnings.filterwarnings("ignore", message="IProgress not found")
    pd.set_option("display.max_colwidth", None)  # a verdict's reason is shown whole


def configure(experiment: Experiment, names: dict[str, Any]) -> Any:
    """The checked parameters: every plain value that has appeared since ``begin``, and every one
    that has taken the name of something there before it.

    A second run in the same kernel is checked alike: names of the schema always count, a name that
    was refused once stays refused, and objects that later cells define are no parameters.

    A notebook that shows committed rows has the parameters of the largest size that has some.

    Prints them with the size they make and the device. Raises ParameterError, before anything is
    trained, for an unknown name, a wrong type or an impossible value, for a device that is not
    here, and for a DEPTH_DATA that is no folder.
    """
    schema: type[Parameters] = experiment.parameters
    fields = set(schema.names())
    given = {
        name: value
        for name, value in names.items()
        if name in fields or (_is_new(name, value) and _is_plain(name, value))
    }
    _refused.update(given.keys() - fields)
    if _refused & given.keys():
        print("after renaming a refused parameter, restart the kernel: the old name still exists")
    run = schema.checked(given)
    check_environment()
    device = devices.choose(run.device)
    _known.update(names)
    if places.shows_committed() and (own := _committed_size(experiment)) not in ("", run.size):
        run = schema.at(own)
    print(f"size: {run.size}")
    for name in schema.names():
        value = getattr(run, name)
        # a folder is a fact about the machine, not about the run
        print(f"  {name:<16} {'(given)' if name == 'data_dir' and value else repr(value)}")
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, "
        f"device {devices.spoken(device)}"
    )
    return run


def _committed_size(experiment: Experiment) -> str:
    """The largest size of which an experiment has committed rows, "" for none."""
    if not store.has_committed(experiment.slug):
        return ""
    held = store.committed(experiment.slug).sizes
    return next(size for size in experiment.parameters.sizes() if size in held)


def _is_new(name: str, value: Any) -> bool:
    """Whether a name is not known from before, or holds something else than it did there."""
    return name not in _known or (name in _reserved and _reserved[name] is not value)


def _is_plain(name: str, value: Any) -> bool:
    """Whether a hand could have meant a name as a parameter: a value, not a module or an object."""
    hidden = name.startswith("_") or name in ("In", "Out")
    return not hidden and isinstance(value, (bool, int, float, str, list, tuple, dict, type(None)))


def source(*parts: Callable[..., Any] | type) -> None:
    """Display the lines of the library that are a mechanism: functions, methods or classes."""
    display(Markdown("\n\n".join(quoted(part) for part in parts)))


def quoted(part: Callable[..., Any] | type) -> str:
    """Where a function or class stands, and its code as Markdown without docstring and decorators.

    Raises TypeError for what has no source of its own, an object say.
    """
    part = inspect.unwrap(part)  # without its decorators
    lines = textwrap.dedent(inspect.getsource(part)).splitlines()
    tree = ast.parse("\n".join(lines)).body[0]
    gone = set(range(1, tree.lineno))  # decorators
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node):
            gone |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
            after = node.body[0].end_lineno + 1
            if after <= len(lines) and not lines[after - 1].strip():
                gone.add(after)
    kept = "\n".join(line for number, line in enumerate(lines, 1) if number not in gone)
    path = Path(inspect.getsourcefile(part)).resolve().relative_to(ROOT).as_posix()
    return f"`{path}`, `{part.__qualname__}`:\n\n```python\n{kept}\n```"


def toy(shown: Toy) -> None:
    """Display a mechanism on one sentence: what to look at, shapes, marks, table and picture."""
    display(Markdown(f"{shown.look}\n\nShapes: {shown.spoken_shapes()}."))
    if shown.lines:
        display(Markdown(f"```text\n{shown.lines}\n```"))
    if not shown.table.empty:
        show(shown.table)
    if shown.picture:
        gallery.present(shown.picture())


def show(table: pd.DataFrame) -> None:
    """Display a table (``lib.results.legible``), the line above says what its numbers stand on.

    A sentence stands in place of a table without rows.
    """
    if table.empty:
        print("no table here: this run made no rows for it")
        return
    if "caption" in table.attrs:
        display(HTML(f"<small>{table.attrs['caption']}</small>"))
    display(HTML(legible.page(table)))


def verdicts(experiment: Experiment, results: Results) -> None:
    """Show the experiment's claims decided on these results.

    The committed rows are judged among all claims of the repository, as in ``claims.csv``. A run
    of one's own is given verdicts from 2 seeds on (5 at the full size), its interval shown whatever
    n is.
    """
    if results.folder is None:
        ids = [claim.id for claim in experiment.claims]
        frame = scoreboard.saved()
        show(scoreboard.shown(frame[frame["id"].isin(ids)]))
        return
    size = results.sizes[0]
    least = 2 if size in store.UNPUBLISHED else SEEDS
    show(scoreboard.verdicts(experiment.claims, results, least))


def beside_ours(experiment: Experiment, results: Results) -> None:
    """Show this run beside the committed one: every variant, yours and ours, on the same text.

    Where the committed tables hold another text or size only, the line above says which.
    """
    if results.folder is None:
        return  # these are the committed rows
    if not store.has_committed(experiment.slug):
        print("no results of this notebook are committed to compare with")
        return
    show(tables.beside_committed(results, store.committed(experiment.slug)))
