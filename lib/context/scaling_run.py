"""One size of the scaling experiment: one set of contexts, several recipes of Phase 2.

The contexts are made once; every recipe starts from the same fresh TokenBlock. Early stopping
rules are replayed on the curve of a run of fixed length, which stopping would not have changed.
A killed run reads what it finds: the trained block and the state of every recipe lie in its folder
until its record is written, the context cache until the last recipe has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.context.early_stopping import best_epoch
from lib.context.head import trainable_parameters
from lib.context.language_run import (
    corpus_columns,
    drop_contexts,
    next_token_model,
    recurrent_parts,
)
from lib.context.phase_two import PhaseTwoSettings, fit
from lib.context.sources import Recurrent
from lib.context.token_stream import StreamChoice, load_streams, unigram_perplexity
from lib.runs.task import Outcome


@dataclass(frozen=True)
class Recipe:
    """A Phase 2 and the early stopping rules to read off its curve (patience; 0: none)."""

    name: str
    phase_two: PhaseTwoSettings
    patiences: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class ScalingRun:
    """A size (in `data`), a block, and recipes; the first one fills the row's main columns."""

    data: StreamChoice
    contexts: Recurrent
    recipes: tuple[Recipe, ...]


def column(recipe: str, patience: int, metric: str) -> str:
    """Name of a result column, for example ``fixed_patience1_test_ppl``."""
    return f"{recipe}_patience{patience}_{metric}" if patience else f"{recipe}_{metric}"


def last_column(recipe: str, metric: str) -> str:
    """Name of a result column at a recipe's last update, for example ``equal_last_test_ppl``."""
    return f"{recipe}_last_{metric}"


def chosen_columns(recipe: Recipe, curve: Sequence[dict]) -> dict[str, float]:
    """Test perplexity, accuracy, epoch and updates that each stopping rule would report.

    Each reports the best epoch among those run, so with a limit of updates it may lie before the
    limit; a recipe with one also has columns of its last update, where all runs have made as many.
    """
    losses, found = [row["val_loss"] for row in curve], {}
    for patience in recipe.patiences:
        epoch = best_epoch(losses, patience)
        row = curve[epoch - 1]
        for metric, value in {
            "test_ppl": row["test_ppl"],
            "val_ppl": row["val_ppl"],
            "test_acc_pct": 100 * row["test_acc"],
            "epoch": epoch,
            "updates": row["updates"],
        }.items():
            found[column(recipe.name, patience, metric)] = value
    if recipe.phase_two.max_updates:
        for metric in ("test_ppl", "val_ppl", "updates"):
            found[last_column(recipe.name, metric)] = curve[-1][metric]
    return found


def run(config: ScalingRun, seed: int, folder: Path) -> Outcome:
    """Train every recipe on one set of contexts; one row with a column per recipe and rule."""
    streams = load_streams(config.data)
    parts, about, tables = recurrent_parts(config.contexts, streams, seed, folder)
    train, valid, test = parts
    row = corpus_columns(config.data, streams) | about
    curves: list[dict] = []
    for recipe in config.recipes:
        model = next_token_model(streams, [c.shape[1] for c in train.contexts], seed)
        path = folder / f"checkpoint_{recipe.name}.bin"
        result = fit(model, train, valid, recipe.phase_two, checkpoint=path, report={"test": test})
        row |= chosen_columns(recipe, result.curve)
        curves += [{"recipe": recipe.name, **entry} for entry in result.curve]
    first = config.recipes[0].name
    size = streams.vocabulary.size
    row |= {
        "params": trainable_parameters(model) + about["context_params"],
        "best_epoch": row[column(first, 0, "epoch")],
        "best_updates": row[column(first, 0, "updates")],
        "val_ppl": row[column(first, 0, "val_ppl")],
        "test_ppl": row[column(first, 0, "test_ppl")],
        "test_acc_pct": row[column(first, 0, "test_acc_pct")],
        "unigram_test_ppl": unigram_perplexity(streams.train.outputs, streams.test.outputs, size),
    }
    drop_contexts(folder)
    return Outcome(row, {"curve": curves, **tables})
