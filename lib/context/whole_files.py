"""Files and folders that lie in their place complete or not at all, also after a killed run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def beside(path: Path) -> Path:
    """Where `path` is written before it is renamed; a killed write leaves this behind."""
    return path.with_name(path.name + ".part")


def write_file(path: Path, data: bytes) -> None:
    """Write beside, flush to disk, rename. What a killed write left beside is overwritten."""
    partial = beside(path)
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _flush(path.parent)


def place_folder(partial: Path, folder: Path) -> None:
    """Flush all files of `partial` to disk and rename it to `folder`, whose old content goes.

    Between the two there may be no folder at that place, but never a part of one.
    """
    for path in partial.iterdir():
        _flush(path)
    _flush(partial)
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    else:
        os.replace(partial, folder)
    _flush(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder and what killed writes left beside it; nothing to do is no error."""
    for path in (beside(folder), folder.with_name(folder.name + ".old"), folder):
        shutil.rmtree(path, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
