"""Which code a number came from: kept in its record, not in its key.

``commit`` is the commit of the checkout, with a plus sign where it has been changed since.

``code_hash`` covers a module and every ``lib`` module that it imports, directly or not, with
comments, docstrings and formatting taken out.
"""

import ast
import functools
import hashlib
import subprocess
import sys
from pathlib import Path

from lib.runs.places import ROOT


@functools.cache
def code_hash(*modules: str) -> str:
    """Twelve hex digits over the code that the modules can reach inside ``lib``.

    Raises FileNotFoundError for a module that this checkout does not hold.
    """
    found: set[str] = set()
    waiting = [name for name in modules if name.split(".")[0] == "lib"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            if not _file(name).is_file():
                raise FileNotFoundError(f"module {name} has no file in this checkout")
            found.add(name)
            waiting += imports(_file(name))
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(name.encode() + _bare(_file(name)).encode())
    return whole.hexdigest()[:12]


@functools.cache
def commit() -> str:
    """The short commit of this checkout, "+" where library files differ from it; "" without git,
    and where the library lies inside a checkout of something else."""
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]  # reading writes no index
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=9", "HEAD"], capture_output=True, text=True
        )
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "lib"], capture_output=True)
    except OSError:
        return ""
    ours = not head.returncode and Path(top.stdout.strip()).resolve() == ROOT.resolve()
    return "" if not ours else head.stdout.strip() + ("+" if changed.stdout else "")


def _file(module: str) -> Path:
    """Where a module stands, if the checkout has it."""
    base = ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """The ``lib`` modules that a file imports, wherever in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # ``from lib.training import loop`` names a module, not a member
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] == "lib" and _file(name).is_file())


def _bare(path: Path) -> str:
    """The code of a file without words, alike from Python 3.11 to 3.13: newer ones add fields and
    hide lists."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if getattr(node, "type_params", None) == []:
            del node.type_params
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0], "value", None), ast.Constant):
                node.body = body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return ast.dump(tree, **({"show_empty": True} if sys.version_info >= (3, 13) else {}))
