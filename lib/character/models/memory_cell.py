"""Compressive memory inside a recurrent module (HRM+Memory of R4) -- *reconstructed*.

The original code is lost; only its parameter count (about 193 thousand) and its failure
(perplexity 22.6 and 23.2) are on record. Inferred here: each of the two modules gets query,
key, value, output and gate maps of width d without bias, 5 d^2 parameters a module, which
gives 152,064 + 10 * 64^2 = 193,024. Reading and writing are those of infini-attention; the
module's state is mixed with what it reads through a gate per channel:

    s <- (1 - sigmoid(W_g s)) * s + sigmoid(W_g s) * W_o read(W_q s)

The memory reaches the next segment without gradient, so the key and value maps keep their random
initialisation, and under HRM's refactored update all maps of the L-module do: of the ten matrices
added three are trained.
"""

import torch
from torch import Tensor, nn

from lib.character.models.infini_attention import Memory


class MemoryCell(nn.Module):
    """State (B, T, d) and a memory -> the mixed state and the memory after this window."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)

    def forward(self, state: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        memory = memory.detach()
        batch, length, width = state.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (f(state).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        read = self.output(memory.read(q).transpose(1, 2).reshape(state.shape))
        share = torch.sigmoid(self.gate(state))
        return (1 - share) * state + share * read, memory.write(k, v)
