"""Loss on held-out windows: the mean cross-entropy per symbol in nats."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.text.windows import Windows


@torch.no_grad()
def symbol_losses(
    predict: Callable[[Tensor], Tensor], windows: Windows, batch_size: int = 64
) -> Tensor:
    """Cross-entropy of every symbol, (n, T) in nats.

    ``predict`` maps symbols (B, T) to logits (B, T, V), on any device.
    """
    losses = []
    for inputs, targets in windows.batches(batch_size):
        logits = predict(inputs).cpu()
        losses.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none"))
    return torch.cat(losses).view(windows.targets.shape)


def mean_loss(predict: Callable[[Tensor], Tensor], windows: Windows, batch_size: int = 64) -> float:
    """Mean cross-entropy per symbol in nats, every symbol counting once."""
    return symbol_losses(predict, windows, batch_size).double().mean().item()
