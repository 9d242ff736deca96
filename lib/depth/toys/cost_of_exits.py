"""What a token costs by the layer where it stops, and where the tokens of a sentence stop."""

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from lib.base.head import head_statistics
from lib.depth import forward
from lib.depth.flops import Costs
from lib.depth.rules import Table, head_scores, stops, token_costs
from lib.depth.toys.sentence import BASE, ids, llama, words
from lib.figures import alternative, style
from lib.toy import Toy, aligned, drawn

EXITS, CUT = (1, 2, 3), 0.85  # layers; quantile of the confidences that is the threshold
LAYERS, CONTEXT = 30, 64.5  # of SmolLM2-135M; mean context of a window of 128 tokens
D, KEYS, INNER, WORDS = 576, 192, 1_536, 49_152  # its sizes
ASKED = (6, 12, 18, 24)  # exits of the notebook's networks
SMOLLM2 = Costs(
    layer=2 * D * D + 2 * D * KEYS + 3 * D * INNER + 2 * D * CONTEXT,
    keys=2 * D * KEYS,
    head=D * WORDS,
    gate=D,
    layers=LAYERS,
)


def curve(heads: bool) -> list[float]:
    """Cost of a stop after each layer; ``heads``: the head has read at every exit up to there."""
    return [
        SMOLLM2.relative(e, LAYERS - e, 1 + heads * sum(asked < e for asked in ASKED))
        for e in range(1, LAYERS + 1)
    ]


@torch.inference_mode()
def readings() -> Table:
    """The sentence on the tiny base: losses and scores after every layer."""
    own, states = llama(), forward.through(llama(), ids()[:, :-1])
    labels = ids()[0, 1:]
    found = [head_statistics(own.read(state)[0], own.head, labels) for state in states[1:]]
    scores = [head_scores(at) for at in found[:-1]]
    return Table(
        torch.stack([at["loss"] for at in found]),
        {name: torch.stack([own[name] for own in scores]) for name in scores[0]},
        EXITS,
        len(own.layers),
        len(labels),
    )


@drawn()
def toy() -> Toy:
    """Where each token stops by confidence; the mean cost of SmolLM2 by rule; the cost's curve."""
    table = readings()
    scores = table.scores["confidence"]
    threshold = scores.quantile(CUT).item()
    chosen = tuple(range(len(EXITS)))
    at = stops(scores, chosen, threshold)
    costs = Costs.of(llama(), table.depth, CONTEXT)
    spent = token_costs(table, at, chosen, "confidence", costs)
    free, read = curve(False), curve(True)
    shown = pd.DataFrame(
        {
            "head reads once": [f"{free[e - 1]:.2f}" for e in (*ASKED, LAYERS)],
            "head reads at every exit": [f"{read[e - 1]:.2f}" for e in (*ASKED, LAYERS)],
        },
        index=pd.Index((*ASKED, LAYERS), name="stops after layer"),
    )
    return Toy(
        f"{BASE}. Under each token stands the layer after which it stops by confidence. With all"
        f" read-outs of the head the mean cost is {spent.mean():.2f} of the tiny base. Table and"
        " curve are SmolLM2's costs, by its sizes. A rule that reads the head at every exit pays"
        " for it.",
        {"scores": scores.shape, "losses": table.loss.shape, "stops": at.shape},
        shown,
        aligned(words(ids()[0, :-1]), {"stops after": [(*EXITS, table.depth)[i] for i in at]}),
        draw,
    )


def draw() -> Figure:
    """Cost against the layer of the stop, with one read-out and with one at every exit."""
    figure, axes = plt.subplots(figsize=(6, 2.8))
    layers = range(1, LAYERS + 1)
    for heads, name, look in (
        (False, "head reads once", "-"),
        (True, "head reads at every exit", "--"),
    ):
        axes.plot(layers, curve(heads), look, color=style.COLOURS[int(heads)], label=name)
    style.level(axes, "base", 1.0)
    axes.set_xlabel("layer after which a token stops")
    axes.set_ylabel("cost (base = 1)")
    axes.set_title("What a stop costs in SmolLM2-135M")
    style.legend(figure, axes)
    alternative.say(figure, alternative.at(figure, 12, "layer 12"))
    return figure
