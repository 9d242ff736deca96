"""Figures about what single layers do."""

from collections.abc import Callable

from matplotlib.figure import Figure

from lib.figures import panels, style
from lib.figures.training import OVER_SEEDS, over_epochs
from lib.results.store import Results


def training_losses(variant: str, layers: int, title: str) -> Callable[[Results], Figure]:
    """Draw the training loss of every layer through the shared head, a panel a text.

    Mean over seeds against epochs; lines end with the first seed to stop. The curve of the variant
    holds the columns ``train_loss_layer_1`` ...
    """

    def draw(results: Results) -> Figure:
        curve = results("curve")
        curve = curve[curve["variant"] == variant]
        figure, axes = panels.grid_of_panels(panels.counted(results()), "", 3.8)
        ends = {}
        for panel, corpus in zip(axes, results.corpora, strict=True):
            own = curve[curve["corpus"] == corpus]
            for layer in range(1, layers + 1):
                colour, column = style.COLOURS[layer - 1], f"train_loss_layer_{layer}"
                over_epochs(panel, own, column, f"layer {layer}", color=colour)
            last = own[own["epoch"] == own.groupby("seed")["epoch"].max().min()].mean(
                numeric_only=True
            )
            first, deepest = (last[f"train_loss_layer_{layer}"] for layer in (1, layers))
            ends[corpus] = f"{first:.2f} and {deepest:.2f}"
            style.whole_numbers(panel.xaxis)
            panel.set_xlabel("epoch")
        panels.heading(figure, f"{title}: layers 1 and {layers} end at", ends)
        axes[0].set_ylabel("training loss (nats per character)")
        style.legend(figure, axes[0], OVER_SEEDS, layers)
        return figure

    return draw
