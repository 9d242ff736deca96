"""The only place that writes files: complete or not at all, sealed by a checksum, locked.

A file is written beside its place under a name of its own, flushed, and moved over the old one; a
reader sees the old file or the new one, never half of one, however many writers there are.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.runs.places import shown


class Damaged(RuntimeError):
    """A file whose content is not what was written; the message names it."""


class NoRoom(OSError):
    """A file that could not be written; the message says where and what is safe."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one move. Raises NoRoom if the folder takes no more."""
    with _spoken(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)  # mkstemp gives a file to its owner alone
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 in one move."""
    write_bytes(path, text.encode("utf-8"))


def write_record(path: Path, content: Any) -> None:
    """Write plain JSON with the checksum of itself, in one move."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    write_text(path, json.dumps({"sha256": seal, "content": content}, ensure_ascii=False, indent=1))


def read_record(path: Path) -> Any:
    """What ``write_record`` wrote. Raises Damaged if it is not, FileNotFoundError if absent."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(held["content"], ensure_ascii=False, sort_keys=True)
        if hashlib.sha256(text.encode()).hexdigest() == held["sha256"]:
            return held["content"]
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{shown(path)} is not what was written (its checksum differs)")


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is kept and no longer read; its new place."""
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            os.replace(path, aside)
            return aside
    raise NoRoom(f"{shown(path)} was set aside a thousand times; look at its disk")


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``place`` when the block has ended well.

    Its files are flushed first. Readers that hold the lock of ``locked`` see one or the other.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".part"))
    try:
        with _spoken(place, 0):
            yield partial
            partial.chmod(0o755)
            for path in partial.rglob("*"):
                _flush(path)
            if place.exists():
                old = Path(
                    tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.", suffix=".old")
                )
                os.replace(place, old / place.name)
                os.replace(partial, place)
                shutil.rmtree(old)
            else:
                os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``. With ``wait`` False raises BlockingIOError if it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def free_bytes(folder: Path) -> int:
    """Free space where ``folder`` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def budgeted(folder: Path, needed: int, what: str) -> None:
    """Raises NoRoom, before anything is written, if ``needed`` bytes of ``what`` do not fit."""
    free = free_bytes(folder)
    if needed > free:
        raise NoRoom(
            f"{what} needs {needed / 1e9:.1f} GB in {shown(folder)}, where {free / 1e9:.1f} GB are "
            "free; allowed: a smaller size, or another folder in DEPTH_CACHE or DEPTH_KEEP"
        )


@contextmanager
def _spoken(path: Path, size: int) -> Iterator[None]:
    """Turn a full or read-only disk into one sentence."""
    try:
        yield
    except OSError as error:
        reasons = {errno.ENOSPC: "the disk is full", errno.EROFS: "the disk is read-only"}
        reasons |= {errno.EACCES: "the folder is read-only", errno.EDQUOT: "the quota is used up"}
        if isinstance(error, NoRoom) or error.errno not in reasons:
            raise
        need = f", {size:,} bytes are needed" if size else ""
        raise NoRoom(
            f"{shown(path)} could not be written: {reasons[error.errno]}{need}; what was finished "
            "before is safe, and the same command goes on from there"
        ) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
