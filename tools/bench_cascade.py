"""Speed of the CASCADE parts, as ratios within one run.

    python tools/bench_cascade.py                 the real base (about six minutes on one core)
    python tools/bench_cascade.py --base tiny     a smoke run

Everything is timed in turns (first one, then the other, again) in CPU seconds of one thread, so
that other load on the machine falls on both sides. Peak memory is of a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib.base.pretrained import Base, load_base  # noqa: E402
from lib.cascade.features import window_features, window_states  # noqa: E402
from lib.cascade.modeling import CascadeForCausalLM  # noqa: E402
from lib.cascade.packing import Packs  # noqa: E402
from lib.cascade.single_token import SingleTokenWork  # noqa: E402
from lib.cascade.stage import new_stage, run_compact  # noqa: E402
from lib.cascade.work import StageWork  # noqa: E402
from lib.training.loop import Training  # noqa: E402

KEEP = (0.10, 0.24, 0.50, 0.90)


def least_cpu_seconds(jobs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each job over ``rounds`` rounds after one to warm up."""
    found = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            if number:
                found[name].append(time.process_time() - started)
    return {name: min(times) for name, times in found.items()}


def peak_megabytes() -> int:
    """Peak resident memory of this process. Linux hands ``ru_maxrss`` of the parent on to a child
    that is started from it, so the kernel's own high-water mark is read where there is one."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(part for part in status.read_text().splitlines() if part.startswith("VmHWM"))
        return int(line.split()[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 * 1024)  # macOS: bytes


def table(title: str, seconds: dict[str, float], tokens: int, reference: str) -> None:
    """Print tokens per CPU second, and the ratio to ``reference``."""
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:<44} {tokens / value:9.0f} tok/cpu-s   {seconds[reference] / value:5.2f}x")


def base_forward(base: Base, rounds: int) -> None:
    """Features without whole logits against plain transformers with them."""
    ids = torch.randint(3, base.model.config.vocab_size, (8, 129))
    inputs, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def plain():
        logits = base.model(inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def hidden():
        return base.model.model(input_ids=inputs, use_cache=False)

    jobs = {
        "transformers, all logits and loss": plain,
        "transformers, hidden states only": hidden,
        "features without the head": lambda: window_states(base, inputs),
        "features (states, cosines, head in chunks)": lambda: window_features(base, inputs, labels),
    }
    with torch.inference_mode():
        seconds = least_cpu_seconds(jobs, rounds)
    table("Base forward, 8 x 128 tokens", seconds, inputs.numel(), next(iter(jobs)))


def stage_job(base: Base, chunked: bool, fused: bool, batch: int, layers: int) -> Callable:
    """One training step of a stage on ``batch`` x 128 random states."""
    config = base.model.config
    stage = new_stage(config, layers)
    states = torch.randn(batch * 128, config.hidden_size)
    labels = torch.randint(config.vocab_size, (batch * 128,))
    index = torch.arange(batch * 128).view(batch, 128)
    packs = Packs(index, torch.ones_like(index, dtype=torch.bool))
    if chunked:
        work = StageWork(stage, states, labels, packs, batch, 0, None, dict)
        return update_job(work, torch.arange(batch))
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-4, foreach=False, fused=fused)

    def step():
        logits = stage(states[index]) @ stage.head.weight.t()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def update_job(work: StageWork, rows: torch.Tensor) -> Callable:
    """One update of a stage as the training loop makes it: its own optimiser or fused AdamW."""
    numbers = Training(learning_rate=1e-4, clip=0.0)
    optimizer = work.optimizer(numbers) or torch.optim.AdamW(
        work.model.parameters(), lr=1e-4, weight_decay=0.01, fused=True
    )

    def update():
        for loss, _ in work.losses(rows):
            if isinstance(loss, torch.Tensor):
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return update


def single_tokens(base: Base, rounds: int) -> None:
    """An update on single tokens: plain, and with head and layers moved in pieces (R0, R2, R1)."""
    config, tokens = base.model.config, 32
    states = torch.randn(tokens, config.hidden_size)
    labels = torch.randint(config.vocab_size, (tokens,))
    index = torch.arange(tokens)[:, None]
    packs = Packs(index, torch.ones_like(index, dtype=torch.bool))
    for layers in (0, 2, 8):
        jobs = {}
        for name, kind in (("plain", StageWork), ("in pieces", SingleTokenWork)):
            stage = new_stage(config, layers)
            work = kind(stage, states, labels, packs, tokens, 0, None, dict)
            jobs[f"{name} update"] = update_job(work, index[:, 0])
        seconds = least_cpu_seconds(jobs, rounds)
        table(f"Update on {tokens} single tokens, {layers} layers", seconds, tokens, "plain update")


def stage_step(base: Base, source: str, rounds: int, batch: int, layers: int) -> None:
    """Chunked loss and fused AdamW against whole logits and the plain AdamW."""
    jobs = {
        "whole logits, AdamW": stage_job(base, False, False, batch, layers),
        "whole logits, fused AdamW": stage_job(base, False, True, batch, layers),
        "chunked loss, fused AdamW": stage_job(base, True, True, batch, layers),
    }
    title = f"Stage step, {layers} layers, {batch} x 128 tokens"
    table(title, least_cpu_seconds(jobs, rounds), batch * 128, next(iter(jobs)))
    for name, flag in (("whole logits", "naive"), ("chunked", "chunked")):
        command = [sys.executable, __file__, "--base", source, "--memory", flag]
        command += ["--batch", str(batch), "--layers", str(layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"  peak memory of a process with base and stage, {name}: {done.stdout.strip()} MB")


def routing(base: Base, rounds: int, layers: int) -> None:
    """A stage over only the tokens that reach it, against over all of them."""
    stage = new_stage(base.model.config, layers).eval()
    states = torch.randn(8, 128, base.model.config.hidden_size)
    jobs = {"every token": lambda: stage(states)}
    for keep in KEEP:
        chosen = torch.rand(8, 128, generator=torch.Generator().manual_seed(1)) < keep
        jobs[f"{keep:.0%} of the tokens"] = lambda chosen=chosen: run_compact(stage, states, chosen)
    with torch.inference_mode():
        seconds = least_cpu_seconds(jobs, rounds)
    title = f"Routing, {layers} layers, 8 x 128 tokens"
    table(title, seconds, states[..., 0].numel(), "every token")


def generation(base: Base, rounds: int, layers: int, new_tokens: int) -> None:
    """Greedy generation of the cascade at several shares of hard tokens, against the base."""
    prompts = torch.randint(3, base.model.config.vocab_size, (4, 32))
    settings = {
        "max_new_tokens": new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "attention_mask": torch.ones_like(prompts),
    }
    jobs = {"base alone": lambda: base.model.generate(prompts, **settings)}
    for share, threshold in (("no token", float("-inf")), ("every token", float("inf"))):
        model = CascadeForCausalLM.assemble(
            base,
            [new_stage(base.model.config, layers)],
            [{"criterion": "last_two_layers", "threshold": threshold}],
        )
        jobs[f"cascade, {share} deferred"] = lambda model=model: model.generate(prompts, **settings)
    with torch.inference_mode():
        seconds = least_cpu_seconds(jobs, rounds)
    title = f"Generation, 4 x {new_tokens} tokens, stage of {layers} layers"
    table(title, seconds, 4 * new_tokens, "base alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="auto")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--memory", choices=("naive", "chunked"), help=argparse.SUPPRESS)
    parser.add_argument("--only-single", action="store_true", help="updates on single tokens only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(given.base)
    if given.memory:
        stage_job(base, given.memory == "chunked", True, given.batch, given.layers)()
        print(peak_megabytes())
        return
    print(f"{base.name}, {base.parameters:,} parameters, one thread, torch {torch.__version__}")
    if not given.only_single:
        base_forward(base, given.rounds)
    single_tokens(base, max(5, given.rounds))
    if given.only_single:
        return
    stage_step(base, given.base, given.rounds, given.batch, given.layers)
    routing(base, given.rounds, given.layers)
    generation(base, given.rounds, given.layers, 16)


if __name__ == "__main__":
    main()
