"""How the state of a context block rolls over the words of a sentence, and what it keeps of one."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from lib.context.block import ContextBlock
from lib.context.contexts import sequential_naive
from lib.context.toys.words import LAYERS, WIDTH, WORDS, embedded
from lib.figures import alternative
from lib.toy import Toy, drawn

SHOWN = (0, 1, 2, 4, 8)  # words after the one that is replaced


def state_of(layout: str, replaced: bool = False) -> torch.Tensor:
    """Contexts [T, width] after each word; ``replaced`` reads another first word."""
    x = embedded()
    if replaced:
        x[0] = -x[0]
    return sequential_naive(ContextBlock(WIDTH, WIDTH, LAYERS, layout), x)


@drawn()
def toy() -> Toy:
    """What is left of the first word, by layout; and a picture of the state."""
    found = {}
    for name, layout in (("at every layer", "every_layer"), ("at the first layer", "first_layer")):
        apart = 1 - torch.cosine_similarity(state_of(layout), state_of(layout, True), dim=-1)
        found[f"token {name}"] = [f"{apart[t]:.4f}" for t in SHOWN]
    table = pd.DataFrame(found, index=pd.Index(SHOWN, name="words later"))
    context = state_of("every_layer")
    return Toy(
        f"Random blocks of {LAYERS} layers read the sentence word by word, each word a random"
        " embedding. The table replaces the first word by another. It shows 1 − cosine of the two"
        " states so many words later: 0 means that the first word is forgotten.",
        {"embeddings": embedded().shape, "states": context.shape},
        table,
        picture=lambda: draw(context, WORDS),
    )


def draw(context: torch.Tensor, words: Sequence[str]) -> Figure:
    """The state [T, width] as colours: a column a word, a row a number of the state."""
    figure, axes = plt.subplots(figsize=(7.2, 2.6))
    most = context.abs().max().item()
    axes.imshow(context.t().numpy(), aspect="auto", cmap="RdBu", vmin=-most, vmax=most)
    axes.set_xticks(range(len(words)), words, rotation=30, ha="right")
    axes.set_yticks([])
    axes.grid(False)
    axes.set_xlabel("word that was read last")
    axes.set_ylabel("numbers of the state")
    axes.set_title("One state of a fixed size, rewritten at every word")
    steps = (context[1:] - context[:-1]).norm(dim=1)
    place = int(steps.argmax()) + 1
    alternative.say(
        figure, f"{len(words)} words; the state moves most at “{words[place]}” (word {place + 1})."
    )
    return figure
