"""Iterative refinement on one batch: the loss of the first and of the second pass, as it learns."""

import pandas as pd

from lib.character.objectives import Segments, Standard
from lib.character.toys.sentence import FITTED, INPUTS, fit, network
from lib.toy import Toy, bar, drawn

SHOWN = (1, 2, 5, 10, 20, 40)  # batches


@drawn()
def toy() -> Toy:
    """Losses of both passes over the same batches, beside one pass with two updates a batch."""
    refined = fit(network(), Segments(2))
    control = fit(network(), Standard(updates=2))
    most = refined[0][0]
    table = pd.DataFrame(
        {
            "batch": SHOWN,
            "pass 1": [f"{refined[n - 1][0]:.2f}" for n in SHOWN],
            "pass 2": [f"{refined[n - 1][1]:.2f}" for n in SHOWN],
            "pass 2, drawn": [bar(refined[n - 1][1], most) for n in SHOWN],
            "no refinement, update 1": [f"{control[n - 1][0]:.2f}" for n in SHOWN],
            "no refinement, update 2": [f"{control[n - 1][1]:.2f}" for n in SHOWN],
        }
    ).set_index("batch")
    return Toy(
        f"One layer, {FITTED.replace('updates', 'batches')}. Numbers are losses in nats. Pass 2"
        " starts from the state that pass 1 left, and an update lies between them. The last two"
        " columns have the second update alone, without a state.",
        {"symbols": INPUTS.shape, "state": (*INPUTS.shape, 32), "loss": ()},
        table,
    )
