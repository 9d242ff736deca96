"""Checks that hold at any size; notebooks run them on what they have just trained or described."""

from typing import Any

import pandas as pd
import torch

from lib.character.objectives import Objective


class CheckFailed(AssertionError):
    """A property that must hold does not."""


def finite(frame: pd.DataFrame) -> None:
    """Every trained row has a finite perplexity; raises CheckFailed naming those that have not."""
    bad = frame[~frame["val_ppl"].between(1, 1e12)]
    if len(bad):
        raise CheckFailed(f"no finite perplexity: {', '.join(bad['variant'].unique())}")
    print(f"all {len(frame)} perplexities are finite")


def future_influence(model: Any, objective: Objective, length: int = 64, cut: int = 40) -> float:
    """Largest change of logits before position ``cut`` when symbols from ``cut`` on change.

    ``model`` is a configuration with ``vocabulary`` and ``build()``; 0.0 means causal.
    """
    torch.manual_seed(0)
    network = model.build().eval()
    symbols = torch.randint(model.vocabulary, (4, length))
    changed = symbols.clone()
    changed[:, cut:] = (changed[:, cut:] + 1) % model.vocabulary
    with torch.no_grad():
        before, after = (objective.predict(network, x)[:, :cut] for x in (symbols, changed))
    return (before - after).abs().max().item()


def causal(model: Any, objective: Objective, name: str = "the model") -> None:
    """Raises CheckFailed if later symbols change earlier predictions."""
    influence = future_influence(model, objective)
    if influence > 1e-5:
        raise CheckFailed(f"{name} sees the future: logits move by {influence:.2g}")
    print(f"{name} is causal: later symbols move earlier logits by {influence:.1g}")
