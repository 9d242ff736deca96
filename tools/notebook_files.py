"""Notebooks as files: their normal form, what a run stood on, and writing that cannot tear."""

import hashlib
import json
import sys
import time
from pathlib import Path

# nbformat checks no IRI, whose grammar takes 1.4 s to build
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.runs import files  # noqa: E402

# what papermill, kernels and front ends leave, different in every run
TRACES = ("papermill", "widgets", "execution", "trusted")


def tagged(book: nbformat.NotebookNode, tag: str) -> nbformat.NotebookNode:
    """The one cell with a tag. Raises ValueError if there is not exactly one."""
    cells = [cell for cell in book.cells if tag in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells are tagged {tag!r}; exactly one must be")
    return cells[0]


KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    # without the release of whoever ran it
    "language_info": {"name": "python", "file_extension": ".py"},
}


def normalise(book: nbformat.NotebookNode) -> None:
    """Take out what differs between two runs of the same notebook: times, widgets, releases."""
    own = {k: v for k, v in book.metadata.items() if k == "provenance"}
    book.metadata = nbformat.from_dict({**KERNEL, **own})
    for cell in book.cells:
        for key in TRACES:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            merge_streams(cell)


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


def identity(path: Path) -> dict[str, str]:
    """Hashes of the code cells and of the committed tables that a notebook shows.

    The first code cell is left out: it only finds the library, shows nothing, and is the same in
    all notebooks, which the tests see to. A notebook without an experiment shows all claims.
    """
    book = nbformat.read(path, as_version=4)
    own = [
        cell
        for cell in book.cells
        if cell.cell_type == "code" and "bootstrap" not in cell.metadata.get("tags", [])
    ]
    code = "\x1e".join(cell.source for cell in own)
    tables = sorted((ROOT / "results").glob(f"{path.stem}*.csv")) or [
        ROOT / "results" / "claims.csv"
    ]
    content = b"\x1e".join(table.read_bytes() for table in tables)
    return {
        "cells": hashlib.sha256(code.encode()).hexdigest()[:12],
        "tables": hashlib.sha256(content).hexdigest()[:12],
    }


def adopt(executed: Path, path: Path, before: dict[str, str]) -> None:
    """Put an executed copy in the place of a notebook, normalised, with what it stood on.

    ``before`` is the identity that the notebook had when its first cell ran.
    """
    book = nbformat.read(executed, as_version=4)
    normalise(book)
    book.metadata["provenance"] = {**before, "executed": time.strftime("%Y-%m-%d")}
    write(book, path)


def write(book: nbformat.NotebookNode, path: Path) -> None:
    """Save a notebook in one move, with the indentation and key order that all of them have."""
    nbformat.validate(book)
    text = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True)
    files.write_text(path, text + "\n")
