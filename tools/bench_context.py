"""How fast are the ways to compute contexts? Ratios from one run, and the error each way makes.

    python tools/bench_context.py                       width 768, 6 layers, as in R3
    python tools/bench_context.py --width 192 --tokens 4096 --layout first_layer

Every round times every way once, in turn, on one thread, so that a busy machine slows all of them;
the table shows medians over rounds of CPU seconds and of the ratio to the plain recurrence in the
same round. Documents are timed on equally many tokens, cut into equal documents: their recurrence
is exact but begins anew in each, so their error is against the same documents one by one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.context.block import LAYOUTS, ContextBlock  # noqa: E402
from lib.context.contexts import (  # noqa: E402
    documents,
    parallel,
    relative_error,
    sequential,
    sequential_naive,
)


def ways(block: ContextBlock, x: torch.Tensor, sweeps: list[int], batches: list[int]) -> dict:
    """Name -> function that computes contexts [N, D] of the stream x [N, d]."""
    found: dict[str, Callable[[], torch.Tensor]] = {
        "sequential, whole block a step": lambda: sequential_naive(block, x),
        "sequential, token half ahead": lambda: sequential(block, x),
    }
    for batch in batches:
        lengths = [len(x) // batch] * batch
        found[f"{batch} documents batched"] = lambda n=lengths: documents(block, x[: sum(n)], n)
    for count in sweeps:
        found[f"parallel, {count} sweep{'s' if count > 1 else ''}"] = lambda n=count: parallel(
            block, x, n
        )[0]
    return found


def error_of(name: str, result: torch.Tensor, exact: torch.Tensor, block, x) -> float:
    """Mean relative error against the exact recurrence (of each document, where cut)."""
    if "documents" in name:
        length = len(result) // int(name.split()[0])
        exact = torch.cat([sequential(block, part) for part in x[: len(result)].split(length)])
    return relative_error(result, exact)


def measure(found: dict, rounds: int) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
    """CPU seconds of every way by round, and every way's contexts."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    results = {}
    for _ in range(rounds):
        for name, way in found.items():
            started = time.process_time()
            results[name] = way()
            seconds[name].append(time.process_time() - started)
    return seconds, results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--layout", choices=LAYOUTS, default="every_layer")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweeps", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--documents", type=int, nargs="+", default=[4, 16, 64])
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(given.tokens, given.width, generator=generator)
    block = ContextBlock(given.width, given.width, given.layers, given.layout)
    found = ways(block, x, given.sweeps, given.documents)
    seconds, results = measure(found, given.rounds)
    base = seconds["sequential, whole block a step"]
    exact = results["sequential, whole block a step"]
    print(
        f"{given.layout}, {given.layers} layers, width {given.width}, {given.tokens} tokens, "
        f"{sum(p.numel() for p in block.parameters()):,} parameters, 1 thread, "
        f"{given.rounds} rounds, torch {torch.__version__}"
    )
    print(f"{'way':34}{'tokens/CPU s':>14}{'times':>8}{'relative error':>16}")
    for name, taken in seconds.items():
        rate = given.tokens / statistics.median(taken)
        ratio = statistics.median(b / t for b, t in zip(base, taken, strict=True))
        error = error_of(name, results[name], exact, block, x)
        print(f"{name:34}{rate:14,.0f}{ratio:8.1f}{error:16.2e}")


if __name__ == "__main__":
    main()
