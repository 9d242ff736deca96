"""Memory-mapped cache of all layer contexts of a stream (what Phase 2 trains on).

A cache is a folder: ``about.json`` and one raw float32 file per layer, because the layers of the
equal-decrease layout differ in width. ``about.json`` also keeps what was measured while they were
made. The folder is written beside its place, flushed to disk and renamed when complete; opening
checks key, size and (unless ``quick``) the SHA-256 of every file.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.context.whole_files import beside, place_folder, remove_folder


class CacheError(RuntimeError):
    """The cache on disk is damaged or belongs to something else; the message says which."""


def cache_key(block: nn.Module, embedded: Tensor, method: str) -> str:
    """Hash of weights, token input and method: two caches with one key hold the same numbers."""
    digest = hashlib.sha256(method.encode())
    for name, tensor in sorted(block.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    digest.update(repr(tuple(embedded.shape)).encode())
    digest.update(embedded.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer_{layer}.f32"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_cache(folder: Path, layers: list[Tensor], key: str, measured: dict | None = None) -> None:
    """Store layer outputs [N, D_l] and JSON values `measured` under `key`, replacing the old cache.

    Atomic, for one writer at a time: at any moment the old cache, none, or the whole new one lies
    there. What a killed write left beside is removed first.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = beside(folder)
    remove_folder(partial)
    partial.mkdir()
    about = {"key": key, "shapes": [], "sha256": [], "measured": measured or {}}
    for index, layer in enumerate(layers):
        array = layer.detach().to(torch.float32).contiguous().numpy()
        array.astype("<f4", copy=False).tofile(_file(partial, index))
        about["shapes"].append(list(array.shape))
        about["sha256"].append(_digest(_file(partial, index)))
    (partial / "about.json").write_text(json.dumps(about), encoding="utf-8")
    place_folder(partial, folder)


def open_cache(
    folder: Path, key: str, *, quick: bool = False
) -> tuple[list[Tensor], dict[str, float]]:
    """Layer outputs as tensors over copy-on-write maps of the files, and what was measured.

    `quick` skips the content hashes. Raises CacheError for a missing, foreign, truncated or
    changed cache.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(f"{folder.name}: no readable about.json, incomplete") from error
    if about["key"] != key:
        raise CacheError(
            f"{folder.name}: made for other weights, text or method "
            f"(key {about['key'][:12]}, expected {key[:12]})"
        )
    layers = []
    for index, shape in enumerate(about["shapes"]):
        path = _file(folder, index)
        expected = 4 * math.prod(shape)
        actual = path.stat().st_size if path.is_file() else 0
        if actual != expected:
            raise CacheError(f"{path.name}: {actual} bytes, expected {expected}; it is truncated")
        if not quick and _digest(path) != about["sha256"][index]:
            raise CacheError(f"{path.name}: content differs from its SHA-256; it is damaged")
        layers.append(torch.from_numpy(np.memmap(path, "<f4", "c", shape=tuple(shape))))
    return layers, about["measured"]


def cache_bytes(layers: list[Tensor]) -> int:
    """Size of a cache on disk in bytes (4 per value)."""
    return sum(4 * layer.numel() for layer in layers)
