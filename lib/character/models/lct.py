"""LCT+OACD: recurrent blocks shaped without labels, read out by a trained head -- *reconstructed*.

The original code of R4, Experiment 1, is lost. On record: 1 or 2 blocks of width 64 (78,080
and 149,952 parameters), 4 segments, states that start random, the L block every segment and the
H block every second one, an unsupervised dispersion loss (OACD) for the blocks, and the task loss
for the output head alone. Inferred: states are added to the embedding as in HRM, the start state
is one fixed normal draw of deviation 0.02, and embeddings keep their random values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.character.models.block import Block, initialise


@dataclass(frozen=True)
class LCTConfig:
    """Shape of an LCT network of one or two blocks; ``dropout`` is theirs, in training."""

    blocks: int = 1
    width: int = 64
    heads: int = 4
    length: int = 64
    initialisation: str = "A"
    dropout: float = 0.0

    def __post_init__(self):
        if self.blocks not in (1, 2):
            raise ValueError(f"blocks is {self.blocks}; allowed: 1, 2")

    def build(self, vocabulary: int) -> "LCT":
        """A network of this shape over so many symbols, drawn from the global generator."""
        return LCT(self, vocabulary)


@dataclass
class LCTState:
    """Cached states (B or 1, T, d) of the last segment and how many segments have run."""

    low: Tensor
    high: Tensor | None
    segments: int = 0

    def detach(self) -> "LCTState":
        high = None if self.high is None else self.high.detach()
        return LCTState(self.low.detach(), high, self.segments)


class LCT(nn.Module):
    """Maps symbols (B, T) and cached states to logits (B, T, V) and new states."""

    def __init__(self, config: LCTConfig, vocabulary: int):
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        width = config.width
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.dropout) for _ in range(config.blocks)
        )
        self.head = nn.Linear(config.blocks * width, vocabulary, bias=False)
        initialise(self, config.initialisation, width)
        self.register_buffer("start", 0.02 * torch.randn(config.blocks, config.length, width))

    def begin(self, symbols: Tensor) -> LCTState:
        """The fixed random states before the first segment."""
        start = self.start[:, None, : symbols.shape[1]]  # (blocks, 1, T, d)
        return LCTState(start[0], start[1] if self.config.blocks == 2 else None)

    def contexts(self, symbols: Tensor, state: LCTState) -> LCTState:
        """States after one more segment; H steps only in every second segment."""
        low, high = state.low, state.high
        x = self.embedding(symbols) + low
        if high is None:
            return LCTState(self.blocks[0](x), None, state.segments + 1)
        low = self.blocks[0](x + high)
        if state.segments % 2 == 1:
            high = self.blocks[1](high + low)
        return LCTState(low, high.expand_as(low), state.segments + 1)

    def segment(self, symbols: Tensor, state: LCTState) -> tuple[Tensor, LCTState]:
        """Logits (B, T, V) read from the states after one more segment, and those states."""
        state = self.contexts(symbols, state)
        read = state.low if state.high is None else torch.cat((state.low, state.high), dim=-1)
        return self.head(read), state
