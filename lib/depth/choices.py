"""The learning rate of every family of methods, chosen on validation text.

``python -m lib.depth.experiments.tuning`` trains each family at every rate of GRID with random seed
0 at the size ``tenth``, looks at the watched part of valid only, and prints the losses that CHOSEN
must follow. It does not yet: 20 updates of that size favour the largest rates (docs/LOG.md), and
the grid is to be run where there are more.
"""

from __future__ import annotations

GRID = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
CHOSEN = {
    "adapted": 2e-3,
    "exits": 2e-3,
    "layerskip": 2e-3,
    "removed": 2e-3,
    "gated": 2e-3,
    "again": 2e-3,
}
TUNED = {  # the method that stands for its family
    "adapted": "adapted",
    "exits": "exits",
    "layerskip": "layerskip",
    "removed": "last_removed_70",
    "gated": "gated",
    "again": "again_hard",
}
