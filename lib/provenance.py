"""What a number stands on: the code that made it, the versions, the device.

``closure_hash`` covers some modules and every ``lib`` module they import, directly or not, with
comments, docstrings and formatting taken out: rewording a docstring leaves a result valid,
changing a formula does not.
"""

import ast
import functools
import hashlib
import importlib.metadata
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "transformers", "datasets", "numpy", "pandas")


@functools.cache
def closure_hash(*modules: str) -> str:
    """Twelve hex digits over the code the modules can reach inside ``lib``.

    Raises FileNotFoundError for a module that this checkout does not hold.
    """
    return code_hash(*closure(*modules))


def code_hash(*modules: str) -> str:
    """Twelve hex digits over the code of these modules alone, whatever they import."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(name.encode())
        digest.update(_dump(_bare(module_path(name))).encode())
    return digest.hexdigest()[:12]


def closure(*modules: str) -> set[str]:
    """The modules and every ``lib`` module they import, directly or through others."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(module_path(name))
    return found


def module_path(module: str) -> Path:
    """The file of a module. Raises FileNotFoundError if the checkout has none."""
    base = ROOT.joinpath(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    if not path.is_file():
        raise FileNotFoundError(f"module {module} has no file in this checkout")
    return path


def environment(device: str = "cpu") -> dict[str, str]:
    """Versions and device of this process; PackageNotFoundError if one is not installed."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions, "device": device}


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            # ``from lib.training import checkpoint`` names a module, not a member
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] == "lib" and _exists(name)]


def _exists(module: str) -> bool:
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def _dump(tree: ast.AST) -> str:
    """The tree as text, alike from Python 3.11 to 3.13: newer ones add fields and hide lists."""
    for node in ast.walk(tree):
        if getattr(node, "type_params", None) == []:
            del node.type_params
    return ast.dump(tree, **({"show_empty": True} if sys.version_info >= (3, 13) else {}))


def _bare(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0], "value", None), ast.Constant):
                node.body = body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return tree
