"""What the frozen base says about every token, computed once and kept in a memory-mapped cache.

Per token: the final normed state h_n (the input of a stage), the three cosines of the seeds, and,
from the head in chunks, loss, confidence, entropy, margin and whether the guess was right. The full
logits are never stored and never exist as a whole.

The cache's key is the SHA-256 of model, corpus and this code. A finished folder has a manifest with
the digest of every file; a folder whose manifest or bytes do not fit is rebuilt, never read. An
interrupted collection goes on after its last whole batch. Several processes (``accelerate launch``,
torchrun) each fill their own part of the same files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.cascade import difficulty, linear_cross_entropy
from lib.cascade.difficulty import hidden_cosine
from lib.cascade.linear_cross_entropy import head_statistics
from lib.base.pretrained import Base, cache_folder, sha256_of
from lib.runs.places import code_hash
from lib.text.token_stream import TokenWindows

log = logging.getLogger(__name__)

SCALARS = (
    "last_two_layers",
    "last_layer",
    "embedding_to_final",
    "loss",
    "confidence",
    "entropy",
    "margin",
    "correct",
)


@dataclass(frozen=True)
class Features:
    """Everything known of N = windows * length tokens, in stream order.

    ``final`` float32 [N, width] (memory-mapped); ``scalars`` name -> float32 [N]; ``ids`` and
    ``labels`` int64 [N]; ``key`` names the cache folder.
    """

    final: Tensor
    scalars: dict[str, Tensor]
    ids: Tensor
    labels: Tensor
    length: int
    key: str

    @property
    def tokens(self) -> int:
        return self.labels.shape[0]


def feature_key(base: Base, windows: TokenWindows) -> str:
    """SHA-256 over model, corpus and the code that computes the features."""
    code = code_hash(__name__, difficulty.__name__, linear_cross_entropy.__name__)
    return hashlib.sha256(f"{base.sha256} {windows.sha256} {code}".encode()).hexdigest()


def collect(
    base: Base, windows: TokenWindows, folder: Path | None = None, batch: int = 8
) -> Features:
    """Features of all tokens of ``windows``, from the cache in ``folder`` or computed now.

    ``folder`` default: ``features`` in the project's cache. ``batch``: windows per forward pass.
    """
    root = Path(folder) if folder else cache_folder() / "features"
    key = feature_key(base, windows)
    ready = root / key[:32]
    rank, world = _processes()
    if rank == 0 and ready.exists() and not _intact(ready, key):
        log.warning("the feature cache %s is damaged or foreign: it is rebuilt", ready.name)
        shutil.rmtree(ready)
    _barrier(world)
    if not ready.exists():
        _compute(base, windows, ready, key, batch, rank, world)
    return _open(ready, windows, key)


def _compute(base, windows, ready, key, batch, rank, world) -> None:
    partial = ready.with_name(ready.name + ".partial")
    width = base.model.config.hidden_size
    count, length = windows.inputs.shape
    files = _files(partial, count * length, width)
    if rank == 0:
        partial.mkdir(parents=True, exist_ok=True)
        for path, shape in files:
            if not path.exists() or path.stat().st_size != 4 * int(np.prod(shape)):
                for stale in partial.glob("progress-*"):
                    stale.unlink()
                np.memmap(path, np.float32, "w+", shape=shape).flush()
    _barrier(world)
    final, scalars = (np.memmap(path, np.float32, "r+", shape=shape) for path, shape in files)
    starts = list(range(0, count, batch))[rank::world]
    progress = partial / f"progress-{rank}-{world}-{batch}"
    done = int(progress.read_text()) if progress.exists() else 0
    device = next(base.model.parameters()).device
    for number, start in enumerate(starts[done:], start=done + 1):
        rows = slice(start, min(start + batch, count))
        part = window_features(
            base, windows.inputs[rows].to(device), windows.labels[rows].to(device)
        )
        broken = [name for name, values in part.items() if not torch.isfinite(values).all()]
        if broken:
            raise FloatingPointError(f"the base gives no finite {', '.join(broken)} in {rows}")
        at = slice(rows.start * length, rows.stop * length)
        final[at] = part.pop("final").cpu().numpy()
        scalars[:, at] = torch.stack([part[name] for name in SCALARS]).cpu().numpy()
        if number % 8 == 0 or number == len(starts):
            final.flush()
            scalars.flush()
            _write(progress, str(number))
            log.info("features of %s: %d of %d batches", windows.name, number, len(starts))
    _barrier(world)
    if rank == 0:
        for stale in partial.glob("progress-*"):
            stale.unlink()
        digests = {path.name: sha256_of(path) for path, _ in files}
        _write(
            partial / "manifest.json",
            json.dumps({"key": key, "tokens": count * length, "width": width, "files": digests}),
        )
        os.replace(partial, ready)
    _barrier(world)


@torch.inference_mode()
def window_features(base: Base, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One forward pass. inputs, labels [B, T] -> ``final`` [B*T, width] and SCALARS, each [B*T]."""
    out = base.model.model(input_ids=inputs, output_hidden_states=True, use_cache=False)
    hidden = out.hidden_states
    final = out.last_hidden_state.flatten(0, 1)
    result = {name: hidden_cosine(hidden, name).flatten() for name in SCALARS[:3]}
    result.update(head_statistics(final, base.model.lm_head.weight, labels.flatten()))
    result["final"] = final
    return result


def _files(folder: Path, tokens: int, width: int) -> list[tuple[Path, tuple[int, int]]]:
    return [
        (folder / "final.f32", (tokens, width)),
        (folder / "scalars.f32", (len(SCALARS), tokens)),
    ]


def _intact(ready: Path, key: str) -> bool:
    """Whether a finished folder is of this key and no byte of it has changed."""
    try:
        manifest = json.loads((ready / "manifest.json").read_text())
        files = _files(ready, manifest["tokens"], manifest["width"])
        return manifest["key"] == key and all(
            path.stat().st_size == 4 * int(np.prod(shape))
            and sha256_of(path) == manifest["files"][path.name]
            for path, shape in files
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open(ready: Path, windows: TokenWindows, key: str) -> Features:
    manifest = json.loads((ready / "manifest.json").read_text())
    (final, shape), (scalars, table) = _files(ready, manifest["tokens"], manifest["width"])
    # copy-on-write: torch wants a writable array, and the file must never change
    states = torch.from_numpy(np.memmap(final, np.float32, "c", shape=shape))
    values = torch.from_numpy(np.fromfile(scalars, np.float32).reshape(table))
    return Features(
        states,
        dict(zip(SCALARS, values, strict=True)),
        windows.inputs.flatten(),
        windows.labels.flatten(),
        windows.inputs.shape[1],
        key,
    )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _processes() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _barrier(world: int) -> None:
    if world > 1:
        torch.distributed.barrier()
