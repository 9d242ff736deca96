"""Blocks under a label-free loss, at random and under the task loss, with the same head on top."""

import pandas as pd
import torch

from lib.character.models.lct import LCT, LCTConfig
from lib.character.objectives import Dispersion, Segments, dispersion
from lib.character.toys.sentence import ALPHABET, INPUTS, LENGTH, UPDATES, fit, loss_of
from lib.toy import Toy, drawn

SEGMENTS = 2
BATCHES = UPDATES // SEGMENTS


@drawn()
def toy() -> Toy:
    """One network three times: blocks shaped without labels, left at random, under the task loss.

    In the first two rows only the head learns from the task.
    """
    rows, state = {}, None
    for name, shaped, whole in (
        ("shaped without labels, then a head", True, False),
        ("at random, then a head", False, False),
        ("task loss at every segment", False, True),
    ):
        with drawn():
            model = LCTConfig(width=32, length=LENGTH).build(len(ALPHABET))
        if shaped:
            fit(model, Dispersion(SEGMENTS), BATCHES, model.blocks.parameters())
        fit(model, Segments(SEGMENTS), BATCHES, None if whole else model.head.parameters())
        state, loss = _spread(model)
        rows[name] = {
            "label-free loss of its contexts": f"{loss:.2f}",
            "task loss, nats": f"{loss_of(Segments(SEGMENTS).predict(model, INPUTS)):.2f}",
        }
    return Toy(
        f"LCT with one block, {SEGMENTS} segments and {BATCHES} batches a phase, all of this one"
        " sentence. Shaping lowers the label-free loss; the question is whether a head reads more"
        " from such contexts.",
        {"symbols": INPUTS.shape, "contexts": state.shape},
        pd.DataFrame(rows).T.rename_axis("blocks"),
    )


@torch.no_grad()
def _spread(model: LCT) -> tuple[torch.Tensor, float]:
    """Contexts (1, T, d) after the segments, and their label-free loss."""
    state = model.begin(INPUTS)
    for _ in range(SEGMENTS):
        state = model.contexts(INPUTS, state)
    return state.low, dispersion(state.low.flatten(0, 1), Dispersion().anchor).item()
