"""The recurrent ContextBlock: one vector holds the whole past (R3).

One call takes the previous context c_{t-1} and the token of the moment and gives c_t through
`layers` layers of one linear map, ReLU and post-norm:

    delta = ReLU(W [h ; x] + w0)          h_out = LayerNorm(residual(h) + delta)

Three layouts of the token input:

* ``every_layer``       every layer sees [h ; x]; all widths equal the context width (R3).
* ``first_layer``       only layer 1 sees the token; widths fall in equal steps from D + md to D
                        ("equal decrease" of R3), residuals are learned projections.
* ``first_layer_flat``  only layer 1 sees the token, all widths D, identity residuals: the control
                        that takes away the token input and nothing else.
"""

import torch
from torch import Tensor, nn

LAYOUTS = ("every_layer", "first_layer", "first_layer_flat")
REPORT_FAN_IN = 1536  # fan-in of the report's layers (768 + 768) where its 0.1 was chosen
REPORT_WEIGHT_STD = 0.1
BIAS_STD = 0.01


def gain_matched_std(fan_in: int) -> float:
    """Weight std that keeps the report's pre-activation size (0.1 at fan-in 1536) at `fan_in`.

    Narrow blocks with the literal 0.1 would contract more than the report's and forget sooner.
    """
    return REPORT_WEIGHT_STD * (REPORT_FAN_IN / fan_in) ** 0.5


def equal_decrease(start: int, end: int, layers: int) -> list[int]:
    """Widths start, ..., end in `layers` steps, floor rule of R3 (layers + 1 values)."""
    return [start - (start - end) * k // layers for k in range(layers + 1)]


def initialise(linear: nn.Linear, weight_std: float, generator: torch.Generator) -> None:
    """N(0, weight_std^2) weights and N(0, 0.01^2) biases, in place."""
    with torch.no_grad():
        linear.weight.normal_(0.0, weight_std, generator=generator)
        if linear.bias is not None:
            linear.bias.normal_(0.0, BIAS_STD, generator=generator)


class ContextLayer(nn.Module):
    """One layer: h [n, a] (and optionally x [n, tokens]) -> [n, b].

    A learned projection maps h when a != b.
    """

    def __init__(self, a: int, b: int, tokens: int) -> None:
        super().__init__()
        self.a, self.b, self.tokens = a, b, tokens
        self.linear = nn.Linear(a + tokens, b)
        self.residual = nn.Linear(a, b) if a != b else None
        self.norm = nn.LayerNorm(b)

    def token_half(self, x: Tensor) -> Tensor:
        """W_x x + w0, the part of the pre-activation that needs no context: [n, b]."""
        bias = self.linear.bias
        if not self.tokens:
            return bias
        return torch.addmm(bias, x, self.linear.weight[:, self.a :].t())

    def forward(self, h: Tensor, half: Tensor) -> Tensor:
        """h [n, a] and the token half [n, b] (or bias [b]) -> [n, b]."""
        delta = torch.relu(torch.addmm(half, h, self.linear.weight[:, : self.a].t()))
        if self.residual is not None:
            delta = delta + self.residual(h)
        elif self.a == self.b:
            delta = delta + h
        return self.norm(delta)


class ContextBlock(nn.Module):
    """Recurrent cell of R3; parameters are drawn from `seed` alone.

    Args: context_dim D; token_dim m*d, the width of the (stacked) token input; layers L >= 1;
    layout, one of LAYOUTS; weight_std, None for the gain-matched value.
    Raises ValueError for a layout or a size that is not allowed.
    """

    def __init__(
        self,
        context_dim: int,
        token_dim: int,
        layers: int,
        layout: str = "every_layer",
        *,
        weight_std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}")
        if min(context_dim, token_dim, layers) < 1:
            raise ValueError("context_dim, token_dim and layers must all be at least 1")
        self.context_dim, self.token_dim, self.layout = context_dim, token_dim, layout
        self.widths = layer_widths(context_dim, token_dim, layers, layout)
        sources = [context_dim, *self.widths[:-1]]
        inputs = [
            token_dim if layout == "every_layer" or index == 0 else 0 for index in range(layers)
        ]
        self.layers = nn.ModuleList(
            ContextLayer(a, b, tokens)
            for a, b, tokens in zip(sources, self.widths, inputs, strict=True)
        )
        std = gain_matched_std(context_dim + token_dim) if weight_std is None else weight_std
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            initialise(layer.linear, std, generator)
            if layer.residual is not None:
                initialise(layer.residual, std, generator)

    def token_halves(self, x: Tensor) -> list[Tensor]:
        """Token parts of all layers for x [n, m*d]: per layer [n, D_l], or the bias [D_l]."""
        return [layer.token_half(x) for layer in self.layers]

    def step(self, context: Tensor, halves: list[Tensor]) -> list[Tensor]:
        """All layer outputs [n, D_l] for context [n, D] and the token parts; the last is c_t."""
        outputs, h = [], context
        for layer, half in zip(self.layers, halves, strict=True):
            h = layer(h, half)
            outputs.append(h)
        return outputs

    def forward(self, context: Tensor, x: Tensor) -> list[Tensor]:
        """context [n, D], x [n, m*d] -> list of L outputs [n, D_l]; the last one is c_t."""
        return self.step(context, self.token_halves(x))


def layer_widths(context_dim: int, token_dim: int, layers: int, layout: str) -> list[int]:
    """Output widths D_1 .. D_L of a block."""
    if layout == "first_layer":
        return equal_decrease(context_dim + token_dim, context_dim, layers)[1:]
    return [context_dim] * layers


def parameter_count(context_dim: int, token_dim: int, layers: int, layout: str) -> int:
    """Exact parameter count of a ContextBlock with residual projections."""
    total, a = 0, context_dim
    for index, b in enumerate(layer_widths(context_dim, token_dim, layers, layout)):
        tokens = token_dim if layout == "every_layer" or index == 0 else 0
        total += (a + tokens) * b + b + 2 * b
        if a != b:
            total += a * b + b
        a = b
    return total


def matched_context_dim(target: int, token_dim: int, layers: int, layout: str) -> int:
    """Context width whose parameter count comes nearest to `target` (parameter-matched variant)."""
    width = 1
    while parameter_count(width + 1, token_dim, layers, layout) <= target:
        width += 1
    return min(
        (width, width + 1),
        key=lambda w: abs(parameter_count(w, token_dim, layers, layout) - target),
    )


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
