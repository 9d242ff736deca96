"""What a compressive memory gives back: a mixture of all that was written, later symbols too."""

import pandas as pd
import torch

from lib.character.models.infini_attention import Memory
from lib.toy import Toy, bar, drawn

WORD = "window"
WIDTH = 16  # of a key


@drawn()
def toy() -> Toy:
    """A word is written, each symbol under a key of its own; then every key is asked again.

    Values are one-hot, so that what is read is the share of each symbol in it.
    """
    with drawn():
        keys = 2 * torch.randn(1, 1, len(WORD), WIDTH)  # (B, heads, T, d_h)
    values = torch.eye(len(WORD))[None, None]
    empty = Memory(torch.zeros(1, 1, WIDTH, len(WORD)), torch.zeros(1, 1, WIDTH))
    shares = empty.write(keys, values).read(keys)[0, 0]  # asked x written
    found = empty.read(keys)[0, 0]
    table = pd.DataFrame(
        {
            "found before writing": [f"{row.sum():.0f}" for row in found],
            "its own symbol": [f"{100 * row[t]:.0f} %" for t, row in enumerate(shares)],
            "earlier symbols": [f"{100 * row[:t].sum():.0f} %" for t, row in enumerate(shares)],
            "later symbols": [f"{100 * row[t + 1 :].sum():.0f} %" for t, row in enumerate(shares)],
            "later, drawn": [bar(float(row[t + 1 :].sum()), 1) for t, row in enumerate(shares)],
        },
        index=pd.Index(list(WORD), name="asked for"),
    )
    return Toy(
        f"The word “{WORD}” is written into an empty memory under random keys, then each key is"
        " asked. What comes back is a mixture. The memory of a window holds its later symbols, so a"
        " second segment that reads it looks ahead.",
        {"keys": keys.shape, "memory": (1, 1, WIDTH, len(WORD)), "read": (1, 1, *shares.shape)},
        table,
    )
