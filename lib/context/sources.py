"""Where the contexts of a run come from: a block with or without Phase 1, a window, or training.

The dataclasses are the choices an experiment makes; ``collect`` computes contexts by the chosen
way from a block that is ready.
"""

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.contexts import (
    BURN,
    WORTH,
    cut_contexts,
    document_starts,
    documents,
    exact,
    parallel,
    steps,
)
from lib.context.phase_one import PhaseOneSettings

# "table": the lagged table of Phase 1, the report's own parallel cache
WAYS = ("sequential", "lanes", "documents", "parallel", "table")
CHANGE = 1e-3  # relative change at which sweeps stop


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

    def cell(self) -> "Recurrent":
        """The same block without what concerns the collection of its contexts."""
        named = ("layout", "layers", "width", "phase_one")
        return Recurrent(**{name: getattr(self, name) for name in named})

    def block(self, token_dim: int, seed: int) -> ContextBlock:
        """The untrained block for token inputs of width ``token_dim``."""
        return ContextBlock(self.width, token_dim, self.layers, self.layout, seed=seed)


@dataclass(frozen=True)
class Window:
    """The k-token MLP: no recurrence, the `count` last embeddings at every layer."""

    count: int
    layers: int = 6


@dataclass(frozen=True)
class TruncatedBptt:
    """The same cell trained end to end for the task.

    `lanes` streams advance together, `window` tokens an update: lanes * window = batch.
    """

    layout: str = "every_layer"
    layers: int = 6
    width: int = 192
    lanes: int = 32
    window: int = 16


@dataclass(frozen=True)
class Collected:
    """Final contexts [N, D] that `layer_outputs` starts from, the rows that begin a document, and
    what was measured on the way."""

    final: Tensor
    starts: Tensor | None = None
    measured: dict = dataclasses.field(default_factory=dict)


def collect(
    choice: Recurrent,
    block: ContextBlock,
    x: Tensor,
    table: Tensor | None = None,
    by_steps: bool = False,
) -> Collected:
    """Contexts of a training stream x [N, m*d] by the chosen way.

    ``table``: the last one of Phase 1. ``by_steps`` walks the sequential way token after token
    even where lanes would give the same, which is what a clock has to time. The way "lanes" tries
    them on shorter texts too; where they fail their check it walks token after token as well.
    """
    if choice.way == "table":
        return Collected(table)
    if choice.memory:
        return Collected(cut_contexts(block, x, choice.memory))
    if choice.way == "documents":
        whole, rest = divmod(x.shape[0], choice.document)
        lengths = [choice.document] * whole + ([rest] if rest else [])
        return Collected(documents(block, x, lengths), document_starts(lengths))
    if choice.way == "parallel":
        final, changes = parallel(block, x, choice.sweeps, CHANGE)
        return Collected(final, measured={"sweeps": len(changes)})
    if by_steps and choice.way == "sequential":
        return Collected(steps(block, x))
    final, how = exact(block, x, least=BURN if choice.way == "lanes" else WORTH)
    return Collected(final, measured={"exact_by": how})


def clean_contexts(choice: Recurrent, block: ContextBlock, x: Tensor) -> Tensor:
    """Table [N, D] for `layer_outputs` on validation and test: exact, or cut to `memory`."""
    if choice.memory:
        return cut_contexts(block, x, choice.memory)
    return exact(block, x)[0]
