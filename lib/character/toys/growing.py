"""A model that grows from one layer to three, under the last layer's loss and under all losses."""

import pandas as pd

from lib.character.models.growth import deepen
from lib.character.objectives import LayerLosses, Standard
from lib.character.toys.sentence import INPUTS, fit, layer_logits, loss_of, network
from lib.toy import Toy, drawn

STAGES, UPDATES = 3, 25


@drawn()
def toy() -> Toy:
    """Loss at the moment of growing and after updates, of the last layer and of the first alone."""
    rows = {}
    for name, all_losses in (("last layer's loss", False), ("loss at every layer (LPT)", True)):
        model = network(1)
        for layers in range(1, STAGES + 1):
            with drawn():
                model = deepen(model, layers)
            start = loss_of(model(INPUTS))
            fit(model, LayerLosses((1.0,) * layers) if all_losses else Standard(), UPDATES)
            rows[name, layers] = {
                "loss at once": f"{start:.2f}",
                f"after {UPDATES} updates": f"{loss_of(model(INPUTS)):.3f}",
                "layer 1 alone, then": f"{loss_of(layer_logits(model)[0]):.2f}",
            }
    table = pd.DataFrame(rows).T
    table.index.names = ["trained by", "layers"]
    return Toy(
        f"A model grows by a layer every {UPDATES} updates on this sentence. Losses are in nats."
        " The last column is what the shared head reads after layer 1. Under the last layer's loss"
        " old layers drift away from the head; under LPT they still predict.",
        {"symbols": INPUTS.shape, "states, one a layer": (*INPUTS.shape, 32)},
        table,
    )
