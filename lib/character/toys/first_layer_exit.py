"""Early exit on one sentence: which symbol stops after the first layer, and who was right."""

import pandas as pd

from lib.character.analysis.early_exit import Readings, at_threshold
from lib.character.objectives import Standard
from lib.character.toys.sentence import (
    ALPHABET,
    FITTED,
    INPUTS,
    NEXT,
    TARGETS,
    fit,
    layer_logits,
    network,
)
from lib.toy import SPACE, Toy, aligned, drawn

LAYERS, THRESHOLD = 2, 0.3
THRESHOLDS = (0.2, 0.3, 0.5)


def _shown(readings: Readings) -> list[str]:
    """The guessed symbols."""
    return [ALPHABET.characters[index].replace(" ", SPACE) for index in readings.prediction]


@drawn()
def toy() -> Toy:
    """The sentence, the guesses of both layers, and where each symbol stops."""
    model = network(LAYERS)
    fit(model, Standard())
    logits = [found[0] for found in layer_logits(model)]
    first, last = (Readings.of(found, TARGETS[0]) for found in logits)
    stops = first.confidence >= THRESHOLD
    lines = aligned(
        list(NEXT),
        {
            "layer 1 guesses": _shown(first),
            "layer 2 guesses": _shown(last),
            "stops after": ["1" if stop else "2" for stop in stops],
        },
    )
    rows = [at_threshold(first, last, threshold, 1 / LAYERS) for threshold in THRESHOLDS]
    table = pd.DataFrame(
        {
            "threshold": THRESHOLDS,
            "symbols that stop": [f"{row['exit_pct']:.0f} %" for row in rows],
            "compute": [f"{row['compute_pct']:.0f} %" for row in rows],
            "right with exits": [f"{row['acc_pct']:.0f} %" for row in rows],
            "right, random exits": [f"{row['random_acc_pct']:.0f} %" for row in rows],
        }
    ).set_index("threshold")
    return Toy(
        f"Two layers, {FITTED} by the last layer's loss. The first line is what has to be guessed."
        f" A symbol stops after layer 1 where the largest probability there is at least"
        f" {THRESHOLD}.",
        {"symbols": INPUTS.shape, "logits of a layer": logits[0].shape},
        table,
        lines,
    )
