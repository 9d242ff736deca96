"""Speed of training small models: seeds one by one, in processes, and as one compiled ensemble.

    python tools/bench.py

All three train the same seeds of the one-layer model (78,080 parameters) for the same steps in the
same run, so that the ratios hold on whatever machine this is. Compilation is timed apart and from
an empty cache: it is paid anew for every objective and shape of model, of which one notebook has a
dozen. Takes about three minutes.
"""

import argparse
import copy
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.func import functional_call, stack_module_state, vmap

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.character.models.transformer import TransformerConfig  # noqa: E402
from lib.character.objectives import Standard, cross_entropy  # noqa: E402
from lib.character.run import CharacterRun, run_character  # noqa: E402
from lib.runs.sweep import sweep  # noqa: E402
from lib.runs.task import Task  # noqa: E402
from lib.text.corpus import load_corpus  # noqa: E402
from lib.text.windows import Windows  # noqa: E402
from lib.training.loop import Training  # noqa: E402


def swept(workers: int, corpus, seeds: int, epochs: int) -> float:
    """Wall seconds of a sweep over the seeds, process start included."""
    training = Training(epochs=epochs, patience=0)
    config = CharacterRun(corpus, TransformerConfig(), Standard(), training)
    labels = {"experiment": "exp03", "variant": "Standard"}
    tasks = [Task(run_character, config, seed, labels) for seed in range(seeds)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DEPTH_KEEP"] = folder
        started = time.perf_counter()
        sweep(tasks, workers)
        return time.perf_counter() - started


def ensemble(corpus, seeds: int, epochs: int) -> tuple[float, float, float]:
    """Seconds to compile, seconds to train all seeds as one, largest loss error to one model."""
    models = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        models.append(TransformerConfig().build(len(corpus.alphabet)))
    base = copy.deepcopy(models[0]).to("meta")
    stacked, _ = stack_module_state(models)
    stacked = {name: tensor.detach().requires_grad_() for name, tensor in stacked.items()}
    optimizer = torch.optim.AdamW(list(stacked.values()), lr=1e-3)

    def losses(parameters, inputs, targets):
        def one(own, x, y):
            return cross_entropy(functional_call(base, own, (x,)), y)

        return vmap(one)(parameters, inputs, targets)

    compiled = torch.compile(losses, dynamic=False)
    windows = Windows.cut(corpus.alphabet.encode(corpus.train), 64).whole_batches(16)
    batches = [
        (x.expand(seeds, *x.shape), y.expand(seeds, *y.shape)) for x, y in windows.batches(16)
    ]

    def step(inputs, targets) -> None:
        optimizer.zero_grad()
        compiled(stacked, inputs, targets).sum().backward()
        optimizer.step()

    x, y = batches[0]
    single = torch.stack([cross_entropy(model(x[0]), y[0]) for model in models])
    started = time.perf_counter()
    error = (compiled(stacked, x, y) - single).abs().max().item()
    step(x, y)
    compile_seconds = time.perf_counter() - started
    started = time.perf_counter()
    for _ in range(epochs):
        for x, y in batches:
            step(x, y)
    return compile_seconds, time.perf_counter() - started, error


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=24)
    given = parser.parse_args()
    size = given.seeds, given.epochs
    if min(size) < 1:
        sys.exit(f"--seeds and --epochs are {size}; allowed: whole numbers at least 1")
    torch.set_num_threads(1)
    corpus = load_corpus("python-docs")
    plain, beside = swept(1, corpus, *size), swept(2, corpus, *size)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        compiling, together, error = ensemble(corpus, *size)
    print(f"\n{given.seeds} seeds, {given.epochs} epochs of 20,000 characters, one thread each")
    print(f"one by one            {plain:6.1f} s   1.00")
    print(
        f"two processes         {beside:6.1f} s   {plain / beside:.2f} times as fast, with start-up"
    )
    print(
        f"compiled ensemble     {together:6.1f} s   {plain / together:.2f} times as fast without "
        f"evaluation, after {compiling:.0f} s of compiling; losses differ by at most {error:.0e}"
    )
    print(
        f"ensemble, end to end  {compiling + together:6.1f} s   "
        f"{plain / (compiling + together):.2f}, on one core where two processes use two"
    )


if __name__ == "__main__":
    main()
