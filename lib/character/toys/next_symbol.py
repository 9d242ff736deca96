"""What a perplexity is made of: the probability of each next symbol, before and after fitting."""

import math

import pandas as pd

from lib.character.objectives import Standard
from lib.character.toys.sentence import (
    ALPHABET,
    FITTED,
    INPUTS,
    NEXT,
    READ,
    fit,
    loss_of,
    network,
    symbol_losses,
)
from lib.toy import SPACE, Toy, bar, drawn

SHOWN = 12  # symbols of the sentence in the table


@drawn()
def toy() -> Toy:
    """The first symbols of the sentence: what is read, what comes next, what the network gives it.

    The last row is the perplexity of the whole sentence.
    """
    model = network()
    logits = {"at random": model(INPUTS).detach()}
    fit(model, Standard())
    logits["fitted"] = model(INPUTS).detach()
    chances = {name: (-symbol_losses(found)).exp().tolist() for name, found in logits.items()}
    before, after = (math.exp(loss_of(found)) for found in logits.values())
    table = pd.DataFrame(
        {
            "read": list(READ[:SHOWN].replace(" ", SPACE)),
            "comes next": list(NEXT[:SHOWN].replace(" ", SPACE)),
            "probability at random": [f"{p:.2f}" for p in chances["at random"][:SHOWN]],
            "probability fitted": [f"{p:.2f}" for p in chances["fitted"][:SHOWN]],
            "fitted, drawn": [bar(p, 1) for p in chances["fitted"][:SHOWN]],
        }
    ).set_index("read")
    return Toy(
        f"One layer, drawn at random and then {FITTED}. Each row is a symbol with the one that"
        f" comes next. The perplexity of the whole sentence falls from {before:.1f}, about the"
        f" {len(ALPHABET)} symbols of its alphabet, to {after:.1f}.",
        {"symbols": INPUTS.shape, "logits": logits["fitted"].shape},
        table,
    )
