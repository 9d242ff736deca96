"""Infini-attention: local causal attention mixed with a compressive memory of earlier windows.

    memory read   phi(q) M / (phi(q) n)            phi(z) = elu(z) + 1
    memory write  M <- M + phi(k)^T v ;  n <- n + sum_t phi(k_t)
    output        W_o [ sigmoid(g) read + (1 - sigmoid(g)) local ]   one gate g a head, from 0

Source: Munkhdalai et al. 2024, in the plain-sum form of R4 (no delta rule); no rotary
positions, no residual, no norm: the layer's output replaces the embedding.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.character.models.block import CausalSelfAttention


@dataclass
class Memory:
    """Associations (B, heads, d_h, d_h) and their normaliser (B, heads, d_h)."""

    matrix: Tensor
    normaliser: Tensor

    @classmethod
    def empty(cls, batch: int, heads: int, width: int, like: Tensor) -> "Memory":
        """Nothing stored yet; device and type of ``like``."""
        head_width = width // heads
        return cls(
            torch.zeros(batch, heads, head_width, head_width).to(like),
            torch.zeros(batch, heads, head_width).to(like),
        )

    def zeroed(self) -> "Memory":
        return Memory(torch.zeros_like(self.matrix), torch.zeros_like(self.normaliser))

    def detach(self) -> "Memory":
        return Memory(self.matrix.detach(), self.normaliser.detach())

    def read(self, queries: Tensor) -> Tensor:
        """What is stored under queries (B, heads, T, d_h); same shape, zero while empty."""
        queries = F.elu(queries) + 1
        weight = queries @ self.normaliser.unsqueeze(-1)  # (B, heads, T, 1)
        return queries @ self.matrix / (weight + 1e-6)

    def write(self, keys: Tensor, values: Tensor) -> "Memory":
        """The memory after adding all T pairs of keys and values (B, heads, T, d_h)."""
        keys = F.elu(keys) + 1
        return Memory(self.matrix + keys.transpose(-1, -2) @ values, self.normaliser + keys.sum(-2))


class InfiniAttention(nn.Module):
    """(B, T, d) and a memory -> (B, T, d) and the memory after this window."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = CausalSelfAttention(width, heads, rotary=False)
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        memory = memory.detach()
        q, k, v = self.attention.split(x)
        local = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        share = torch.sigmoid(self.gate).view(1, -1, 1, 1)
        mixed = share * memory.read(q) + (1 - share) * local
        return self.attention.output(mixed.transpose(1, 2).reshape(x.shape)), memory.write(k, v)


class MemoryCell(nn.Module):
    """State (B, T, d) and a memory -> the mixed state and the memory after this window.

    Compressive memory inside a recurrent module (HRM+Memory of R4), *reconstructed*. The original
    code is lost; only its parameter count (about 193 thousand) and its failure (perplexity 22.6 and
    23.2) are on record. Inferred here: each of the two modules gets query, key, value, output and
    gate maps of width d without bias, 5 d^2 parameters a module, which gives 152,064 + 10 * 64^2 =
    193,024. Reading and writing are those of infini-attention; the module's state is mixed with
    what it reads through a gate per channel:

        s <- (1 - sigmoid(W_g s)) * s + sigmoid(W_g s) * W_o read(W_q s)

    The memory reaches the next segment without gradient, so the key and value maps keep their
    random initialisation, and under HRM's refactored update all maps of the L-module do: of the ten
    matrices added three are trained.
    """

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
