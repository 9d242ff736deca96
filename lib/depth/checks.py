"""Checks of notebooks 20 and 21 that hold at any size."""

from __future__ import annotations

import torch

from lib.checks import CheckFailed
from lib.depth import forward
from lib.depth.adapters import Adapters, frozen
from lib.depth.llama import of_base
from lib.depth.parameters import DepthParameters
from lib.experiment import Experiment
from lib.results.store import Results

EQUAL = 0.05  # trained numbers, relative
NEAR = 1e-3  # states, relative to the largest
SMALL = 8  # layers below which whole ranks cannot be equal


def as_many_numbers(experiment: Experiment, parameters: DepthParameters) -> None:
    """All methods train as many numbers within 5 %. Raises CheckFailed that names the others.

    Of a base of fewer than SMALL layers the counts are printed alone.
    """
    base = parameters.base_name.load().model
    counts = {}
    for name, variant in experiment.variants.items():
        method = variant.make(parameters.layers)
        if method.trained:
            counts[name] = Adapters(frozen(base, method), method, parameters.rank).count()
    whole = counts[experiment.baseline]
    far = {name: count for name, count in counts.items() if abs(count / whole - 1) > EQUAL}
    if far and parameters.layers >= SMALL:
        raise CheckFailed(f"{far} numbers are trained, {whole:,} in the baseline")
    low, high = min(counts.values()), max(counts.values())
    print(f"{low:,} to {high:,} numbers are trained in {len(counts)} networks")


def costs_are_kept(results: Results) -> None:
    """No point that was chosen for a cost exceeds it on the text that chose it, keys free."""
    frame = results("points")
    own = frame[(frame["split"] == "valid") & (frame["keys"] == "free")]
    over = own[own["flops"] > own["target"] + 1e-6]
    if len(over):
        raise CheckFailed(f"{len(over)} points cost more than they were chosen for")
    print(f"{len(own)} points keep to their cost on validation text")


def nothing_stops(parameters: DepthParameters) -> None:
    """Exits where no token stops are the base itself. Raises CheckFailed if they are not."""
    llama = of_base(parameters.base_name.load().model)
    ids = torch.arange(3, 35)[None]
    whole = forward.through(llama, ids)[-1]
    never = forward.with_exits(llama, ids, (1,), lambda n, recent, active: active & False)[0]
    gap = ((never - whole).abs().max() / whole.abs().max()).item()
    if gap > NEAR:
        raise CheckFailed(f"exits that nothing takes move states by {gap:.2g}")
    print(f"exits that nothing takes move no state (by {gap:.1g})")


def same_output(results: Results) -> None:
    """Drafted output is that of the network, but for near ties that sums in another order turn."""
    least = results("decoding")["equal"].min()
    if least < 0.5:
        raise CheckFailed(f"in the worst case only {least:.0%} of drafted tokens are the network's")
    print(f"at least {least:.1%} of the tokens of every text are those of plain generation")
