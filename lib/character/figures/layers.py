"""Figures about what single layers do."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style
from lib.figures.training import OVER_SEEDS, over_epochs


def training_losses(curve: pd.DataFrame, variant: str, layers: int, title: str) -> Figure:
    """Training loss of every layer through the shared head, mean over seeds, against epochs.

    ``curve`` holds the columns ``train_loss_layer_1`` ...; lines end with the first seed to stop.
    """
    own = curve[curve["variant"] == variant]
    figure, axes = plt.subplots()
    for layer in range(1, layers + 1):
        colour, column = style.COLOURS[layer - 1], f"train_loss_layer_{layer}"
        over_epochs(axes, own, column, f"layer {layer}", color=colour)
    style.whole_numbers(axes.xaxis)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss (nats per character)")
    axes.set_title(title)
    style.legend(figure, axes, OVER_SEEDS, layers)
    return figure
