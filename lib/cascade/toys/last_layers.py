"""Which tokens of a sentence the cosine of the last layers calls hard."""

import pandas as pd

from lib.cascade.difficulty import is_hard, threshold_for
from lib.cascade.toys.sentence import BASE, features, hidden, marks, tokens
from lib.figures.sentence import coloured
from lib.toy import SPACE, Toy, aligned, drawn

CRITERION, RATIO = "last_two_layers", 0.2


@drawn()
def toy() -> Toy:
    """The sentence coloured by how far the last layers turn a state; the hard tokens marked."""
    values, loss = features().scalars[CRITERION], features().scalars["loss"]
    threshold = threshold_for(values, RATIO, CRITERION)
    hard = is_hard(values, threshold, CRITERION)
    shown = [token.replace(" ", SPACE) for token in tokens()]
    groups = {"hard": hard, "others": ~hard}
    table = pd.DataFrame(
        {
            "tokens": [int(own.sum()) for own in groups.values()],
            "mean cosine": [f"{values[own].mean():.2f}" for own in groups.values()],
            "base's loss, nats": [f"{loss[own].mean():.2f}" for own in groups.values()],
        },
        index=list(groups),
    ).rename_axis("tokens are")
    return Toy(
        f"{BASE}. Hard are the {100 * RATIO:.0f} % of lowest cosine, below {threshold:.2f} here."
        " The rule asks how far the last layers turn a state. It does not ask for the loss, and"
        " need not agree with it.",
        {"states, five": hidden()[0].shape, "cosine": values.shape},
        table,
        aligned(shown, {"hard": marks(hard)}),
        lambda: coloured(
            shown,
            {"1 − cosine": (1 - values).tolist()},
            "How far the last layers turn each token's state",
            "darker: turned further, so harder by this rule",
        ),
    )
