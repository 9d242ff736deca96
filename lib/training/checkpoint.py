"""Save and load a training state so that a run killed at any instant goes on with the same bits.

A file is written beside its place and moved over it, so a reader sees the old one or the new one,
never half of one. Loading admits tensors and plain values only.
"""

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, text, lists, dicts) to ``path`` in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any] | None:
    """The saved state, or None if there is none. Raises RuntimeError for a corrupt file."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # a bad archive raises any of several types
        raise RuntimeError(
            f"the checkpoint {path.name} cannot be read ({type(error).__name__}); delete it to "
            "begin this run again"
        ) from error
