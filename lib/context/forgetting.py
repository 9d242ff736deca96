"""How fast the cell forgets: forgetting curve and noise gain (a control of R3).

Parallel contexts can only equal sequential ones when the cell forgets; these two numbers say how
many tokens it remembers, independent of any training target.
"""

import torch
from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.contexts import sequential

STEPS = 8  # tokens that the forgetting curve follows
PAIRS, AGREED = 128, 0.99
CONTEXTS, NOISE = 2_048, 0.1


@torch.no_grad()
def forgetting_curve(block: ContextBlock, x: Tensor, *, steps: int = STEPS) -> list[dict]:
    """Two states in PAIRS pairs, started apart, driven by the same tokens: how near after 1..steps.

    Starts are two independent real contexts of other places in x [N, m*d]. Returns one row per
    number of tokens seen: cosine and squared distance per dimension.
    Raises ValueError when x is too short.
    """
    if x.shape[0] < steps + 2:
        raise ValueError(f"{x.shape[0]} tokens are too few for {steps} steps")
    generator = torch.Generator().manual_seed(0)
    pool = sequential(block, x[: min(x.shape[0], 512)])
    a, b = (pool[torch.randint(pool.shape[0], (PAIRS,), generator=generator)] for _ in range(2))
    place = torch.randint(x.shape[0] - steps, (PAIRS,), generator=generator)
    rows = [_row(0, a, b)]
    for t in range(steps):
        tokens = x[place + t]
        a, b = block(a, tokens)[-1], block(b, tokens)[-1]
        rows.append(_row(t + 1, a, b))
    return rows


def _row(tokens: int, a: Tensor, b: Tensor) -> dict:
    return {
        "tokens_seen": tokens,
        "cos": torch.cosine_similarity(a, b, dim=1).mean().item(),
        "mse": (a - b).square().mean().item(),
    }


def memory_tokens(curve: list[dict]) -> int | None:
    """Tokens after which two states agree to the cosine AGREED; None when they never do."""
    for row in curve:
        if row["cos"] >= AGREED:
            return row["tokens_seen"]
    return None


@torch.no_grad()
def noise_gain(block: ContextBlock, x: Tensor) -> float:
    """E|f(c + e) - f(c)|^2 / E|e|^2 over at most CONTEXTS real contexts: below 1 the cell contracts
    (per token)."""
    generator = torch.Generator().manual_seed(0)
    x = x[:CONTEXTS]
    contexts = sequential(block, x)
    previous, x = contexts[:-1], x[1:]
    jitter = NOISE * torch.randn(previous.shape, generator=generator)
    clean, noisy = block(previous, x)[-1], block(previous + jitter, x)[-1]
    return ((noisy - clean).square().sum() / jitter.square().sum()).item()
