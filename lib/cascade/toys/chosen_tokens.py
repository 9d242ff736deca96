"""Which tokens of a sentence each rule trains a head on."""

import pandas as pd
import torch

from lib.cascade.packing import RULES, select
from lib.cascade.toys.sentence import BASE, features, hidden, marks, tokens
from lib.toy import SPACE, Toy, aligned, drawn

CRITERION, RATIO = "last_layer", 0.2
WORDS = {
    "hard": "lowest cosine",
    "random": "drawn from the same text",
    "first": "the beginning of the text",
    "loss": "highest true loss",
    "all": "every token",
}


@drawn()
def toy() -> Toy:
    """The sentence with what every rule chooses of it."""
    found, rows, lines = features(), {}, {}
    for rule in RULES:
        chosen = torch.zeros(found.tokens, dtype=torch.bool)
        chosen[select(found, rule, RATIO, CRITERION)] = True
        lines[rule] = marks(chosen)
        own = found.labels[chosen]
        rows[rule] = {
            "which": WORDS[rule],
            "tokens": int(chosen.sum()),
            "different words to learn": len(own.unique()),
            "base's loss on them, nats": f"{found.scalars['loss'][chosen].mean():.2f}",
        }
    return Toy(
        f"{BASE}. Each rule but *all* takes {100 * RATIO:.0f} % of the tokens. *First* sees one"
        " stretch of text, the others the whole of it: that is the difference in coverage which the"
        " control *random* takes out.",
        {"states that the head reads": hidden()[-1].shape},
        pd.DataFrame(rows).T.rename_axis("rule"),
        aligned([token.replace(" ", SPACE) for token in tokens()], lines),
    )
