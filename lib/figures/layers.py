"""Figures about what single layers do."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib.figures import style


def training_losses(curve: pd.DataFrame, variant: str, layers: int, title: str) -> Figure:
    """Training loss of every layer through the shared head, mean over seeds, against epochs.

    ``curve`` holds the columns ``train_loss_layer_1`` ...; lines end with the first seed to stop.
    """
    own = curve[curve["variant"] == variant]
    figure, axes = plt.subplots()
    for layer in range(1, layers + 1):
        wide = own.pivot_table(index="epoch", columns="seed", values=f"train_loss_layer_{layer}")
        wide, colour = wide.dropna(), style.COLOURS[layer - 1]
        axes.plot(wide.index, wide.mean(axis=1), color=colour, label=f"layer {layer}")
        axes.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=colour, alpha=0.15)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss (nats per character)")
    axes.set_title(title)
    axes.legend()
    return figure
