"""A toy: one sentence through a mechanism, small enough to be read whole.

A toy shows how a mechanism works and supports no claim: its networks are drawn at random, or fitted
for some dozens of updates to the one sentence below. ``lib/<study>/toys`` has one for each
notebook.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pandas as pd
import torch
from matplotlib.figure import Figure

SENTENCE = "the deeper the layer, the harder the token it has to read"
SEED = 0
SPACE = "·"  # stands for a blank, which no mark could be put under


@dataclass(frozen=True)
class Toy:
    """What a mechanism does to one sentence.

    ``look``: what to look at, and what the networks are. ``shapes``: the tensors on the way, by
    name. ``lines``: text of equal widths, such as a sentence with a mark under each token.
    ``picture`` draws a small figure.
    """

    look: str
    shapes: Mapping[str, Sequence[int]]
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    lines: str = ""
    picture: Callable[[], Figure] | None = None

    def spoken_shapes(self) -> str:
        """The shapes in a line."""
        parts = (f"{name} ({', '.join(map(str, shape))})" for name, shape in self.shapes.items())
        return "; ".join(parts)


@contextmanager
def drawn() -> Iterator[None]:
    """Random numbers of a toy: always the same, and none of the notebook's are used up.

    A decorator too.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


def aligned(tokens: Sequence[str], rows: Mapping[str, Sequence[object]]) -> str:
    """Tokens in a line and under each, row by row, what is said of it.

    Blanks of tokens become ``SPACE``. Raises ValueError for a row of another length.
    """
    shown = [token.replace(" ", SPACE).replace("\n", "↵") for token in tokens]
    for name, row in rows.items():
        if len(row) != len(tokens):
            raise ValueError(f"{len(row)} marks in {name!r} for {len(tokens)} tokens")
    cells = {"": shown, **{name: [str(mark) for mark in row] for name, row in rows.items()}}
    widths = [max(map(len, column)) for column in zip(*cells.values(), strict=True)]
    gap = "" if max(widths, default=1) == 1 else " "
    head, found = max(map(len, cells)), []
    for name, row in cells.items():
        line = gap.join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        found.append(f"{name:<{head}}  {line}".rstrip())
    return "\n".join(found)


def bar(value: float, largest: float, width: int = 20) -> str:
    """A bar of text for a table; nothing for zero."""
    return "█" * round(width * value / largest) if largest > 0 else ""
