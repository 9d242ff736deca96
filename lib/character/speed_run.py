"""Early exit by the clock: is the compute that a formula saves also time that is saved?

Tables: ``batched``, whole windows, full model against compacted inference, at several thresholds;
``generated``, one symbol at a time with a cache; ``wider``, untrained models of growing width. Each
row has the wall clock, the ideal speed-up that R4's compute formula promises, and the loss.
"""

import statistics
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.character.analysis.early_exit import compute
from lib.character.models.generation import Decoder, generate, generate_uncached
from lib.character.models.routed import KEEPS, compacted, routed
from lib.character.probe_run import splits
from lib.character.run import KEPT, CharacterRun, load_state, run_character
from lib.runs.clock import in_turns, now
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.windows import Windows

FULL = 1.01  # a threshold that no confidence reaches
WIDTHS = (64, 256)


@dataclass(frozen=True)
class Speed:
    """A network, the layer that symbols may exit after, and how much is timed.

    ``rows`` windows, medians of ``repeats``, prompts of ``prompt`` symbols. ``widths`` of untrained
    models, in which ``shares`` of the symbols exit at random (none: not timed).
    """

    network: CharacterRun
    exit_layer: int
    thresholds: tuple[float, ...] = (0.5, 0.8, 0.95)
    rows: int = 64
    repeats: int = 7
    prompt: int = 16
    widths: tuple[int, ...] = ()
    shares: tuple[float, ...] = (0.5, 0.75, 0.95)


@run_function("exit speed", clock=True)
def run_exit_speed(config: Speed, seed: int, place: Place) -> Outcome:
    """Time the best epoch's weights on the reported split; the training is made if need be."""
    network = replace(config.network, keep=True)
    model = load_state(network, place.need(run_character, network, seed, *KEPT), "best")
    windows = splits(network)["report"]
    windows = Windows(
        windows.inputs[: config.rows].to(place.device),
        windows.targets[: config.rows].to(place.device),
    )
    tables = {
        "batched": batched(model, windows, config),
        "generated": generated(model, windows, config),
    }
    if config.widths:
        tables["wider"] = wider(config, seed, place.device)
    corpus = network.corpus
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
            full_seconds, seconds = in_turns(
                [
                    lambda: model(symbols),
                    lambda t=threshold, k=keep: compacted(model, symbols, layer, t, k),
                ],
                config.repeats,
                symbols.device,
            )
            logits, exits = compacted(model, symbols, layer, threshold, keep)
            share = exits.float().mean().item()
            rows.append(
                {
                    "threshold": threshold,
                    "keep": keep,
                    **_clock(full_seconds, seconds, share, depth),
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
            started = now(prompt.device)
            if decoder is None:
                generate_uncached(model, prompt, count)
            else:
                made[way].append(generate(decoder, prompt, count))
            times[way].append(now(prompt.device) - started)
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
def wider(config: Speed, seed: int, device: torch.device) -> list[dict]:
    """Untrained models of growing width with exits drawn at random: how the overhead shrinks."""
    rows, depth = [], config.exit_layer / config.network.model.layers
    vocabulary, length = len(config.network.corpus.alphabet), config.network.length
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(vocabulary, (config.rows // 4, length), generator=generator).to(device)
    for width in config.widths:
        torch.manual_seed(seed)
        shape = replace(config.network.model, width=width, heads=width // 16, length=length)
        model = shape.build(vocabulary).to(device).eval()
        for share in config.shares:
            exits = (torch.rand(symbols.shape, generator=generator) < share).to(device)
            full_seconds, seconds = in_turns(
                [
                    lambda m=model: m(symbols),
                    lambda m=model, e=exits: compacted(m, symbols, config.exit_layer, 0.5, exits=e),
                ],
                max(config.repeats // 2, 1),
                device,
            )
            rows.append({"width": width, **_clock(full_seconds, seconds, share, depth)})
    return rows


def _clock(full_seconds: float, seconds: float, share: float, depth: float) -> dict[str, float]:
    """What was timed, beside the ideal when a share of the symbols exits at a depth."""
    return {
        "exit_pct": 100 * share,
        "full_seconds": full_seconds,
        "seconds": seconds,
        "speedup": full_seconds / seconds,
        "ideal_speedup": 1 / compute(share, depth),
    }


def _perplexity(logits: Tensor, targets: Tensor) -> float:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()).exp().item()
