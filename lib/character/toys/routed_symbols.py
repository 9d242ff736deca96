"""A routed sentence: who stops, and what later symbols then find as keys and values."""

import pandas as pd
import torch

from lib.character.models.routed import KEEPS, compacted, routed
from lib.character.objectives import LayerLosses
from lib.character.toys.sentence import INPUTS, NEXT, fit, loss_of, network
from lib.toy import Toy, aligned, drawn

LAYERS, EXIT, UPDATES = 4, 2, 12
THRESHOLDS = (0.35, 0.5, 2.0)  # one above 1 is never reached


@torch.no_grad()
def _row(model, threshold: float) -> tuple[dict[str, str], torch.Tensor]:
    logits, exits = routed(model, INPUTS, EXIT, threshold)
    share = exits.double().mean().item()
    row = {
        "stop after layer 2": f"{100 * share:.0f} %",
        "blocks' compute": f"{100 * (1 - share * (1 - EXIT / LAYERS)):.0f} %",
        "loss, by definition": f"{loss_of(logits):.3f}",
    }
    for keep in KEEPS:
        found, _ = compacted(model, INPUTS, EXIT, threshold, keep)
        row[f"loss, {keep}"] = f"{loss_of(found):.3f}"
    return row, exits[0]


@drawn()
def toy() -> Toy:
    """The sentence with exits marked; compute and loss by threshold, computed three ways."""
    model = network(LAYERS)
    fit(model, LayerLosses((0.0, 0.5, 0.0, 0.5)), UPDATES)
    rows, marks = {}, {}
    for threshold in THRESHOLDS:
        name = f"{threshold:g}" if threshold <= 1 else "never"
        rows[name], exits = _row(model, threshold)
        if threshold <= 1:
            marks[f"from {name}"] = ["2" if stop else "4" for stop in exits]
    return Toy(
        f"Four layers with losses after layers 2 and 4, fitted to this sentence in {UPDATES}"
        " updates. Under each symbol stands the layer that guesses it. *Propagate* gives later"
        " symbols the state in which a symbol stopped, which moves the loss; *recompute* is exact"
        " and saves less.",
        {"symbols": INPUTS.shape, "logits": (*INPUTS.shape, model.vocabulary)},
        pd.DataFrame(rows).T.rename_axis("threshold"),
        aligned(list(NEXT), marks),
    )
