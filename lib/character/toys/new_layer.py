"""What a new layer does to a fitted model before it has learnt anything."""

import pandas as pd
import torch

from lib.character.models.growth import deepen
from lib.character.objectives import Standard
from lib.character.toys.sentence import FITTED, INPUTS, fit, loss_of, network
from lib.toy import Toy, drawn

AFTER = 10  # updates with the new layer


@drawn()
def toy() -> Toy:
    """A fitted layer, the same with a second one at random, and with one that is an identity."""
    fitted = network()
    fit(fitted, Standard())
    rows, before = {}, fitted(INPUTS).detach()
    for name, layers, identity in (
        ("no layer", 1, False),
        ("at random", 2, False),
        ("identity", 2, True),
    ):
        with drawn():
            model = deepen(fitted, layers, identity)
        with torch.no_grad():
            logits = model(INPUTS)
        fit(model, Standard(), AFTER)
        rows[name] = {
            "largest change of a logit": f"{(logits - before).abs().max().item():.1g}",
            "loss at once": f"{loss_of(logits):.2f}",
            f"loss after {AFTER} updates": f"{loss_of(model(INPUTS)):.3f}",
        }
    return Toy(
        f"One layer, {FITTED}; then a second layer is put on it. Losses are in nats. A layer at"
        " random throws away much of what the model knew. An identity changes nothing but rounding."
        " The row *no layer* has a new optimiser and no layer: a restart alone moves the loss.",
        {"symbols": INPUTS.shape, "logits": before.shape},
        pd.DataFrame(rows).T.rename_axis("new layer"),
    )
