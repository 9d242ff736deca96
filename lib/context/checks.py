"""Checks of the recurrence that hold at any size; notebooks run them."""

import torch

from lib.checks import CheckFailed
from lib.context.block import LAYOUTS, ContextBlock
from lib.context.contexts import BURN, documents, lanes, layer_outputs, parallel, sequential

CLOSE = 1e-4  # largest difference that float32 sums in another order may make
TOKENS, CUT, WIDTH = 24, 16, 16


def check_causal(layers: int) -> None:
    """Raises CheckFailed if tokens from CUT on change a context before it, in any layout."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, WIDTH, generator=generator)
    changed = x.clone()
    changed[CUT:] += 1.0
    for layout in LAYOUTS:
        block = ContextBlock(WIDTH, WIDTH, layers, layout)
        before, after = (layer_outputs(block, sequential(block, t), t) for t in (x, changed))
        moved = max(
            (a[:CUT] - b[:CUT]).abs().max().item() for a, b in zip(before, after, strict=True)
        )
        if moved > CLOSE:
            raise CheckFailed(f"{layout}: later tokens move earlier contexts by {moved:.2g}")
    print(f"contexts of all {len(LAYOUTS)} layouts are causal")


def check_ways(layers: int) -> None:
    """Raises CheckFailed unless documents, and as many sweeps as tokens, equal the recurrence, and
    lanes do where their own check passes."""
    # in double precision: the flat layout amplifies rounding from token to token
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    for layout in LAYOUTS:
        block = ContextBlock(WIDTH, WIDTH, layers, layout).double()
        exact = sequential(block, x)
        for name, other in {
            "documents": documents(block, x, [TOKENS]),
            "parallel": parallel(block, x, TOKENS)[0],
        }.items():
            gap = (exact - other).abs().max().item()
            if gap > CLOSE:
                raise CheckFailed(f"{layout}: {name} differ from the recurrence by {gap:.2g}")
    block = ContextBlock(WIDTH, WIDTH, layers).double()
    long = torch.randn(3 * BURN, WIDTH, generator=generator, dtype=torch.float64)
    found, error = lanes(block, long, count=2)
    gap = (found - sequential(block, long)).abs().max().item()
    if error < CLOSE < gap:
        raise CheckFailed(f"lanes pass their check and differ from the recurrence by {gap:.2g}")
    print("documents and complete sweeps equal the exact recurrence in all layouts, lanes where")
    print("they pass their check")
