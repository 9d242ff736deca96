"""A power law through four points, with and without a floor; early stopping replayed on a curve."""

import numpy as np
import pandas as pd

from lib.context.early_stopping import best_epoch, stop_epoch
from lib.context.scaling import fit_power_law, fit_with_floor
from lib.toy import Toy, aligned, drawn

TOKENS = np.array([2_000, 4_000, 8_000, 16_000])
FLOOR, SCALE, ALPHA = 50.0, 30_000.0, -0.8  # what the made-up perplexities follow
CURVE = (3.0, 2.6, 2.4, 2.5, 2.3, 2.35, 2.4, 2.45)  # made-up validation losses
PATIENCES = (1, 3)


@drawn()
def toy() -> Toy:
    """Made-up perplexities under both laws; a made-up curve under two patiences."""
    ppl = FLOOR + SCALE * TOKENS**ALPHA
    fits = {
        "without a floor": fit_power_law(TOKENS, ppl),
        "with a floor": fit_with_floor(TOKENS, ppl),
    }
    table = pd.DataFrame(
        {
            name: {
                "exponent": f"{law.alpha:.2f}",
                "floor": f"{law.floor:.0f}",
                "R²": f"{law.r2:.3f}",
                "at 16,000 tokens": f"{law.predict(TOKENS[-1:])[0]:.0f}",
                "at a million tokens": f"{law.predict([1e6])[0]:.0f}",
            }
            for name, law in fits.items()
        }
    ).T.rename_axis("law")
    lines = {"loss": [f"{loss:.2f}" for loss in CURVE]}
    for patience in PATIENCES:
        stop, best = stop_epoch(CURVE, patience), best_epoch(CURVE, patience)
        lines[f"patience {patience}"] = [
            "best" if n == best else "stop" if n == stop else "run" if n < stop else ""
            for n in range(1, len(CURVE) + 1)
        ]
    return Toy(
        f"Made-up numbers. The four perplexities follow a law with floor {FLOOR:.0f} and exponent"
        f" {ALPHA}. A line without a floor fits them well and has another exponent; far beyond the"
        " data the two disagree. The curve shows what each patience would have kept: one run"
        " answers for both.",
        {"sizes": TOKENS.shape, "epochs": (len(CURVE),)},
        table,
        aligned([str(n) for n in range(1, len(CURVE) + 1)], lines),
    )
