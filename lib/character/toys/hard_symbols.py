"""Which symbols of a sentence are easy and hard, and what each layer does to them."""

import pandas as pd
import torch

from lib.character.analysis.difficulty import GROUPS, groups
from lib.character.analysis.layer_contribution import by_group, residual_norms
from lib.character.objectives import Standard
from lib.character.toys.sentence import (
    INPUTS,
    NEXT,
    fit,
    layer_logits,
    network,
    symbol_losses,
)
from lib.toy import Toy, aligned, drawn

LAYERS, UPDATES = 4, 12
MARKS = ("–", " ", "█")  # easy, medium, hard


@drawn()
def toy() -> Toy:
    """The sentence with its groups marked; loss and size of the change by layer and group."""
    model = network(LAYERS)
    fit(model, Standard(), UPDATES)
    losses = [symbol_losses(logits).double().numpy() for logits in layer_logits(model)]
    with torch.no_grad():
        states = [state[0] for state in model.hidden_states(INPUTS)]
    group, _, _ = groups(losses[-1])
    found = pd.DataFrame(by_group(losses, residual_norms(states), group))
    parts = {
        f"{words}, {name}": found[found["group"] == name].set_index("layer")[column]
        for column, words in (("loss", "loss"), ("norm", "change"))
        for name in GROUPS
    }
    table = pd.DataFrame({name: [f"{x:.2f}" for x in own] for name, own in parts.items()})
    table.index = pd.Index(range(1, LAYERS + 1), name="layer")
    return Toy(
        f"Four layers, fitted to this sentence in {UPDATES} updates. Marked is what has to be"
        " guessed: █ hard, – easy, by the last layer's own loss. Losses are in nats. The first"
        " change has about the size of the norm, √32 = 5.7, whatever the symbol.",
        {"symbols": INPUTS.shape, "states, five": states[0].shape, "losses": losses[0].shape},
        table,
        aligned(list(NEXT), {"group": [MARKS[index] for index in group]}),
    )
