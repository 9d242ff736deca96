"""Random numbers: one stream for the initial weights, another for the order of the data.

Variants that share a seed share the data order whatever their models draw, so that differences
between variants are paired.
"""

import torch


def seed_weights(seed: int) -> None:
    """Reset the global generator before a model is built."""
    torch.manual_seed(seed)


def data_order(seed: int, epoch: int) -> torch.Generator:
    """The generator that shuffles this epoch; the same for every variant and after a resume."""
    return torch.Generator().manual_seed(1_000_003 * (seed + 1) + epoch)
