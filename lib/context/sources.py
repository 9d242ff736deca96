"""Where the contexts of a run come from: a block with or without Phase 1, a window, or training.

The dataclasses are the choices an experiment makes; the functions turn a recurrent choice into a
trained block and into contexts by the chosen way.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.contexts import (
    METHODS,
    compute_contexts,
    cut_contexts,
    document_starts,
    layer_outputs,
    sequential,
)
from lib.context.phase_one import PhaseOneSettings, run_phase_one
from lib.context.whole_files import write_file

WAYS = (*METHODS, "table")  # "table": the lagged Phase 1 table, the seed's own parallel cache


@dataclass(frozen=True)
class Recurrent:
    """Contexts of a ContextBlock; `phase_one` None leaves the block random (a reservoir).

    `memory` k > 0 cuts every layer's context, in training and in measuring, to the last k tokens,
    its own included: as many as a k-token window sees. 0 cuts nothing.
    """

    layout: str = "every_layer"
    layers: int = 6
    width: int = 192
    phase_one: PhaseOneSettings | None = PhaseOneSettings()
    residual_projection: bool = True
    way: str = "sequential"
    sweeps: int = 8
    document: int = 256
    memory: int = 0

    def __post_init__(self) -> None:
        if self.memory and self.way != "sequential":
            raise ValueError("a cut memory is computed by sweeps; leave way at 'sequential'")
        if self.way not in WAYS:
            raise ValueError(f"way is {self.way!r}; allowed: {', '.join(WAYS)}")
        if self.way == "table" and self.phase_one is None:
            raise ValueError("the table of Phase 1 needs a Phase 1")

    def block(self, token_dim: int, seed: int) -> ContextBlock:
        """The untrained block for token inputs of width ``token_dim``."""
        return ContextBlock(
            self.width,
            token_dim,
            self.layers,
            self.layout,
            residual_projection=self.residual_projection,
            seed=seed,
        )


@dataclass(frozen=True)
class Window:
    """The k-token MLP: no recurrence, the `count` last embeddings at every layer."""

    count: int
    layers: int = 6


@dataclass(frozen=True)
class TruncatedBptt:
    """The same cell trained end to end for the task."""

    layout: str = "every_layer"
    layers: int = 6
    width: int = 192
    lanes: int = 32
    window: int = 16


def clean_contexts(choice: Recurrent, block: ContextBlock, x: Tensor) -> Tensor:
    """Table [N, D] for `layer_outputs` on validation and test: exact, or cut to `memory`."""
    if choice.memory:
        return cut_contexts(block, x, choice.memory)
    return sequential(block, x)


def trained_block(
    choice: Recurrent, x: Tensor, seed: int, path: Path
) -> tuple[ContextBlock, dict, Tensor | None]:
    """Block after Phase 1 (or random), what Phase 1 did, and its last table [N, D].

    The result of a Phase 1 lies at `path` and is read from there the next time. Raises RuntimeError
    that names the file when it is damaged.
    """
    block = choice.block(x.shape[1], seed)
    if choice.phase_one is None:
        return block, {"iterations": 0, "phase_one_seconds": 0.0, "curve": []}, None
    if path.is_file():
        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            table = tensors.pop("table")
            block.load_state_dict(tensors)
        except Exception as error:
            raise RuntimeError(f"the checkpoint {path.name} is damaged; delete it") from error
        return block, about, table
    started = time.perf_counter()
    result = run_phase_one(block, x, choice.phase_one, seed)
    about = {
        "iterations": result.iterations,
        "phase_one_converged": result.converged,
        "phase_one_seconds": time.perf_counter() - started,
        "curve": result.curve,
    }
    state = {**block.state_dict(), "table": result.table}
    write_file(path, save(state, metadata={"about": json.dumps(about)}))
    return block, about, result.table


def collect(
    choice: Recurrent, block: ContextBlock, x: Tensor, table: Tensor | None
) -> tuple[list[Tensor], dict]:
    """Layer contexts of the training stream by the chosen way, and what the way measured."""
    if choice.way == "table":
        return layer_outputs(block, table, x), {}
    if choice.memory:
        return layer_outputs(block, cut_contexts(block, x, choice.memory), x), {}
    if choice.way == "documents":
        whole, rest = divmod(x.shape[0], choice.document)
        lengths = [choice.document] * whole + ([rest] if rest else [])
        found = compute_contexts(block, x, "documents", lengths=lengths)
        return layer_outputs(block, found.final, x, document_starts(lengths)), {}
    found = compute_contexts(block, x, choice.way, sweeps=choice.sweeps, tolerance=1e-3)
    extra = {"sweeps": len(found.changes)} if found.changes else {}
    return layer_outputs(block, found.final, x), extra
