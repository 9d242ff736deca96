"""Hierarchical Reasoning Model on characters: a fast L-module and a slow H-module.

One block per module, N = 1 high-level cycle of T = 2 steps, a learned initial state for each
module, and a two-way Q-head that no loss of R4 ever used (kept: it counts in the 152,064
parameters). Two update rules exist in the history of R4:

``original``   (Experiment 1): L, L, H one after the other; H reads the *new* L; the first
               L step is without gradient.
``refactored`` (Experiments 2 and 3): both modules step from the *old* states, and only the
               last of the two steps has a gradient. H then depends on an L computed without
               gradient, so **the L-module is never trained**: it stays a random feature.

Source of the architecture: Wang et al. 2025 (Hierarchical Reasoning Model).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.character.models.block import Block, initialise
from lib.character.models.infini_attention import InfiniAttention, Memory, MemoryCell

UPDATES = ("original", "refactored")
MEMORIES = ("none", "input", "hidden")


@dataclass(frozen=True)
class HRMConfig:
    """Shape and rule of an HRM.

    ``memory``: none; ``input`` puts one infini-attention layer before the recursion (Infini-HRM,
    168,452 parameters); ``hidden`` gives each module a compressive memory of its own
    (HRM+Memory, 193,024 parameters; reconstructed, see ``MemoryCell``).
    ``memory_off`` keeps those parameters but empties the memory before every read.
    ``causal_memory`` keeps what a window wrote from being read by its own later segments: as R4 ran
    it, segment 2 retrieves from a memory that already holds the *later* symbols of its window.
    ``dropout`` is that of the modules' blocks, in training (0: none at all).
    """

    width: int = 64
    heads: int = 4
    length: int = 64
    update: str = "refactored"
    initialisation: str = "A"
    memory: str = "none"
    memory_off: bool = False
    causal_memory: bool = False
    dropout: float = 0.0

    def __post_init__(self):
        if self.update not in UPDATES:
            raise ValueError(f"update is {self.update!r}; allowed: {', '.join(UPDATES)}")
        if self.memory not in MEMORIES:
            raise ValueError(f"memory is {self.memory!r}; allowed: {', '.join(MEMORIES)}")

    def build(self, vocabulary: int) -> "HRM":
        """A network of this shape over so many symbols, drawn from the global generator."""
        return HRM(self, vocabulary)


@dataclass
class HRMState:
    """What one segment hands on: L and H states (B or 1, T, d), memories to read, memories to keep.

    ``memories`` is what the next segment reads, ``kept`` what the next batch may inherit; they
    differ only under ``causal_memory``.
    """

    low: Tensor
    high: Tensor
    memories: tuple[Memory, ...] = ()
    kept: tuple[Memory, ...] = ()

    def detach(self) -> "HRMState":
        memories, kept = (tuple(m.detach() for m in part) for part in (self.memories, self.kept))
        return HRMState(self.low.detach(), self.high.detach(), memories, kept)


class HRM(nn.Module):
    """Maps symbols (B, T) and a state to logits (B, T, V) and the next state."""

    def __init__(self, config: HRMConfig, vocabulary: int):
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        width, heads = config.width, config.heads
        self.embedding = nn.Embedding(vocabulary, width)
        self.low = Block(width, heads, config.dropout)
        self.high = Block(width, heads, config.dropout)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.halt = nn.Linear(width, 2, bias=False)  # the Q-head, in no loss
        if config.memory == "input":
            self.input_memory = InfiniAttention(width, heads)
        if config.memory == "hidden":
            self.low_memory = MemoryCell(width, heads)
            self.high_memory = MemoryCell(width, heads)
        initialise(self, config.initialisation, width)
        self.low_start = nn.Parameter(0.02 * torch.randn(1, config.length, width))
        self.high_start = nn.Parameter(0.02 * torch.randn(1, config.length, width))

    def begin(self, symbols: Tensor, memories: tuple[Memory, ...] = ()) -> HRMState:
        """State before the first segment; ``memories`` may come from an earlier batch."""
        batch, length = symbols.shape
        if not memories:
            empty = Memory.empty(batch, self.config.heads, self.config.width, self.head.weight)
            memories = (empty,) * {"none": 0, "input": 1, "hidden": 2}[self.config.memory]
        return HRMState(self.low_start[:, :length], self.high_start[:, :length], memories, memories)

    def segment(self, symbols: Tensor, state: HRMState) -> tuple[Tensor, HRMState]:
        """One recursion over the window; logits (B, T, V) and the state for the next segment."""
        embedded, memories = self.embedding(symbols), state.memories
        if self.config.memory_off:
            memories = tuple(memory.zeroed() for memory in memories)
        written = memories
        if self.config.memory == "input":
            embedded, memory = self.input_memory(embedded, memories[0])
            written = (memory,)
        recurse = self._original if self.config.update == "original" else self._refactored
        low, high = recurse(embedded, state.low, state.high)
        if self.config.memory == "hidden":
            low, low_memory = self.low_memory(low, memories[0])
            high, high_memory = self.high_memory(high, memories[1])
            written = (low_memory, high_memory)
        # causal: the next segment reads what came in, so the window stays invisible to itself
        readable = state.memories if self.config.causal_memory else written
        return self.head(high), HRMState(low, high, readable, written)

    def forward(self, symbols: Tensor) -> Tensor:
        """Logits (B, T, V) of one segment from the learned states."""
        return self.segment(symbols, self.begin(symbols))[0]

    def _original(self, embedded: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            low = self.low(low + high + embedded)
        low = self.low(low + high + embedded)
        return low, self.high(high + low)

    def _refactored(self, embedded: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            first = self.low(low + embedded + high)  # H does not step: its period is 2
        second = self.low(first + embedded + high)
        return second, self.high(high + embedded + first)
