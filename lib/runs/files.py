"""The only place that writes files: complete or not at all, sealed by a checksum, locked.

A file is written beside its place under a name of its own, flushed, and moved over the old one; a
reader sees the old file or the new one, never half of one, however many writers there are.
"""

import contextlib
import errno
import fcntl
import functools
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.runs.places import is_gone, shown

NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)  # of a network disk


class Damaged(RuntimeError):
    """A file whose content is not what was written; the message names it, ``path`` is where it
    lies."""

    def __init__(self, message: str, path: Path | None = None):
        super().__init__(message)
        self.path = path


class NoRoom(OSError):
    """A file that could not be written; the message says where and what is safe."""


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in one move. Raises NoRoom if the folder takes no more."""
    with _spoken(path, len(data)):
        _make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # some disks know no modes
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
    content = json.loads(json.dumps(content))  # as it is read again: names are text
    held = {"sha256": _seal(content), "content": content}
    write_text(path, json.dumps(held, ensure_ascii=False, indent=1))


def read_record(path: Path) -> Any:
    """What ``write_record`` wrote. Raises Damaged if it is not, FileNotFoundError if absent."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if _seal(held["content"]) == held["sha256"]:
            return held["content"]
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{shown(path)} is not what was written (its checksum differs)", path)


def _seal(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def kept(path: Path, read: Callable[[Path], Any], then: str = "made again") -> Any:
    """``read(path)``; None where there is no such file or folder, or a damaged one, which is put
    away."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):  # whoever writes says what is in the way
        return None
    except Damaged as damage:
        put_away(path, damage, then)
        return None


def put_away(path: Path, damage: Damaged, then: str = "made again") -> None:
    """Set a damaged file or folder aside and say so, and what comes ``then``."""
    with contextlib.suppress(FileNotFoundError):  # another process has done the same
        print(f"{damage}; it is kept as {set_aside(path).name} and {then}", flush=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder, so that it is kept and no longer read; its new place."""
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            with _spoken(aside, 0):
                os.replace(path, aside)
            return aside
    raise NoRoom(f"{shown(path)} was set aside a thousand times; look at its disk")


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``place`` when the block has ended well.

    Its files are flushed first. Readers that hold the lock of ``locked`` see one or the other.
    """
    with _spoken(place, 0):
        _make_folder(place.parent)
        about = {"dir": place.parent, "prefix": f".{place.name}."}
        partial = Path(tempfile.mkdtemp(**about, suffix=".part"))
        try:
            yield partial
            partial.chmod(0o755)
            for path in partial.rglob("*"):
                _flush(path)
            if place.exists():
                old = Path(tempfile.mkdtemp(**about, suffix=".old"))
                os.replace(place, old / place.name)
                try:
                    os.replace(partial, place)
                except OSError:
                    os.replace(old / place.name, place)
                    old.rmdir()
                    raise
                shutil.rmtree(old)
            else:
                os.replace(partial, place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def clear_partial(folder: Path, name: str = "") -> None:
    """Remove what writers of ``name`` (of anything) in a folder left when they were killed.

    Only for whoever holds the lock under which these are written.
    """
    for end in ("part", "old"):
        for path in folder.glob(f".{glob.escape(name)}*.{end}"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``. With ``wait`` False raises BlockingIOError if it is held.

    On a disk without locks nothing is held, which is said aloud: two processes may do the same
    work twice.
    """
    with _spoken(path, 0):
        _make_folder(path.parent)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _say_unlocked()
        yield


@functools.cache
def _say_unlocked() -> None:
    """Once a process."""
    print("this disk has no locks: two processes at once may do the same work twice", flush=True)


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Keep writers that take ``locked(path)`` away while reading; readers do not wait for readers.

    Where nothing was ever locked there is no writer to wait for, and nothing is written.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            lock = held.enter_context(path.open("r"))
            fcntl.flock(lock, fcntl.LOCK_SH)
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
def scratch(folder: Path, needed: int, what: str) -> Iterator[Path]:
    """A folder inside ``folder`` that goes afterwards, for about ``needed`` bytes of ``what``.

    Raises NoRoom before anything is written where they do not fit, and when the disk is full.
    """
    budgeted(folder, needed, what)
    with _spoken(folder / what.replace(" ", "-"), needed):
        _make_folder(folder)
        with tempfile.TemporaryDirectory(dir=folder, suffix=".scratch") as made:
            yield Path(made)


def _make_folder(folder: Path) -> None:
    """Make a folder, but not that of a Drive which was cut off."""
    if is_gone(folder):
        raise FileNotFoundError(errno.ENOENT, "gone", str(folder))
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _spoken(path: Path, size: int) -> Iterator[None]:
    """Turn a disk that is full, read-only or gone, or a file where a folder should be, into one
    sentence."""
    try:
        yield
    except OSError as error:
        reasons = {errno.ENOSPC: "the disk is full", errno.EROFS: "the disk is read-only"}
        reasons |= dict.fromkeys((errno.EACCES, errno.EPERM), "the folder is read-only")
        reasons |= {errno.EDQUOT: "the quota is used up"}
        reasons |= {errno.EFBIG: "the file is larger than is allowed here (ulimit -f)"}
        blocked = "a file is where a folder should be"
        reasons |= dict.fromkeys((errno.EEXIST, errno.ENOTDIR), blocked)
        if is_gone(path):
            reasons[errno.ENOENT], size = "the folder of DEPTH_KEEP (keep_in) is gone", 0
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
