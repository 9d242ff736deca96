"""How slices lie in a text: they share no character, and share valid and test."""

import pandas as pd

from lib.character.slices import SliceParameters
from lib.text.records import embedded_texts
from lib.toy import SPACE, Toy, drawn

COLUMNS = 60  # of the drawing
SHOWN = 24  # characters of the beginning of a slice


@drawn()
def toy() -> Toy:
    """The default slices drawn to scale, and the same cut small from a text of the repository."""
    p = SliceParameters()
    whole = p.slices * p.apart
    lines = []
    for number in range(p.slices):
        first, last = (
            round(COLUMNS * x / whole) for x in (number * p.apart, number * p.apart + p.train_chars)
        )
        line = "".join("█" if first <= c < max(last, first + 1) else "·" for c in range(COLUMNS))
        lines.append(f"slice {number + 1}  {line}")
    text = "\n".join(embedded_texts())
    step = len(text) // p.slices
    rows = {
        number + 1: {
            "characters": f"{number * p.apart:,} to {number * p.apart + p.train_chars:,}",
            "in the small text": f"{number * step:,} to {number * step + step // 4:,}",
            "which begins": text[number * step :][:SHOWN].replace("\n", "↵").replace(" ", SPACE),
        }
        for number in range(p.slices)
    }
    return Toy(
        f"The first {whole:,} characters of the training text; each line is one of them, █ what a"
        f" slice trains on ({p.train_chars:,} characters). The table cuts a small text of this"
        " repository alike. Valid and test are other texts, the same for all.",
        {"slice": (p.train_chars,), "apart": (p.apart,)},
        pd.DataFrame(rows).T.rename_axis("slice"),
        "\n".join(lines),
    )
