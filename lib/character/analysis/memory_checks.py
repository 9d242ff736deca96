"""Use of a model that remembers as if other text had come before: what its memory then lets by."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.character.objectives import Segments


@dataclass
class FilledMemory(Segments):
    """Segments that begin with what another text has left in the memories.

    With an empty memory a segment that may not read its own window reads nothing, and that it
    looks at no later symbol is no news.
    """

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        state = self.filled(model, symbols)
        for _ in range(self.segments):
            logits, state = model.segment(symbols, state)
        return logits

    def filled(self, model: nn.Module, symbols: Tensor) -> Any:
        """The state before the first segment, its memories written by a text of equal shape that
        does not depend on ``symbols``."""
        earlier = (31 * torch.arange(symbols.numel()) % model.config.vocabulary).view_as(symbols)
        _, state = model.segment(earlier, model.begin(earlier))
        return model.begin(symbols, state.kept)
