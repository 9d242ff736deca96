"""The decoder-only character transformer. Read this file first.

Embedding -> L blocks -> head, one logit per symbol. No final norm (blocks end in one), no
weight tying, no learned positions. With ``width`` d, ``layers`` L and ``vocabulary`` V it has
2 V d + L (16 d^2 + 2 d) parameters: 78,080 for L = 1 and 275,072 for L = 4 at V = 97, d = 64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.character.models.block import Block, initialise


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a character transformer.

    ``initial_state`` adds a learned (length, width) state that refinement training (IRT) adds
    to the embedding in its first segment; without it the state is zero and costs nothing.
    ``dropout`` is applied to what attention and feed-forward add, in training (0: none at all).
    Raises ValueError for a size that is no whole number or too small.
    """

    layers: int = 1
    width: int = 64
    heads: int = 4
    length: int = 64
    initialisation: str = "A"
    initial_state: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        for name, least in {"layers": 0, "width": 1, "heads": 1, "length": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} is {value!r}; allowed: a whole number of at least {least}"
                )

    def build(self, vocabulary: int) -> "Transformer":
        """A network of this shape over so many symbols, drawn from the global generator."""
        return Transformer(self, vocabulary)


class Transformer(nn.Module):
    """Maps symbols (B, T) to logits (B, T, V); position t sees symbols 0..t."""

    def __init__(self, config: TransformerConfig, vocabulary: int):
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.embedding = nn.Embedding(vocabulary, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout) for _ in range(config.layers)
        )
        self.head = nn.Linear(config.width, vocabulary, bias=False)
        initialise(self, config.initialisation, config.width)
        self.initial_state = None
        if config.initial_state:
            self.initial_state = nn.Parameter(0.02 * torch.randn(1, config.length, config.width))

    def hidden_states(
        self, symbols: Tensor, state: Tensor | None = None, order: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Input and output of every block: L + 1 tensors (B, T, d).

        ``state`` (B or 1, T, d) is added to the embedding; None adds nothing at all. ``order``: the
        blocks by number as they are run, some of them more than once; None: each once.
        """
        x = self.embedding(symbols)
        if state is not None:
            x = x + state
        states = [x]
        for number in range(len(self.blocks)) if order is None else order:
            states.append(self.blocks[number](states[-1]))
        return states

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits (B, T, V) of a single pass without a state."""
        return self.head(self.hidden_states(symbols)[-1])

    def begin(self, symbols: Tensor) -> Tensor | None:
        """State before the first segment: the learned one (1, T, d), or None."""
        if self.initial_state is None:
            return None
        return self.initial_state[:, : symbols.shape[1]]

    def segment(self, symbols: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """One pass over the window: logits (B, T, V) and the state (B, T, d) for the next."""
        last = self.hidden_states(symbols, state)[-1]
        return self.head(last), last
