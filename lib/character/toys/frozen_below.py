"""Greedy stages: what trains and what is frozen, and the loss that each stage starts from."""

import pandas as pd

from lib.character.growth_run import older
from lib.character.models.growth import deepen
from lib.character.objectives import Standard
from lib.character.toys.sentence import INPUTS, UPDATES, fit, loss_of, network
from lib.toy import Toy, drawn

STAGES = 3


@drawn()
def toy() -> Toy:
    """Three greedy stages on one sentence, each a layer more, everything below it frozen."""
    model, rows = network(0), []
    for stage in range(1, STAGES + 1):
        with drawn():
            model = deepen(model, stage)
        below = list(older(model, 1))
        frozen = {id(p) for p in below}
        trained = [p for p in model.parameters() if id(p) not in frozen]
        kept = [p.detach().clone() for p in below]
        start = loss_of(model(INPUTS))
        fit(model, Standard(), only=trained)
        moved = max((p - k).abs().max().item() for p, k in zip(below, kept, strict=True))
        rows.append(
            {
                "layers": stage,
                "numbers that train": sum(p.numel() for p in trained),
                "frozen": sum(p.numel() for p in below),
                "frozen ones moved by": f"{moved:.1g}",
                "loss at once": f"{start:.2f}",
                f"after {UPDATES} updates": f"{loss_of(model(INPUTS)):.3f}",
            }
        )
    return Toy(
        "Each stage adds a layer at random and trains it and the head; the embedding is frozen from"
        " the first stage on. Losses are in nats, on this sentence alone. A stage begins above"
        " the loss at which the one before ended: its new layer stands between the old ones and the"
        " head.",
        {"symbols": INPUTS.shape, "logits": model(INPUTS).shape},
        pd.DataFrame(rows).set_index("layers"),
    )
