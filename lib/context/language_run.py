"""One row of the context experiments: contexts by some way, then Phase 2, then test perplexity.

A run is resumable at every stage: the trained block, the context cache and the Phase 2 state lie in
the run's folder until its record is written.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib.context.block import ContextBlock
from lib.context.cache import CacheError, cache_bytes, cache_key, open_cache, write_cache
from lib.context.contexts import METHODS, compute_contexts, layer_outputs, sequential
from lib.context.controls import (
    BpttSettings,
    EndToEnd,
    recurrent_features,
    train_end_to_end,
    window_features,
)
from lib.context.effective_rank import rank_shares
from lib.context.forgetting import forgetting_curve, memory_tokens, noise_gain
from lib.context.head import NextTokenModel, UntiedHead, trainable_parameters
from lib.context.phase_one import PhaseOneSettings, run_phase_one
from lib.context.phase_two import Features, PhaseTwoSettings, evaluate, fit
from lib.context.token_block import TokenBlock
from lib.context.token_stream import StreamChoice, Streams, load_streams, unigram_perplexity
from lib.training.outcome import Outcome

WAYS = (*METHODS, "table")  # "table": the lagged Phase 1 table, the seed's own parallel cache


@dataclass(frozen=True)
class Recurrent:
    """Contexts of a ContextBlock; `phase_one` None leaves the block random (a reservoir)."""

    layout: str = "every_layer"
    layers: int = 6
    width: int = 192
    phase_one: PhaseOneSettings | None = PhaseOneSettings()
    residual_projection: bool = True
    way: str = "sequential"
    sweeps: int = 8
    document: int = 256

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f"way is {self.way!r}; allowed: {', '.join(WAYS)}")
        if self.way == "table" and self.phase_one is None:
            raise ValueError("the table of Phase 1 needs a Phase 1")

    def block(self, token_dim: int, seed: int) -> ContextBlock:
        return ContextBlock(
            self.width,
            token_dim,
            self.layers,
            self.layout,
            residual_projection=self.residual_projection,
            seed=seed,
        )


@dataclass(frozen=True)
class Window:
    """The k-token MLP: no recurrence, the `count` last embeddings at every layer."""

    count: int
    layers: int = 6


@dataclass(frozen=True)
class TruncatedBptt:
    """The same cell trained end to end for the task."""

    layout: str = "every_layer"
    layers: int = 6
    width: int = 192
    lanes: int = 32
    window: int = 16


@dataclass(frozen=True)
class LanguageRun:
    """A text, a source of contexts and a Phase 2."""

    data: StreamChoice
    contexts: Recurrent | Window | TruncatedBptt
    phase_two: PhaseTwoSettings = PhaseTwoSettings()


def run(config: LanguageRun, seed: int, folder: Path) -> Outcome:
    """Train and measure one row; perplexities are over the restricted vocabulary."""
    streams = load_streams(config.data)
    if isinstance(config.contexts, TruncatedBptt):
        return _end_to_end(config, streams, seed)
    if isinstance(config.contexts, Window):
        parts = [
            window_features(s.embedded, s.outputs, config.contexts.count, config.contexts.layers)
            for s in (streams.train, streams.valid, streams.test)
        ]
        return _phase_two(config, streams, parts, seed, folder, {"context_params": 0}, {})
    return _recurrent(config, streams, seed, folder)


def _recurrent(config: LanguageRun, streams: Streams, seed: int, folder: Path) -> Outcome:
    choice = config.contexts
    x = streams.train.embedded
    block, about, table = trained_block(choice, x, seed, folder / "checkpoint_block.safetensors")
    started = time.perf_counter()
    place = folder / "contexts"
    key = cache_key(block, x, f"{choice.way} {choice.sweeps} {choice.document}")
    try:
        layers = open_cache(place, key)
    except CacheError:  # none yet, or one of a killed run
        layers, extra = collect(choice, block, x, table)
        write_cache(place, layers, key)
        layers = open_cache(place, key, quick=True)
        about |= extra
    about["cache_seconds"] = time.perf_counter() - started
    about["cache_bytes"] = cache_bytes(layers)
    train = Features(layers, x, streams.train.outputs)
    measured = sequential(block, streams.test.embedded)
    test = recurrent_features(block, streams.test.embedded, streams.test.outputs, measured)
    valid = recurrent_features(block, streams.valid.embedded, streams.valid.outputs)
    curve = forgetting_curve(block, x)
    about |= rank_shares(measured) | {
        "noise_gain": noise_gain(block, x),
        "memory_tokens": memory_tokens(curve),
        "context_params": sum(p.numel() for p in block.parameters()),
    }
    tables = {"phase_one": about.pop("curve"), "forgetting": curve}
    outcome = _phase_two(config, streams, [train, valid, test], seed, folder, about, tables)
    shutil.rmtree(place, ignore_errors=True)
    return outcome


def trained_block(
    choice: Recurrent, x: Tensor, seed: int, path: Path
) -> tuple[ContextBlock, dict, Tensor | None]:
    """Block after Phase 1 (or random), what Phase 1 did, and its last table [N, D].

    The result lies at `path` and is read from there the next time.
    """
    block = choice.block(x.shape[1], seed)
    if choice.phase_one is None:
        return block, {"iterations": 0, "phase_one_seconds": 0.0, "curve": []}, None
    if path.is_file():
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        table = tensors.pop("table")
        block.load_state_dict(tensors)
        return block, about, table
    started = time.perf_counter()
    result = run_phase_one(block, x, choice.phase_one, seed)
    about = {
        "iterations": result.iterations,
        "phase_one_converged": result.converged,
        "phase_one_seconds": time.perf_counter() - started,
        "table_er_pct": rank_shares(result.table)["er_pct"],
        "curve": result.curve,
    }
    partial = path.with_suffix(".part")
    state = {**block.state_dict(), "table": result.table}
    save_file(state, partial, metadata={"about": json.dumps(about)})
    partial.replace(path)
    return block, about, result.table


def collect(
    choice: Recurrent, block: ContextBlock, x: Tensor, table: Tensor | None
) -> tuple[list[Tensor], dict]:
    """Layer contexts of the training stream by the chosen way, and what the way measured."""
    if choice.way == "table":
        return layer_outputs(block, table, x), {}
    if choice.way == "documents":
        whole, rest = divmod(x.shape[0], choice.document)
        lengths = [choice.document] * whole + ([rest] if rest else [])
        found = compute_contexts(block, x, "documents", lengths=lengths)
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0)
        return layer_outputs(block, found.final, x, starts), {}
    found = compute_contexts(block, x, choice.way, sweeps=choice.sweeps, tolerance=1e-3)
    extra = {"sweeps": found.sweeps, "sweep_change": found.change[-1]} if found.sweeps else {}
    return layer_outputs(block, found.final, x), extra


def _model(streams: Streams, widths: list[int], seed: int) -> NextTokenModel:
    d = streams.train.embedded.shape[1]
    return NextTokenModel(
        TokenBlock(d, d, widths, seed=seed + 1_000_003), UntiedHead(d, streams.vocabulary.size)
    )


def _phase_two(
    config: LanguageRun,
    streams: Streams,
    parts: list[Features],
    seed: int,
    folder: Path,
    about: dict,
    tables: dict,
) -> Outcome:
    train, valid, test = parts
    model = _model(streams, [c.shape[1] for c in train.contexts], seed)
    started = time.perf_counter()
    result = fit(
        model,
        train,
        valid,
        config.phase_two,
        checkpoint=folder / "checkpoint_phase_two.bin",
        report={"test": test},
    )
    about["phase_two_seconds"] = time.perf_counter() - started
    return _outcome(config, streams, model, result.curve, result.best, about, tables)


def _outcome(
    config: LanguageRun,
    streams: Streams,
    model: torch.nn.Module,
    curve: list[dict],
    best: int,
    about: dict,
    tables: dict,
) -> Outcome:
    chosen = curve[best - 1]
    trained = trainable_parameters(model)
    frozen = 0 if isinstance(config.contexts, TruncatedBptt) else about["context_params"]
    row = corpus_columns(config.data, streams) | {
        "params": trained + frozen,
        "best_epoch": best,
        "best_updates": chosen["updates"],
        "updates": curve[-1]["updates"],
        "val_ppl": chosen["val_ppl"],
        "test_ppl": chosen["test_ppl"],
        "test_acc_pct": 100 * chosen["test_acc"],
        **about,
    }
    return Outcome(row, {"curve": curve, **tables})


def corpus_columns(data: StreamChoice, streams: Streams) -> dict:
    """Columns that say which text and vocabulary a row stands on."""
    return {
        "corpus": data.corpus.name,
        "corpus_sha256": data.corpus.sha256,
        "tokens": len(streams.train),
        "vocabulary": streams.vocabulary.size,
        "test_unknown_pct": 100 * streams.vocabulary.unknown_share(streams.test.ids),
    }


def _end_to_end(config: LanguageRun, streams: Streams, seed: int) -> Outcome:
    choice, schedule = config.contexts, config.phase_two
    x = streams.train.embedded
    block = Recurrent(choice.layout, choice.layers, choice.width).block(x.shape[1], seed)
    model = EndToEnd(block, _model(streams, block.widths, seed))
    per_epoch = -(-(len(x) - 1) // schedule.batch)
    updates = schedule.max_updates or per_epoch * schedule.max_epochs
    settings = BpttSettings(
        choice.lanes, choice.window, schedule.learning_rate, updates, schedule.clip
    )
    curve: list[dict] = []

    def measure(update: int, train_ppl: float) -> None:
        row = {"epoch": len(curve) + 1, "updates": update, "train_ppl": train_ppl}
        for name, stream in (("val", streams.valid), ("test", streams.test)):
            features = recurrent_features(block, stream.embedded, stream.outputs)
            row |= {f"{name}_{k}": v for k, v in evaluate(model.model, features).items()}
        curve.append(row)

    started = time.perf_counter()
    train_end_to_end(model, x, streams.train.outputs, settings, per_epoch, measure)
    about = {
        "phase_two_seconds": time.perf_counter() - started,
        "context_params": sum(p.numel() for p in block.parameters()),
        "noise_gain": noise_gain(block, x),
    } | rank_shares(sequential(block, streams.test.embedded))
    best = min(range(len(curve)), key=lambda i: curve[i]["val_loss"]) + 1
    return _outcome(config, streams, model, curve, best, about, {})


@dataclass(frozen=True)
class UnigramRun:
    """Perplexities of the add-one unigram model of the training tokens."""

    data: StreamChoice


def run_unigram(config: UnigramRun, seed: int, folder: Path) -> Outcome:
    """The floor line that every row must beat: no context at all."""
    streams = load_streams(config.data)
    train, size = streams.train.outputs, streams.vocabulary.size
    row = corpus_columns(config.data, streams) | {
        "params": None,
        "val_ppl": unigram_perplexity(train, streams.valid.outputs, size),
        "test_ppl": unigram_perplexity(train, streams.test.outputs, size),
    }
    return Outcome(row)
