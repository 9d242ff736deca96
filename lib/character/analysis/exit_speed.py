"""Early exit by the clock: is the compute that a formula saves also time that is saved?

Two tables. ``batched``: whole windows, full model against compacted inference, at several
thresholds; ``generated``: one symbol at a time with a cache. Each row has the wall clock, the ideal
speed-up that the seeds' compute formula promises, and the loss.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.character.analysis.depth_probe import splits
from lib.character.analysis.early_exit import compute
from lib.character.models.generation import Decoder, generate, generate_uncached
from lib.character.models.routed import KEEPS, compacted, routed
from lib.character.models.transformer import TransformerConfig
from lib.text.windows import Windows
from lib.character.character_run import CharacterRun
from lib.character.kept_run import load_state
from lib.runs.task import Outcome

FULL = 1.01  # a threshold that no confidence reaches


@dataclass(frozen=True)
class Speed:
    """A trained network, where it exits, and how much is timed."""

    network: CharacterRun
    run_id: str
    exit_layer: int
    thresholds: tuple[float, ...] = (0.5, 0.8, 0.95)
    rows: int = 64
    repeats: int = 7
    prompt: int = 16
    widths: tuple[int, ...] = (64, 256)
    shares: tuple[float, ...] = (0.5, 0.75, 0.95)


def run(config: Speed, seed: int, folder: Path) -> Outcome:
    """Time the best epoch's weights on the reported split."""
    model = load_state(config.network, folder.parent / config.run_id, "best")
    windows = splits(config.network)["report"]
    windows = Windows(windows.inputs[: config.rows], windows.targets[: config.rows])
    corpus = config.network.corpus
    tables = {
        "batched": batched(model, windows, config),
        "generated": generated(model, windows, config),
    }
    if config.widths:
        tables["wider"] = wider(config, seed)
    return Outcome({"corpus": corpus.name, "corpus_sha256": corpus.sha256}, tables)


@torch.no_grad()
def batched(model: nn.Module, windows: Windows, config: Speed) -> list[dict]:
    """Compacted inference against the full model on the same windows (rows, T)."""
    depth = config.exit_layer / len(model.blocks)
    symbols, layer = windows.inputs, config.exit_layer
    rows = []
    for threshold in config.thresholds:
        exact = routed(model, symbols, layer, threshold)[0]
        for keep in KEEPS:
            full_seconds, seconds = alternately(
                config.repeats,
                lambda: model(symbols),
                lambda t=threshold, k=keep: compacted(model, symbols, layer, t, k),
            )
            logits, exits = compacted(model, symbols, layer, threshold, keep)
            share = exits.float().mean().item()
            rows.append(
                {
                    "threshold": threshold,
                    "keep": keep,
                    "exit_pct": 100 * share,
                    "full_seconds": full_seconds,
                    "seconds": seconds,
                    "speedup": full_seconds / seconds,
                    "ideal_speedup": 1 / compute(share, depth),
                    "ppl": _perplexity(logits, windows.targets),
                    "exact_ppl": _perplexity(exact, windows.targets),
                    "full_ppl": _perplexity(model(symbols), windows.targets),
                }
            )
    return rows


@torch.no_grad()
def generated(model: nn.Module, windows: Windows, config: Speed) -> list[dict]:
    """Generation from the beginnings of some windows, up to the length of a window; median seconds
    of ``repeats`` prompts, the ways taking turns."""
    depth = config.exit_layer / len(model.blocks)
    length = windows.inputs.shape[1]
    prompts = windows.inputs[: config.repeats, : config.prompt]
    count = length - config.prompt

    ways = [(FULL, "propagate"), *((t, k) for t in config.thresholds for k in KEEPS)]
    times: dict[object, list[float]] = {way: [] for way in [None, *ways]}
    exited: dict[tuple, int] = dict.fromkeys(ways, 0)
    made: dict[tuple, list[Tensor]] = {way: [] for way in ways}
    generate(Decoder(model, config.exit_layer, FULL, "propagate", length), prompts[0], count)
    for prompt in prompts:  # every way once a prompt, so that all meet the same machine
        for way in times:
            decoder = way and Decoder(model, config.exit_layer, *way, length)
            started = time.perf_counter()
            if decoder is None:
                generate_uncached(model, prompt, count)
            else:
                made[way].append(generate(decoder, prompt, count))
            times[way].append(time.perf_counter() - started)
            if decoder is not None:
                exited[way] += decoder.exited
    seconds = {way: statistics.median(found) for way, found in times.items()}
    reference = torch.stack(made[ways[0]])
    rows = [
        {"method": "full, no cache", "seconds": seconds[None]},
        {"method": "full, cache", "seconds": seconds[ways[0]]},
    ]
    for threshold, keep in ways[1:]:
        way = (threshold, keep)
        share = exited[way] / (len(prompts) * (count - 1))
        rows.append(
            {
                "method": keep,
                "threshold": threshold,
                "seconds": seconds[way],
                "exit_pct": 100 * share,
                "ideal_speedup": 1 / compute(share, depth),
                "same_symbols_pct": 100
                * (torch.stack(made[way]) == reference).float().mean().item(),
            }
        )
    for row in rows:
        row["symbols_per_second"] = count / row["seconds"]
        row["speedup"] = seconds[ways[0]] / row["seconds"]
    return rows


@torch.no_grad()
def wider(config: Speed, seed: int) -> list[dict]:
    """Untrained models of growing width with exits drawn by lot: how the overhead shrinks."""
    rows, layers = [], config.network.model.layers
    vocabulary, length = config.network.model.vocabulary, config.network.length
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(vocabulary, (config.rows // 4, length), generator=generator)
    for width in config.widths:
        torch.manual_seed(seed)
        model = TransformerConfig(vocabulary, layers, width, width // 16, length).build().eval()
        for share in config.shares:
            exits = torch.rand(symbols.shape, generator=generator) < share
            full_seconds, seconds = alternately(
                max(config.repeats // 2, 1),
                lambda m=model: m(symbols),
                lambda m=model, e=exits: compacted(m, symbols, config.exit_layer, 0.5, exits=e),
            )
            rows.append(
                {
                    "width": width,
                    "exit_pct": 100 * share,
                    "full_seconds": full_seconds,
                    "seconds": seconds,
                    "speedup": full_seconds / seconds,
                    "ideal_speedup": 1 / compute(share, config.exit_layer / layers),
                }
            )
    return rows


def alternately(
    repeats: int, first: Callable[[], object], second: Callable[[], object]
) -> tuple[float, float]:
    """Median seconds of two functions, timed in turn so that both meet the same machine."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for function, record in zip((first, second), times, strict=True):
            started = time.perf_counter()
            function()
            record.append(time.perf_counter() - started)
    return tuple(statistics.median(record) for record in times)


def _perplexity(logits: Tensor, targets: Tensor) -> float:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()).exp().item()
