"""One row of the context experiments: contexts by some way, then Phase 2, then test perplexity.

A run with frozen contexts, or a window, is resumable: the trained block and the Phase 2 state lie
in the run's folder until its record is written, the context cache until Phase 2 has ended (a run
killed after that makes the contexts again and reads the rest). End-to-end training is not
resumable: killed, it starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lib.context.block import gain_matched_std
from lib.context.cache import CacheError, cache_bytes, cache_key, open_cache, write_cache
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
from lib.context.whole_files import remove_folder
from lib.runs.task import Outcome


@dataclass(frozen=True)
class LanguageRun:
    """A text, a source of contexts and a Phase 2."""

    data: StreamChoice
    contexts: Recurrent | Window | TruncatedBptt
    phase_two: PhaseTwoSettings = PhaseTwoSettings()


def run(config: LanguageRun, seed: int, folder: Path) -> Outcome:
    """Train and measure one row; perplexities are over the restricted vocabulary.

    Raises FloatingPointError when any loss is not finite, however the cell is trained.
    """
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
    """Remove the context cache of a run whose trainings have ended, and what lies beside it."""
    remove_folder(folder / "contexts")


def recurrent_parts(
    choice: Recurrent, streams: Streams, seed: int, folder: Path
) -> tuple[list[Features], dict, dict[str, list[dict]]]:
    """Features of train, valid and test, what the block measured, and its tables.

    The trained block and the cache of training contexts lie in `folder` and are read again there; a
    cache that is damaged or of something else is made again, a damaged block raises RuntimeError.
    """
    x = streams.train.embedded
    block, about, table = trained_block(choice, x, seed, folder / "checkpoint_block.safetensors")
    place = folder / "contexts"
    key = cache_key(block, x, repr((choice.way, choice.sweeps, choice.document, choice.memory)))
    try:
        layers, measured = open_cache(place, key)
    except CacheError:
        layers, measured = collect(choice, block, x, table)
        write_cache(place, layers, key, measured)
        layers, measured = open_cache(place, key, quick=True)
    about |= {**measured, "cache_bytes": cache_bytes(layers)}
    train = Features(layers, x, streams.train.outputs)
    valid, test = (
        recurrent_features(
            block, stream.embedded, stream.outputs, clean_contexts(choice, block, stream.embedded)
        )
        for stream in (streams.valid, streams.test)
    )
    curve = forgetting_curve(block, x)
    about |= rank_shares(test.contexts[-1]) | {
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
    result = fit(
        model,
        train,
        valid,
        config.phase_two,
        checkpoint=folder / "checkpoint_phase_two.bin",
        report={"test": test},
    )
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
        "test_unscored_pct": 100 * streams.vocabulary.unscored_share(streams.test.ids),
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

    train_end_to_end(model, x, streams.train.outputs, settings, per_epoch, measure)
    about = {
        "context_params": sum(p.numel() for p in block.parameters()),
        "noise_gain": noise_gain(block, x),
    } | rank_shares(
        recurrent_features(block, streams.test.embedded, streams.test.outputs).contexts[-1]
    )
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
