"""A stage that starts as the base, and a gate that chooses who goes through it."""

import pandas as pd
import torch

from lib.base.head import head_statistics
from lib.cascade.gate import fit_gate
from lib.cascade.query_stage import QueryStage, query_stage, stream_scale
from lib.cascade.toys.sentence import BASE, base, features, ids, marks, tokens
from lib.toy import SPACE, Toy, aligned, drawn

RATE, PENALTY, MOVE = 0.25, 0.1, 0.3


@torch.inference_mode()
def _losses(stage: QueryStage) -> torch.Tensor:
    """Loss [T] of the base's head on what the stage makes of every token."""
    found = features()
    states = stage(found.final[None])
    return head_statistics(states, base().model.lm_head.weight, found.labels)["loss"]


@drawn()
def toy() -> Toy:
    """Losses where none, chosen, random or all tokens go through a stage that was moved."""
    found = features()
    stage = query_stage(base().model, 1, stream_scale(base().model, ids()))
    own = found.scalars["loss"]
    gap = (_losses(stage) - own).abs().max().item()
    with drawn(), torch.no_grad():  # a random step stands for training: it helps some tokens
        for weight in (
            stage.layers[0].self_attn.o_proj.weight,
            stage.layers[0].mlp.down_proj.weight,
        ):
            weight.add_(MOVE * torch.randn_like(weight))
    gain = own - _losses(stage)
    count = round(RATE * found.tokens)
    chosen = torch.zeros(found.tokens, dtype=torch.bool)
    chosen[fit_gate(found.final, gain, PENALTY)(found.final).topk(count).indices] = True
    best = torch.zeros(found.tokens, dtype=torch.bool)
    best[gain.topk(count).indices] = True
    routes = {
        "no token": 0.0,
        "the gate's": (gain * chosen).sum().item(),
        "random, as many": count * gain.mean().item(),
        "those that gain most": (gain * best).sum().item(),
        "all": gain.sum().item(),
    }
    table = pd.DataFrame(
        {
            "tokens through the stage": [0, count, count, count, found.tokens],
            "loss of all tokens, nats": [
                f"{own.mean().item() - saved / found.tokens:.2f}" for saved in routes.values()
            ],
        },
        index=pd.Index(list(routes), name="who goes"),
    )
    return Toy(
        f"{BASE}. The untrained stage moves no loss (by {gap:.0g}). Then a random step stands for"
        " training: it helps some tokens and harms others. The gate is one linear read-out of the"
        " base's state, fitted to what each token gains.",
        {"states": (1, *found.final.shape), "gain": gain.shape, "gate": found.final.shape[1:]},
        table,
        aligned(
            [t.replace(" ", SPACE) for t in tokens()],
            {"gate": marks(chosen), "gains most": marks(best)},
        ),
    )
