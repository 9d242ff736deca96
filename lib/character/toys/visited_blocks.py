"""Loops on one sentence: the order in which blocks run, and one block used with other passes."""

import pandas as pd

from lib.character.objectives import Segments, Visits
from lib.character.toys.sentence import FITTED, INPUTS, fit, loss_of, network
from lib.toy import Toy, aligned, drawn

ORDERS = {
    "each once": (0, 1, 2, 3),
    "first two twice": (0, 1, 0, 1, 2, 3),
    "middle two twice": (0, 1, 2, 1, 2, 3),
    "last two twice": (0, 1, 2, 3, 2, 3),
}
FIT = ("each once", "middle two twice")
LONGEST = max(map(len, ORDERS.values()))
PASSES = (1, 2, 4, 16)
WAYS = {
    "trained with 4": Segments(4, joint=True),
    "trained with 1 to 4 at random": Segments(4, joint=True, most=4),
}


@drawn()
def toy() -> Toy:
    """The orders, what each costs, and losses of one block by the number of passes in use."""
    losses = {}
    for name in FIT:
        model, way = network(4), Visits(ORDERS[name])
        fit(model, way)
        losses[name] = f"{loss_of(way.predict(model, INPUTS)):.2f} {name}"
    marks = {
        name: [*(f"B{block + 1}" for block in order), *[""] * (LONGEST - len(order))]
        for name, order in ORDERS.items()
    }
    used = {}
    for name, way in WAYS.items():
        model = network(initial_state=True)
        fit(model, way)
        used[name] = [
            f"{loss_of(Segments(count, joint=True).predict(model, INPUTS)):.2f}" for count in PASSES
        ]
    table = pd.DataFrame(used, index=pd.Index(PASSES, name="passes in use")).map(str)
    return Toy(
        "The lines say which block runs in which place of a pass. Networks are"
        f" {FITTED}. Four blocks then have a loss of {' and '.join(losses.values())}, in nats."
        " The table is one block used with other numbers of passes than it was trained with.",
        {"symbols": INPUTS.shape, "state": (*INPUTS.shape, 32)},
        table,
        aligned([str(place + 1) for place in range(LONGEST)], marks),
    )
