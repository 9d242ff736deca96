"""Which symbols are hard? Several references, because the choice of one decides the answer.

Easy are the symbols whose loss under the reference lies at or below its 25th percentile, hard those
at or above the 75th. Grouping by a last layer's loss and then reporting last layers' losses picks
into "hard" what last layers have in common: networks trained on one text share their errors. A
first layer as the reference errs the other way. Neutral between depths are counts of pairs of
symbols, and the mean over *all* layers of the network of another random seed.

Source of the groups: R4, Experiment 8, where a network's *own* final loss is the reference.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from lib.character.ngrams import pairs
from lib.text.windows import Windows

GROUPS = ("easy", "medium", "hard")
PAIRS, FIRST, LAST, ALL = "pairs of symbols", "first layer", "last layer", "all layers"
REFERENCES = (FIRST, PAIRS, ALL, LAST)
OWN, OTHER = "own", "other"  # the last layer of the network itself, of another one


def groups(loss: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Group index (N,) 0 easy, 1 medium, 2 hard, and the two thresholds in nats."""
    low, high = np.percentile(loss, (25, 75))
    group = np.ones(len(loss), dtype=int)
    group[loss >= high] = 2
    group[loss <= low] = 0
    return group, float(low), float(high)


def by_reference(
    other: Sequence[np.ndarray], train: Tensor, windows: Windows, symbols: int
) -> dict[str, np.ndarray]:
    """How hard each symbol of the windows is, in nats (N,), by each of ``REFERENCES``.

    ``other`` are the losses (N,) after each layer of another network, ``train`` (M,) the text whose
    pairs of symbols are counted.
    """
    return {
        FIRST: other[0],
        PAIRS: pair_losses(train, windows, symbols),
        ALL: np.mean(other, axis=0),
        LAST: other[-1],
    }


def pair_losses(train: Tensor, windows: Windows, symbols: int) -> np.ndarray:
    """Nats (N,) of each target given the symbol before it, from counts of pairs in train (M,)."""
    return -pairs(train, symbols)[windows.inputs.flatten(), windows.targets.flatten()].numpy()
