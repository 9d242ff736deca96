"""Use of a model that remembers as if other text had come before: what its memory then lets by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib import checks
from lib.character.objectives import Segments


@dataclass
class FilledMemory(Segments):
    """Segments that begin with what another text has left in the memories.

    With an empty memory a segment that may not read its own window reads nothing, and that it
    looks at no later symbol is no news.
    """

    def start(self, model: nn.Module, symbols: Tensor) -> Any:
        """Memories written by a text of equal shape that does not depend on ``symbols``."""
        earlier = (31 * torch.arange(symbols.numel()) % model.vocabulary).view_as(symbols)
        _, state = model.segment(earlier, model.begin(earlier))
        return model.begin(symbols, state.kept)


def memories_look_ahead(variants: Mapping[str, Any]) -> None:
    """Which of the networks with memory see later symbols, said aloud; those without see none.

    With ``memory_off`` or ``causal_memory`` none may, the latter also with a filled memory; those
    with neither do, as R4 ran them. A network that several variants train is looked at once.
    Raises CheckFailed where one does not do as said.
    """
    seen = set()
    for variant in variants.values():
        model, objective = getattr(variant, "network", (None, None))
        key = f"{model} {objective}"
        if model is None or key in seen:
            continue
        seen.add(key)
        if getattr(model, "memory", "none") == "none" or model.memory_off:
            checks.causal(model, objective, variant.label)
        elif model.causal_memory:
            filled = FilledMemory(objective.segments)
            checks.causal(model, filled, f"{variant.label}, with a filled memory,")
        else:
            leak = checks.future_influence(model, objective)
            if not leak > 0:
                raise checks.CheckFailed(f"{variant.label} looks at no later symbol")
            print(f"{variant.label} looks ahead: later symbols move earlier logits by {leak:.2g}")
