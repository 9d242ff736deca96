"""The search that every method gets: one number after the other, each on what was chosen before."""

import math

import pandas as pd

from lib.character.choices import AVERAGES, GRID, SEEDS, chosen
from lib.toy import Toy, drawn

METHOD, TEXT, CHARACTERS = "standard_1", "wikipedia", 20_000  # whose way is shown


@drawn()
def toy() -> Toy:
    """The grid, stage by stage: values, runs of a method, what one method chose of it."""
    found = chosen(METHOD, TEXT, CHARACTERS)
    rows, runs = {}, 0
    for stage, (name, values) in enumerate(GRID.items()):
        tried = len(values) * len(AVERAGES) * len(SEEDS)
        known = len(AVERAGES) * len(SEEDS) if stage else 0  # the value chosen so far was run before
        runs += tried - known
        own = None if found is None else getattr(found, name)
        rows[name.replace("_", " ")] = {
            "values, the chosen one in brackets": "  ".join(
                f"[{v:g}]" if v == own else f"{v:g}" for v in values
            ),
            "runs": tried,
            "of these new": tried - known,
        }
    whole = math.prod(map(len, GRID.values())) * len(AVERAGES) * len(SEEDS)
    averaged = found is not None and found.average > 0
    return Toy(
        f"Every value is run with and without an average of the weights, with {len(SEEDS)} random"
        f" seeds. That makes {runs} runs a method; a search of all combinations would take {whole}."
        f" Brackets: what the standard network of one layer chose on {TEXT}, with"
        f"{'' if averaged else 'out'} the average.",
        {"grid": tuple(len(values) for values in GRID.values()), "averages": (len(AVERAGES),)},
        pd.DataFrame(rows).T.rename_axis("number"),
    )
