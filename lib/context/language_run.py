"""One row of the context experiments: contexts by some way, then Phase 2, then test perplexity.

Kill-exact: Phase 1 is a run of its own, the collected contexts lie in the run's folder until its
record is written, and both trainings are those of the loop.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lib.context.block import TokenBlock, gain_matched_std
from lib.context.block_run import TrainedBlock, trained_block
from lib.context.effective_rank import rank_shares
from lib.context.end_to_end import EndToEnd, TruncatedWork
from lib.context.features import (
    Contexts,
    Features,
    WindowContexts,
    layer_contexts,
    recurrent_features,
)
from lib.context.forgetting import forgetting_curve, memory_tokens, noise_gain
from lib.context.head import NextTokenModel, build_head, represented_parameters
from lib.context.phase_two import PhaseTwoWork, recipe
from lib.context.sources import Collected, Recurrent, TruncatedBptt, Window, clean_contexts, collect
from lib.context.token_stream import StreamChoice, Streams, load_streams
from lib.runs import files
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.loop import Fit, Training, train

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class LanguageRun:
    """A text, a source of contexts and a Phase 2."""

    data: StreamChoice
    contexts: Recurrent | Window | TruncatedBptt
    training: Training = field(default_factory=recipe)


@run_function("context_language")
def run_language(config: LanguageRun, seed: int, place: Place) -> Outcome:
    """Train and measure one row. Raises Diverged when any loss is not finite."""
    streams, choice = load_streams(config.data), config.contexts
    if isinstance(choice, TruncatedBptt):
        return _end_to_end(config, streams, seed, place)
    about, tables, std = {"context_params": 0}, {}, None
    if isinstance(choice, Window):
        embedded = [getattr(streams, split).embedded for split in SPLITS]
        made = [WindowContexts(x, choice.count, choice.layers) for x in embedded]
        parts = features(made, streams, place)
        # wider inputs, equal size of pre-activations
        std = gain_matched_std(parts[0].contexts.widths[0] + embedded[0].shape[1])
    else:
        parts, about, tables = recurrent_parts(config.data, choice, streams, seed, place)
    model, fit, _ = phase_two(config.data, streams, parts, config.training, seed, place, std=std)
    return _outcome(config, streams, model, fit, about, tables)


def features(made: list[Contexts], streams: Streams, place: Place) -> list[Features]:
    """Features of train, valid and test from their contexts."""
    parts = zip(made, (getattr(streams, split) for split in SPLITS), strict=True)
    return [Features(c, part.embedded, part.outputs, place.device) for c, part in parts]


def recurrent_parts(
    data: StreamChoice, choice: Recurrent, streams: Streams, seed: int, place: Place
) -> tuple[list[Features], dict[str, Any], dict[str, list[dict]]]:
    """Features of train, valid and test, what the block measured, and its tables."""
    trained = trained_block(choice, data.training(), seed, place)
    block = trained.block
    collected, held_out = collected_contexts(choice, trained, streams, place.folder)
    x = streams.train.embedded
    made = [layer_contexts(block, collected.final, x, collected.starts)]
    for split, final in held_out.items():
        made.append(layer_contexts(block, final, getattr(streams, split).embedded))
    curve = forgetting_curve(block, x)
    last = made[2].rows(0, len(streams.test))[-1]  # the last layer's test contexts
    about = trained.row | {
        **collected.measured,
        "cache_bytes": 4 * len(x) * sum(block.widths),
        **rank_shares(last),
        "noise_gain": noise_gain(block, x),
        "memory_tokens": memory_tokens(curve),
        "context_params": sum(p.numel() for p in block.parameters()),
    }
    tables = {"phase_one": trained.curve, "forgetting": curve}
    return features(made, streams, place), about, tables


def collected_contexts(
    choice: Recurrent, trained: TrainedBlock, streams: Streams, folder: Path
) -> tuple[Collected, dict[str, torch.Tensor]]:
    """Final contexts of train, and of valid and test by name; read where a killed run left them.

    They lie in ``checkpoint_contexts.safetensors``, which goes when the run has ended. A damaged
    file is set aside, said aloud, and made again.
    """
    path, block = folder / "checkpoint_contexts.safetensors", trained.block
    if kept := files.kept(path, load_tensors):
        # aligned as those of a run that was not killed: products agree to the last digit
        tensors, measured = {name: tensor.clone() for name, tensor in kept[0].items()}, kept[1]
        held_out = {split: tensors[split] for split in SPLITS[1:]}
        final = trained.table if choice.way == "table" else tensors["train"]
        return Collected(final, tensors.get("starts"), measured), held_out
    collected = collect(choice, block, streams.train.embedded, trained.table)
    held_out = {
        split: clean_contexts(choice, block, getattr(streams, split).embedded)
        for split in SPLITS[1:]
    }
    tensors = dict(held_out)
    if choice.way != "table":  # the table lies with the block
        tensors["train"] = collected.final
    if collected.starts is not None:
        tensors["starts"] = collected.starts
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    files.budgeted(folder, needed, "the cache of contexts")
    save_tensors(path, tensors, collected.measured)
    return collected, held_out


def next_token_model(
    streams: Streams, widths: list[int], seed: int, weight_std: float | None = None
) -> NextTokenModel:
    """TokenBlock for contexts of `widths` and a zero head over the streams' vocabulary."""
    d = streams.train.embedded.shape[1]
    token_block = TokenBlock(d, d, widths, weight_std=weight_std, seed=seed + 1_000_003)
    return NextTokenModel(token_block, build_head(d, streams.vocabulary))


def phase_two(
    data: StreamChoice,
    streams: Streams,
    parts: list[Features],
    training: Training,
    seed: int,
    place: Place,
    name: str = "checkpoint",
    std: float | None = None,
    limit: int = 0,
) -> tuple[NextTokenModel, Fit, dict[str, Any] | None]:
    """A fresh model trained on the features of train, the fit, and the row after ``limit`` updates
    where an epoch does not end there.

    Valid chooses the epoch, test is written beside. ``name``: of the checkpoint.
    """
    model = next_token_model(streams, parts[0].contexts.widths, seed, std).to(place.device)
    work = PhaseTwoWork(model, parts[0], parts[1], training, {"test": parts[2]}, limit)
    path, identity = place.folder / f"{name}.safetensors", f"{seed} {data.corpus.sha256}"
    identity += f" {limit}" if limit else ""
    return model, train(work, training, path=path, identity=identity), work.limited


def _outcome(
    config: LanguageRun, streams: Streams, model: torch.nn.Module, fit: Fit, about: dict, tables
) -> Outcome:
    chosen = fit.curve[fit.best_epoch - 1]
    frozen = 0 if isinstance(config.contexts, TruncatedBptt) else about["context_params"]
    row = corpus_columns(config.data, streams) | {
        "params": represented_parameters(model) + frozen,
        "best_epoch": fit.best_epoch,
        "best_updates": chosen["updates"],
        "updates": fit.updates,
        **chosen_metrics(chosen),
        **about,
    }
    return Outcome(row, {"curve": fit.curve, **tables})


def chosen_metrics(row: dict[str, Any]) -> dict[str, float]:
    """Perplexities and accuracy of a row of the curve, as columns of the main table."""
    found = {"val_ppl": row["val_ppl"], "test_ppl": row["test_ppl"]}
    if "test_held_ppl" in row:
        found["held_test_ppl"] = row["test_held_ppl"]
    return found | {"test_acc_pct": 100 * row["test_acc"]}


def corpus_columns(data: StreamChoice, streams: Streams) -> dict[str, Any]:
    """Columns that say which text and vocabulary a row stands on."""
    return {
        "corpus": data.corpus.name,
        "corpus_sha256": data.corpus.sha256,
        "tokens": len(streams.train),
        "scoring": data.scoring,
        "vocabulary": streams.vocabulary.size,
        "test_unscored_pct": 100 * streams.vocabulary.unscored_share(streams.test.ids),
    }


def _end_to_end(config: LanguageRun, streams: Streams, seed: int, place: Place) -> Outcome:
    """All epochs are trained, whatever the patience of ``config.training``, and the one that is
    best on valid is reported; the rank and the noise gain are those of the last weights."""
    choice, schedule = config.contexts, config.training
    width = streams.train.embedded.shape[1]
    block = Recurrent(choice.layout, choice.layers, choice.width).block(width, seed)
    model = EndToEnd(block, next_token_model(streams, block.widths, seed)).to(place.device)
    per_epoch = -(-(len(streams.train) - 1) // schedule.batch_size)
    parts = {"val": streams.valid, "test": streams.test}
    work = TruncatedWork(model, streams.train, parts, choice.lanes, choice.window, per_epoch)
    training = Training(
        epochs=schedule.epochs,
        patience=0,
        learning_rate=schedule.learning_rate,
        clip=schedule.clip,
        restore="last",
        optimizer="adam",
        max_updates=schedule.max_updates,
    )
    path = place.folder / "checkpoint.safetensors"
    fit = train(work, training, path=path, identity=f"{seed} {config.data.corpus.sha256}")
    block.to("cpu")
    test = recurrent_features(block, streams.test.embedded, streams.test.outputs)
    about = {
        "context_params": sum(p.numel() for p in block.parameters()),
        "noise_gain": noise_gain(block, streams.train.embedded),
        **rank_shares(test.contexts.rows(0, len(streams.test))[-1]),
    }
    return _outcome(config, streams, model, fit, about, {})


@dataclass(frozen=True)
class UnigramRun:
    """Perplexities of the add-one unigram model of the training tokens."""

    data: StreamChoice


@run_function("context_unigram")
def run_unigram(config: UnigramRun, seed: int, place: Place) -> Outcome:
    """The baseline that every row must beat: no context at all."""
    streams = load_streams(config.data)
    row = corpus_columns(config.data, streams) | {
        "params": None,
        "val_ppl": streams.unigram("valid"),
        "test_ppl": streams.unigram("test"),
    }
    return Outcome(row)
