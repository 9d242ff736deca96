"""The objective of confidence routing: layer losses in training, hard routing in evaluation."""

from dataclasses import dataclass

from torch import Tensor, nn

from lib.character.models.routed import routed
from lib.character.objectives import LayerLosses


@dataclass
class Routed(LayerLosses):
    """Losses after layers as weighted; held-out symbols exit where layer ``exit_layer`` is sure.

    Early stopping therefore watches the *routed* perplexity, as R4 did. Weights (0, .5, 0,
    .5) are its confidence-routed transformer. Source: R4, Experiments 10 and 11.
    """

    exit_layer: int = 2
    threshold: float = 0.8

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        return routed(model, symbols, self.exit_layer, self.threshold)[0]
