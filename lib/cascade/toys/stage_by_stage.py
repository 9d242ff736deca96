"""Which tokens reach each stage of a cascade, and how few are left."""

import pandas as pd
import torch

from lib.cascade.difficulty import is_hard, threshold_for
from lib.cascade.stage import new_stage, run_single
from lib.cascade.toys.sentence import BASE, base, features, hidden, tokens
from lib.toy import SPACE, Toy, aligned, drawn

STAGES, RATIO = 3, 0.6


@torch.inference_mode()
@drawn()
def toy() -> Toy:
    """Three untrained stages: each gets the share of tokens that the model before calls hard."""
    found = features()
    states, reached = found.final.clone(), torch.arange(found.tokens)
    values, criterion = found.scalars["embedding_to_final"], "embedding_to_final"
    last, rows = torch.zeros(found.tokens, dtype=torch.long), {}
    for number in range(1, STAGES + 1):
        threshold = threshold_for(values, RATIO, criterion)
        reached = reached[is_hard(values, threshold, criterion)]
        last[reached] = number
        before = states[reached]
        stage = new_stage(base().model.config, 2, std=0.2, seed=number)
        states[reached] = run_single(stage, before)  # every token alone, as a sequence of length 1
        values, criterion = (
            torch.cosine_similarity(before, states[reached], dim=-1),
            "input_to_output",
        )
        rows[f"stage {number}"] = {
            "tokens": len(reached),
            "share of all": f"{100 * len(reached) / found.tokens:.0f} %",
            "threshold of the cosine": f"{threshold:.2f}",
            "base's loss on them, nats": f"{found.scalars['loss'][reached].mean():.2f}",
        }
    table = pd.DataFrame(rows).T.rename_axis("reaches")
    return Toy(
        f"{BASE}, and the stages are untrained. Under each token stands the last stage that it"
        " reaches, 0 for the base. The loss of a stage is of its own tokens alone. They are others"
        " at every stage, so such losses cannot be compared.",
        {"states": hidden()[-1].shape, "one token of a stage": (1, 1, hidden()[-1].shape[-1])},
        table,
        aligned([t.replace(" ", SPACE) for t in tokens()], {"last stage": last.tolist()}),
    )
