"""The served model on one sentence: which model answers each token, and what that costs."""

import pandas as pd
import torch

from lib.cascade.difficulty import threshold_for
from lib.cascade.modeling import CascadeForCausalLM
from lib.cascade.stage import new_stage
from lib.cascade.toys.sentence import BASE, base, features, ids, tokens
from lib.toy import SPACE, Toy, aligned, drawn

RATIO, DEPTH = 0.4, 2  # share deferred, layers of a stage
CRITERION = "embedding_to_final"


@torch.inference_mode()
@drawn()
def toy() -> Toy:
    """A base and no stage, one that starts as the base, one newly drawn: answers, layers, loss."""
    model, found = base().model, features()
    rule = {
        "criterion": CRITERION,
        "threshold": threshold_for(found.scalars[CRITERION], RATIO, CRITERION),
    }
    kinds = {
        "base alone": [],
        "and a stage that starts as the base": [
            new_stage(model.config, DEPTH, "shared", "identity")
        ],
        "and a newly drawn stage": [new_stage(model.config, DEPTH, std=0.2)],
    }
    rows, answered = {}, None
    layers = model.config.num_hidden_layers
    for name, stages in kinds.items():
        whole = CascadeForCausalLM.assemble(base(), stages, [rule] * len(stages))
        out = whole(ids()[:, :-1])
        answered = out.answered_by[0]
        loss = torch.nn.functional.cross_entropy(out.logits[0], found.labels, reduction="none")
        rows[name] = {
            "answered by the stage": f"{int((answered > 0).sum())} of {found.tokens}",
            "layers a token": f"{layers + DEPTH * (answered > 0).double().mean():.1f}",
            "loss of all tokens, nats": f"{loss.mean():.2f}",
        }
    return Toy(
        f"{BASE}. Every token passes its {layers} layers first; the stage comes on top, so a"
        " cascade costs more than its base. Under each token stands who answers it: 0 the base, 1"
        " the stage. The loss is over all tokens, each by the model that answers it. A random base"
        " has none to lose: look at who answers and at the cost.",
        {
            "tokens": ids()[:, :-1].shape,
            "logits": out.logits.shape,
            "answered by": out.answered_by.shape,
        },
        pd.DataFrame(rows).T.rename_axis("model"),
        aligned([t.replace(" ", SPACE) for t in tokens()], {"answered by": answered.tolist()}),
    )
