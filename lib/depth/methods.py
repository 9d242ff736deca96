"""What distinguishes the networks of the study, as data; every mechanism is off by default.

* exits: the last norm and the head read after these layers (LPT; LayerSkip, Elhoushi et al. 2024).
* kept: only these layers of the base are there (fixed depth).
* gated: a gate decides for every token whether a block of middle layers moves it.
* again: a block of layers is run a second time, over all, hard or random tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

EXIT_LOSSES = ("equal", "rising")
WHICH = ("all", "hard", "random")


@dataclass(frozen=True)
class Gated:
    """Layers ``first`` to ``last - 1`` move a token if its gate opens; ``rate``: share wanted.

    Trained with logistic noise on the gate, a straight-through gradient and a penalty on the
    distance from the rate. A token that skips keeps its state and gives keys and values from it.
    """

    first: int
    last: int
    rate: float = 0.5
    penalty: float = 10.0
    VERSION = 1


@dataclass(frozen=True)
class Again:
    """Layers ``first`` to ``last - 1`` run twice: the second time from s = a + m (b - a).

    a and b are the states before and after the block, ``m`` a trained vector that is 0 at first:
    then the second pass repeats the first and changes nothing. ``which`` tokens: all of them, the
    share ``rate`` of highest entropy of a first read-out (only for a block that ends the network),
    or a random share ``rate``. Tokens that are not run again give the keys and values of the first
    pass.
    """

    first: int
    last: int
    which: str = "all"
    rate: float = 1.0
    VERSION = 1

    def __post_init__(self):
        if self.which not in WHICH:
            raise ValueError(f"which is {self.which!r}; allowed: {', '.join(WHICH)}")


@dataclass(frozen=True)
class Method:
    """A network and how it is trained. ``layers`` of the base in all; ``kept``: none named = all.

    At most one of ``exits``, ``gated`` and ``again``. ``exits`` are numbers of layers after which
    is read, without the last. ``exit_loss``: weights of the losses, ``equal`` or ``rising``.
    ``layer_dropout``: probability with which a window skips the last layer; at layer l of L it is
    2^(l / (L - 1)) - 1 times that (Elhoushi et al.). ``trained`` False: the base as it is.
    """

    layers: int
    kept: tuple[int, ...] = ()
    exits: tuple[int, ...] = ()
    exit_loss: str = "equal"
    layer_dropout: float = 0.0
    gated: Gated | None = None
    again: Again | None = None
    trained: bool = True
    VERSION = 1

    def __post_init__(self):
        if self.exit_loss not in EXIT_LOSSES:
            raise ValueError(f"exit_loss is {self.exit_loss!r}; allowed: {', '.join(EXIT_LOSSES)}")
        if sum(map(bool, (self.exits, self.gated, self.again))) > 1:
            raise ValueError("exits, a gated block and a second pass do not go together")
        if self.layer_dropout and (self.gated or self.again):
            raise ValueError("layer_dropout is for exits and plain networks alone")
        rising = sorted(set(self.exits)) == [*self.exits]
        if any(not 0 < e < self.depth for e in self.exits) or not rising:
            raise ValueError(f"exits {self.exits} do not rise between 1 and {self.depth - 1}")
        if any(not 0 <= i < self.layers for i in self.kept):
            raise ValueError(f"kept {self.kept} are not all layers of a base of {self.layers}")
        for block in (self.gated, self.again):
            if block is not None and not 0 <= block.first < block.last <= self.depth:
                raise ValueError(f"a block from {block.first} to {block.last} is no block")
        if self.again is not None and self.again.which == "hard" and self.again.last != self.depth:
            raise ValueError("hard tokens are known after the last layer: the block must end there")

    @property
    def depth(self) -> int:
        """Layers that the network has."""
        return len(self.kept) or self.layers

    @property
    def reads(self) -> tuple[int, ...]:
        """Layers after which it is read, the last included."""
        return (*self.exits, self.depth)


def last_removed(layers: int, left: int) -> Method:
    """The base without its last layers."""
    return Method(layers, kept=tuple(range(left)))


def middle_removed(layers: int, left: int) -> Method:
    """The base without its middle layers; of an odd number left, one more stays in front."""
    back = left // 2
    kept = (*range(left - back), *range(layers - back, layers))
    return Method(layers, kept=kept)
