"""Parallel sweeps against the recurrence: what a sweep adds, and where it is exact."""

import pandas as pd
import torch

from lib.context.block import ContextBlock
from lib.context.contexts import parallel, relative_error, sequential_naive
from lib.context.toys.words import LAYERS, WIDTH, WORDS, embedded
from lib.toy import Toy, aligned, drawn

SHOWN = (1, 2, 3, 4, 6, 9, len(WORDS))
EXACT = 1e-5  # relative, of a context that counts as equal


@drawn()
def toy() -> Toy:
    """Relative error of the contexts after so many sweeps, for two layouts of random blocks."""
    x, found, lines = embedded(), {}, {}
    blocks = {
        "token at every layer": ContextBlock(WIDTH, WIDTH, LAYERS, "every_layer"),
        "token at first layer": ContextBlock(WIDTH, WIDTH, LAYERS, "first_layer"),
    }
    for name, block in blocks.items():
        exact = sequential_naive(block, x)
        tables = [parallel(block, x, sweeps)[0] for sweeps in SHOWN]
        found[f"error, {name}"] = [f"{relative_error(table, exact):.4f}" for table in tables]
        if name == "token at every layer":
            for sweeps, table in zip(SHOWN[:4], tables, strict=False):
                gap = (table - exact).norm(dim=1) / exact.norm(dim=1)
                lines[f"after {sweeps}"] = ["=" if bool(g < EXACT) else "≠" for g in gap]
    table = pd.DataFrame(found, index=pd.Index(SHOWN, name="sweeps"))
    return Toy(
        "All words at once, each with the context that its neighbour had one sweep before. Under"
        " each word stands whether its context equals the sequential one. After k sweeps the first"
        " k do; the others are near, so far as the block forgets. As many sweeps as words are"
        " exact.",
        {"embeddings": x.shape, "contexts": torch.Size((len(WORDS), WIDTH))},
        table,
        aligned(WORDS, lines),
    )
