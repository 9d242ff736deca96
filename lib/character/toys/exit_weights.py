"""Three weightings of the layers' losses: how sure is the exit layer, and how often is it right?"""

import pandas as pd

from lib.character.analysis.early_exit import Readings
from lib.character.objectives import LayerLosses
from lib.character.toys.sentence import ALPHABET, INPUTS, LENGTH, WINDOW, fit, network
from lib.text.windows import Windows
from lib.toy import Toy, drawn

EXIT, UPDATES = 2, 25
OTHER = "the order of the other text reads as hard, deeper or not, and there"  # not fitted to
WEIGHTS = {
    "layers 2 and 4": (0.0, 0.5, 0.0, 0.5),
    "all four (LPT)": (1.0, 1.0, 1.0, 1.0),
    "all four, 1 and 3 at half": (0.5, 1.0, 0.5, 1.0),
}


@drawn()
def toy() -> Toy:
    """Confidence and accuracy of layer 2 under three weightings, after equally many updates."""
    rows, other = {}, Windows.cut(ALPHABET.encode(OTHER), LENGTH)
    for name, weights in WEIGHTS.items():
        model = network(len(weights))
        fit(model, LayerLosses(weights), UPDATES)
        rows[name] = {"weights": ", ".join(f"{w:g}" for w in weights)}
        for where, window in (("this sentence", WINDOW), ("another", other)):
            own = model.hidden_states(window.inputs)[EXIT]
            shallow = Readings.of(model.head(own)[0].detach(), window.targets[0])
            rows[name][f"confidence, {where}"] = f"{shallow.confidence.mean():.2f}"
            rows[name][f"accuracy, {where}"] = f"{shallow.correct.mean():.2f}"
    return Toy(
        f"Four layers, fitted to this sentence in {UPDATES} updates, read after layer {EXIT}."
        " Over-confident is a layer whose mean confidence exceeds its accuracy. On what it was"
        " fitted to it is not; on another sentence all three are.",
        {"symbols": INPUTS.shape, "confidence": INPUTS.shape[1:]},
        pd.DataFrame(rows).T.rename_axis("losses after"),
    )
