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

from lib.context.block import gain_matched_std
from lib.context.cache import CacheError, cache_bytes, cache_key, open_cache, write_cache
from lib.context.contexts import sequential
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
from lib.context.phase_two import Features, PhaseTwoSettings, evaluate, fit
from lib.context.sources import (
    Recurrent,
    TruncatedBptt,
    Window,
    clean_contexts,
    collect,
    trained_block,
)
from lib.context.token_block import TokenBlock
from lib.context.token_stream import StreamChoice, Streams, load_streams, unigram_perplexity
from lib.training.outcome import Outcome


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
    parts, about, tables = recurrent_parts(config.contexts, streams, seed, folder)
    outcome = _phase_two(config, streams, parts, seed, folder, about, tables)
    drop_contexts(folder)
    return outcome


def drop_contexts(folder: Path) -> None:
    """Remove the context cache of a finished run."""
    (folder / "contexts.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "contexts", ignore_errors=True)


def recurrent_parts(
    choice: Recurrent, streams: Streams, seed: int, folder: Path
) -> tuple[list[Features], dict, dict[str, list[dict]]]:
    """Features of train, valid and test, what the block measured, and its tables.

    The trained block and the cache of training contexts, with the seconds that it took, lie in
    `folder` and are read again there.
    """
    x = streams.train.embedded
    block, about, table = trained_block(choice, x, seed, folder / "checkpoint_block.safetensors")
    place, note = folder / "contexts", folder / "contexts.json"
    key = cache_key(block, x, repr((choice.way, choice.sweeps, choice.document, choice.memory)))
    try:
        layers = open_cache(place, key)
        measured = json.loads(note.read_text(encoding="utf-8"))
    except (CacheError, FileNotFoundError):  # none yet, or one of a killed run
        started = time.perf_counter()
        layers, extra = collect(choice, block, x, table)
        measured = {"collect_seconds": time.perf_counter() - started, **extra}
        write_cache(place, layers, key)
        layers = open_cache(place, key, quick=True)
        measured["cache_seconds"] = time.perf_counter() - started
        partial = note.with_suffix(".part")
        partial.write_text(json.dumps(measured), encoding="utf-8")
        partial.replace(note)
    about |= measured
    about["cache_bytes"] = cache_bytes(layers)
    train = Features(layers, x, streams.train.outputs)
    measured = clean_contexts(choice, block, streams.test.embedded)
    test = recurrent_features(block, streams.test.embedded, streams.test.outputs, measured)
    final = clean_contexts(choice, block, streams.valid.embedded)
    valid = recurrent_features(block, streams.valid.embedded, streams.valid.outputs, final)
    curve = forgetting_curve(block, x)
    about |= rank_shares(measured) | {
        "noise_gain": noise_gain(block, x),
        "memory_tokens": memory_tokens(curve),
        "context_params": sum(p.numel() for p in block.parameters()),
    }
    tables = {"phase_one": about.pop("curve"), "forgetting": curve}
    return [train, valid, test], about, tables


def next_token_model(
    streams: Streams, widths: list[int], seed: int, weight_std: float | None = None
) -> NextTokenModel:
    """TokenBlock for contexts of `widths` and an untied zero head over the streams' vocabulary."""
    d = streams.train.embedded.shape[1]
    token_block = TokenBlock(d, d, widths, weight_std=weight_std, seed=seed + 1_000_003)
    return NextTokenModel(token_block, UntiedHead(d, streams.vocabulary.size))


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
    widths, std = [c.shape[1] for c in train.contexts], None
    if isinstance(config.contexts, Window):  # wider inputs, equal size of pre-activations
        std = gain_matched_std(widths[0] + train.tokens.shape[1])
    model = next_token_model(streams, widths, seed, std)
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
    model = EndToEnd(block, next_token_model(streams, block.widths, seed))
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
