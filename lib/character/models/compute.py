"""What training and inference cost, in floating point operations counted from the shapes.

A multiply-add counts as two. Norms, softmax and rotary turns are left out (below 2 % at d = 64).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What the cost of a character transformer depends on: V, d and the window in symbols."""

    vocabulary: int
    width: int = 64
    length: int = 64

    def block(self) -> int:
        """One block, forward, per symbol: 16 d^2 weights and two products with T positions."""
        return 2 * 16 * self.width**2 + 4 * self.length * self.width

    def keys_and_values(self) -> int:
        """The part of a block that an exited symbol still costs under state propagation."""
        return 2 * 2 * self.width**2

    def head(self) -> int:
        """One reading of the shared head, per symbol."""
        return 2 * self.width * self.vocabulary


def training_step(shape: Shape, layers: int, reads: int = 1, trained: int | None = None) -> int:
    """Forward and backward per symbol; ``reads`` is how many layers the head reads (LPT: all).

    Backward costs twice the forward pass of what is trained: the ``trained`` topmost blocks (None:
    all) and the head; frozen blocks below cost none.
    """
    top = layers if trained is None else trained
    return (layers + 2 * top) * shape.block() + 3 * reads * shape.head()
