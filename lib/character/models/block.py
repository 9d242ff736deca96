"""The one block that every character-level model here is made of.

``u = RMSNorm(x + attention(x));  out = RMSNorm(u + feed_forward(u))`` -- normalised *after* each
residual sum (post-norm), no biases, no dropout unless asked for, rotary positions, SwiGLU of
hidden width 4d.
A block of width d has 16 d^2 + 2 d parameters (d = 64: 65,664).

Of the two initialisations of R4, which alone separate perplexity 16.87 from 9.9, ``A`` (Experiments
1-4, 10, 11) draws every linear map with standard deviation 1/sqrt(d), ``B`` (Experiments 5-9) with
0.02. Embeddings 0.02 and norm gains 1 in both.

Sources: RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021), SwiGLU (Shazeer
2020); their combination is that of R4.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + EPSILON) times a learned gain; (..., d) -> (..., d)."""

    def __init__(self, width: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)


def rotary_tables(length: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position * frequency, each (length, head_width), halves repeated."""
    frequency = 10_000.0 ** (-torch.arange(0, head_width, 2).float() / head_width)
    angle = torch.outer(torch.arange(length).float(), frequency)  # (T, head_width / 2)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn the pairs (j, j + head_width/2) of x (B, heads, T, head_width) by their position."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class CausalSelfAttention(nn.Module):
    """Multi-head attention over this and earlier positions; (B, T, d) -> (B, T, d).

    ``rotary=False`` leaves positions out, as the memory input layer of Infini-HRM does.
    Raises ValueError if the width is not divisible into heads of even width.
    """

    def __init__(self, width: int, heads: int, rotary: bool = True):
        super().__init__()
        if width % heads or (width // heads) % 2:
            raise ValueError(f"width {width} does not split into {heads} heads of even width")
        self.heads, self.rotary = heads, rotary
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, heads, T, d / heads)."""
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.query, self.key, self.value))
        if self.rotary:
            cosine, sine = rotary_tables(length, shape[-1])
            cosine, sine = cosine.to(x), sine.to(x)
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(x.shape))


class FeedForward(nn.Module):
    """SwiGLU: W_down(silu(W_gate x) * W_up x), hidden width 4d; (..., d) -> (..., d)."""

    def __init__(self, width: int):
        super().__init__()
        self.gate = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Post-norm attention and feed-forward; (B, T, d) -> (B, T, d)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.attention = CausalSelfAttention(width, heads)
        self.attention_norm = RMSNorm(width)
        self.feed_forward = FeedForward(width)
        self.feed_forward_norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention_norm(x + self._dropped(self.attention(x)))
        return self.feed_forward_norm(x + self._dropped(self.feed_forward(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


INITIALISATIONS = ("A", "B")


def linear_deviation(initialisation: str, width: int) -> float:
    """Standard deviation of the linear maps of a model of this width.

    Raises ValueError for a name other than A or B.
    """
    if initialisation not in INITIALISATIONS:
        raise ValueError(f"initialisation is {initialisation!r}; allowed: A, B")
    return 1 / math.sqrt(width) if initialisation == "A" else 0.02


@torch.no_grad()
def initialise(module: nn.Module, initialisation: str, width: int) -> None:
    """Draw all embeddings and linear maps of ``module`` anew from the global generator.

    Normal draws cut at +-2 (an absolute bound, as in R4: it never binds in practice).
    """
    deviation = linear_deviation(initialisation, width)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=0.02, a=-2.0, b=2.0)
        elif isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=deviation, a=-2.0, b=2.0)
