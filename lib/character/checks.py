"""Checks of the networks that an experiment trains; they hold at any size."""

from lib import checks
from lib.experiment import Experiment


def all_causal(experiment: Experiment) -> None:
    """Raises CheckFailed if a network looks at later symbols, as its objective uses it."""
    seen = set()
    for variant, entry in experiment.variants.items():
        model, objective = getattr(entry, "network", (None, None))
        if model is not None and (key := f"{model} {objective}") not in seen:
            seen.add(key)
            checks.causal(model, objective, experiment.label(variant))
