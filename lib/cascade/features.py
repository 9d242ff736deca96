"""What the frozen base says about every token, computed once and kept in the project's cache.

Per token: the final normed state h_n (the input of a stage) and the three cosines of the reports;
and, only where something asks for them, what the head says: loss, confidence, entropy, margin and
whether the guess was right (29 % of the cost). The full logits never exist as a whole.

The cache holds shards of 64 windows. A shard is named by the base's identity, its token ids and
FEATURES_VERSION, so two datasets that begin alike share what they have in common, an interrupted
collection goes on after its last shard, and a damaged shard alone is set aside and made again.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib.base.head import head_statistics
from lib.base.pretrained import Base
from lib.cascade.difficulty import hidden_cosine
from lib.runs import files
from lib.runs.places import cache_folder
from lib.runs.tensors import load_tensors, save_tensors
from lib.text.token_stream import TokenWindows

FEATURES_VERSION = 1  # raised where the numbers of a feature change
SHARD = 64  # windows of a file
BATCH = 8  # windows of a forward pass
COSINES = ("last_two_layers", "last_layer", "embedding_to_final")
HEAD = ("loss", "confidence", "entropy", "margin", "correct")
SCALARS = COSINES + HEAD


class Scalars(Mapping):
    """Name -> float32 [N]. What the head says is computed when one of its names is asked for."""

    def __init__(self, cosines: dict[str, Tensor], head: Callable[[], dict[str, Tensor]]):
        self._cosines, self._head = cosines, head

    def __getitem__(self, name: str) -> Tensor:
        if name not in SCALARS:
            raise KeyError(name)
        return (self._cosines if name in COSINES else self._head())[name]

    def __iter__(self) -> Iterator[str]:
        return iter(SCALARS)

    def __len__(self) -> int:
        return len(SCALARS)

    def cut(self, rows: slice) -> Scalars:
        """Those of the tokens ``rows``."""
        return Scalars(_cut(self._cosines, rows), lambda: _cut(self._head(), rows))


def _cut(values: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: own[rows] for name, own in values.items()}


@dataclass(frozen=True)
class TokenFeatures:
    """Everything known of N = windows * length tokens, in stream order.

    ``final`` float32 [N, width]; ``scalars`` name -> float32 [N]; ``ids``, ``labels`` int64 [N].
    """

    final: Tensor
    scalars: Mapping[str, Tensor]
    ids: Tensor
    labels: Tensor
    length: int

    @property
    def tokens(self) -> int:
        return self.labels.shape[0]

    def windows(self, first: int, count: int) -> TokenFeatures:
        """``count`` windows from window ``first`` on, at most what is there."""
        rows = slice(first * self.length, (first + count) * self.length)
        held = self.scalars
        scalars = held.cut(rows) if isinstance(held, Scalars) else _cut(held, rows)
        return TokenFeatures(
            self.final[rows], scalars, self.ids[rows], self.labels[rows], self.length
        )


def token_features(base: Base, windows: TokenWindows, folder: Path | None = None) -> TokenFeatures:
    """Features of all tokens of ``windows``, from the cache in ``folder`` or computed now.

    ``folder`` default: ``features`` in the project's cache. Raises NoRoom, before anything is
    computed, where the states do not fit, and FloatingPointError for a base that gives no numbers.
    """
    root = Path(folder) if folder else cache_folder() / "features"
    width, tokens = base.model.config.hidden_size, windows.inputs.shape[1] * SHARD
    inputs, labels = windows.inputs.split(SHARD), windows.labels.split(SHARD)
    with files.locked(root / "lock"):
        files.clear_partial(root)
        names = [_name(base, "states", part) for part in inputs]
        missing = sum(not _path(root, name).is_file() for name in names)
        files.budgeted(root, missing * tokens * (width + len(COSINES)) * 4, "features of the base")
        shards = []
        for number, (name, part) in enumerate(zip(names, inputs, strict=True), start=1):
            make = functools.partial(_states, base, part)
            progress = f"features of {windows.name}: {number} of {len(names)}"
            shards.append(_kept(root, name, make, progress))
    final = torch.cat([shard["final"] for shard in shards])
    cosines = {name: torch.cat([shard[name] for shard in shards]) for name in COSINES}

    @functools.cache
    def head() -> dict[str, Tensor]:
        states = final.split(tokens)
        with files.locked(root / "lock"):
            said = [
                _kept(root, _name(base, "head", i, y), functools.partial(_head, base, x, y))
                for i, x, y in zip(inputs, states, labels, strict=True)
            ]
        return {name: torch.cat([part[name] for part in said]) for name in HEAD}

    return TokenFeatures(
        final,
        Scalars(cosines, head),
        windows.inputs.flatten(),
        windows.labels.flatten(),
        windows.inputs.shape[1],
    )


@torch.inference_mode()
def window_features(base: Base, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One forward pass. inputs, labels [B, T] -> ``final`` [B*T, width] and SCALARS, each [B*T]."""
    found = window_states(base, inputs)
    return found | head_statistics(found["final"], base.model.lm_head.weight, labels.flatten())


@torch.inference_mode()
def window_states(base: Base, inputs: Tensor) -> dict[str, Tensor]:
    """One forward pass without the head. inputs [B, T] -> ``final`` and COSINES."""
    out = base.model.model(input_ids=inputs, output_hidden_states=True, use_cache=False)
    found = {name: hidden_cosine(out.hidden_states, name).flatten() for name in COSINES}
    return found | {"final": out.last_hidden_state.flatten(0, 1)}


def _states(base: Base, inputs: Tensor) -> dict[str, Tensor]:
    device = base.model.device
    parts = [window_states(base, part.to(device)) for part in inputs.split(BATCH)]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}


def _head(base: Base, states: Tensor, labels: Tensor) -> dict[str, Tensor]:
    weight = base.model.lm_head.weight
    said = head_statistics(states.to(weight.device), weight, labels.flatten().to(weight.device))
    return {name: values.cpu() for name, values in said.items()}


def _kept(root: Path, name: str, make: Callable, progress: str = "") -> dict[str, Tensor]:
    """A shard, read if it is there and whole, else made and written."""
    path = _path(root, name)
    if found := files.kept(path, load_tensors):
        return found[0]
    made = make()
    broken = [key for key, values in made.items() if not torch.isfinite(values).all()]
    if broken:
        raise FloatingPointError(f"the base gives no finite {', '.join(broken)}")
    save_tensors(path, made)
    if progress:
        print(progress, flush=True)
    return made


def _path(root: Path, name: str) -> Path:
    return root / f"{name}.safetensors"


def _name(base: Base, kind: str, *ids: Tensor) -> str:
    """Thirty-two hex digits over kind, version, base, where it computes, and token ids."""
    found = hashlib.sha256(f"{kind} {FEATURES_VERSION} {base.computation}".encode())
    for part in ids:
        found.update(f"{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
    return found.hexdigest()[:32]
