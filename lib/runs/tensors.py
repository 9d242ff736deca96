"""Tensors on disk: safetensors with plain values beside them, sealed by a checksum.

The one format of checkpoints, kept weights and cached states. Nothing in such a file is code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lib.runs.files import Damaged, write_bytes
from lib.runs.places import shown


def save_tensors(path: Path, tensors: dict[str, Tensor], about: Any = None) -> None:
    """Write named tensors and a plain JSON value ``about`` to ``path`` in one move."""
    whole: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage().data_ptr()
        # tied weights are written twice: the format knows no sharing
        whole[name] = own.clone() if storage in seen else own
        seen.add(storage)
    text = json.dumps(about)  # in the order given: columns of a curve keep theirs
    seal = _digest(whole, text)
    write_bytes(path, save(whole, {"about": text, "sha256": seal}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors and what was said of them.

    Raises Damaged for a file that is not what was written, FileNotFoundError if there is none, and
    OSError where the system cannot read it now, which says nothing of the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{shown(path)} is not there")
    try:
        with safe_open(path, "pt") as file:
            note = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        if _digest(tensors, note["about"]) == note["sha256"]:
            return tensors, json.loads(note["about"])
    except (SafetensorError, KeyError, ValueError):
        pass
    raise Damaged(f"{shown(path)} is not what was written (its checksum differs)", path)


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, and the text."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    return found.hexdigest()
