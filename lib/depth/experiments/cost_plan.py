"""How long every variant of notebook 20 takes, from rates that are measured here and now.

``python -m lib.depth.experiments.cost_plan [size]`` times an update and an evaluation of each kind
of network on one batch of the real base and prints processor hours a run and a seed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch

from lib.depth import forward, work
from lib.depth.adapters import Adapters, adapted, for_use, frozen
from lib.depth.evaluation import AGAIN_RATES, AIMS, MIXES
from lib.depth.experiments.e20_adaptive_or_fixed_depth import E20
from lib.depth.methods import Method
from lib.depth.reading import token_losses
from lib.parameters import FULL
from lib.refusals import told

PROPAGATED = 3  # points a cost: best rule with the head, best without, random


def passes(method: Method) -> float:
    """Evaluation of a method in passes of its own network over valid and both tests."""
    if method.exits:
        read = 0.25 * len(method.exits)  # a read-out of the head beside a pass
        return 1 + read + PROPAGATED * sum(AIMS)
    if method.gated is not None:
        return sum(AIMS) + 1
    if method.again is not None and not method.trained:
        return len(MIXES)
    if method.again is not None and method.again.which != "all":
        share = (method.again.last - method.again.first) / method.depth
        return 1 + share * sum(AGAIN_RATES) + 0.25 * len(AGAIN_RATES)
    return 1


def seconds(call: Callable[[], object], times: int = 2) -> float:
    """Processor seconds of a call, the least of a few."""
    found = []
    for _ in range(times):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return min(found)


def plan(size: str) -> None:
    """Print a line a variant and the sum."""
    parameters = E20.parameters.at(size)
    base = parameters.base_name.load().model
    ids = torch.randint(3, base.config.vocab_size, (parameters.batch_size, 129))
    tested = parameters.valid_tokens + 2 * parameters.test_tokens
    whole = once = 0.0
    print(f"{'variant':26}{'train tok/s':>12}{'test tok/s':>12}{'hours':>8}")
    for name, variant in E20.variants.items():
        method = variant.make(parameters.layers)
        network = frozen(base, method)
        adapters = Adapters(network, method, parameters.rank)

        def update(network=network, adapters=adapters, method=method):
            llama = adapted(network, adapters)
            work.loss_of(llama, method, ids[:, :-1], ids[:, 1:]).backward()

        merged = for_use(network, adapters)

        @torch.inference_mode()
        def test(merged=merged):
            token_losses(merged, forward.through(merged, ids[:, :-1])[-1], ids[:, 1:])

        tokens = ids[:, 1:].numel()
        trained, tried = (tokens / seconds(call) for call in (update, test))
        spent = passes(method) * tested / tried
        spent += parameters.gate_tokens / tried * (2 if method.exits else 0)
        if method.trained:
            spent += parameters.train_tokens / trained + 4 * 4_096 / tried
        print(f"{name:26}{trained:12.0f}{tried:12.0f}{spent / 3600:8.2f}", flush=True)
        whole += 0 if variant.once else spent
        once += spent if variant.once else 0
    total = whole * parameters.seeds + once
    print(
        f"one seed {whole / 3600:.1f} h, {parameters.seeds} seeds {total / 3600:.1f} h of one core"
    )


@told()
def main(given: Sequence[str] | None = None) -> None:
    """Print the plan at a size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("size", nargs="?", default=FULL, choices=E20.parameters.sizes())
    chosen = parser.parse_args(given)
    torch.set_num_threads(1)
    plan(chosen.size)


if __name__ == "__main__":
    main()
