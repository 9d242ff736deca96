"""What the shared head reads after each layer, with and without a loss there."""

import pandas as pd

from lib.character.objectives import LayerLosses, Standard
from lib.character.toys.sentence import FITTED, INPUTS, fit, layer_logits, loss_of, network
from lib.toy import Toy, bar, drawn

LAYERS = 4


@drawn()
def toy() -> Toy:
    """Loss after each of four layers: at random, fitted by the last one's loss, by all losses."""
    found = {}
    for name, objective in (
        ("at random", None),
        ("loss after the last", Standard()),
        ("loss after every one (LPT)", LayerLosses((1.0,) * LAYERS)),
    ):
        model = network(LAYERS)
        if objective is not None:
            fit(model, objective)
        found[name] = [loss_of(logits) for logits in layer_logits(model)]
    table = pd.DataFrame({name: [f"{x:.2f}" for x in own] for name, own in found.items()})
    for name in list(found)[1:]:
        most = max(max(own) for own in found.values())
        table[f"{name.split(' (')[0]}, drawn"] = [bar(x, most, 15) for x in found[name]]
    table.index = pd.Index(range(1, LAYERS + 1), name="layer")
    return Toy(
        f"Four layers, {FITTED}. Numbers are losses in nats of the one shared head after each"
        " layer. Trained at the end only, inner layers do not speak its language; with a loss after"
        " every layer they do.",
        {"symbols": INPUTS.shape, "states, one a layer": (*INPUTS.shape, 32)},
        table,
    )
