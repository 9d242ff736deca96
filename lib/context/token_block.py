"""The feed-forward TokenBlock of R3: token features given the contexts of every layer.

Layer l computes z_l = LayerNorm(residual(z_{l-1}) + ReLU(U [h^l ; z_{l-1}] + u)), z_0 = the token
input, where h^l is the output of the ContextBlock layer of the same index.
"""

import torch
from torch import Tensor, nn

from lib.context.block import equal_decrease, gain_matched_std, initialise


class TokenBlock(nn.Module):
    """z_0 [n, m*d] and one context [n, D_l] per layer -> [n, d].

    Args: token_dim m*d; output_dim d; context_widths, D_1 .. D_L (0 where a layer has no context);
    weight_std, None for the gain-matched value of fan-in 2d.
    """

    def __init__(
        self,
        token_dim: int,
        output_dim: int,
        context_widths: list[int],
        *,
        weight_std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not context_widths:
            raise ValueError("context_widths is empty; the block needs at least one layer")
        widths = equal_decrease(token_dim, output_dim, len(context_widths))
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.linears = nn.ModuleList(
            nn.Linear(context + a, b) for context, (a, b) in zip(context_widths, pairs, strict=True)
        )
        self.residuals = nn.ModuleList(
            nn.Identity() if a == b else nn.Linear(a, b) for a, b in pairs
        )
        self.norms = nn.ModuleList(nn.LayerNorm(b) for _, b in pairs)
        generator = torch.Generator().manual_seed(seed)
        std = gain_matched_std(2 * output_dim) if weight_std is None else weight_std
        for linear, residual in zip(self.linears, self.residuals, strict=True):
            initialise(linear, std, generator)
            if isinstance(residual, nn.Linear):
                initialise(residual, std, generator)

    def forward(self, contexts: list[Tensor], tokens: Tensor) -> Tensor:
        """One context [n, D_l] a layer and the token input [n, m*d] -> [n, d]."""
        z = tokens
        for context, linear, residual, norm in zip(
            contexts, self.linears, self.residuals, self.norms, strict=True
        ):
            u = torch.cat([context, z], dim=1) if context.shape[1] else z
            z = norm(residual(z) + torch.relu(linear(u)))
        return z
