"""Checks that hold at any size; notebooks run them on what they have just trained or described."""

from typing import Any

import pandas as pd
import torch


class CheckFailed(AssertionError):
    """A property that must hold does not."""


def finite(frame: pd.DataFrame) -> None:
    """Every row that is not marked as diverged has a finite perplexity; raises CheckFailed naming
    those that have not."""
    sound = frame[frame["status"] == "ok"]
    bad = sound[~sound["val_ppl"].between(1, 1e12)]
    if len(bad):
        raise CheckFailed(f"no finite perplexity: {', '.join(bad['variant'].unique())}")
    lost = len(frame) - len(sound)
    print(f"all {len(sound)} perplexities are finite" + (f", {lost} runs diverged" if lost else ""))


LENGTH, SYMBOLS = 64, 97
CUT = 40  # symbols from here on are changed


def future_influence(model: Any, objective: Any) -> float:
    """Largest change of logits before position CUT when symbols from there on change.

    ``model`` is a configuration with ``build(symbols)``, ``objective`` says how it predicts; 0.0
    means causal.
    """
    torch.manual_seed(0)
    network = model.build(SYMBOLS).eval()
    text = torch.randint(SYMBOLS, (4, LENGTH))
    changed = text.clone()
    changed[:, CUT:] = (changed[:, CUT:] + 1) % SYMBOLS
    with torch.no_grad():
        before, after = (objective.predict(network, x)[:, :CUT] for x in (text, changed))
    return (before - after).abs().max().item()


def causal(model: Any, objective: Any, name: str = "the model") -> None:
    """Raises CheckFailed if later symbols change earlier predictions."""
    influence = future_influence(model, objective)
    if influence > 1e-5:
        raise CheckFailed(f"{name} sees the future: logits move by {influence:.2g}")
    print(f"{name} is causal: later symbols move earlier logits by {influence:.1g}")
