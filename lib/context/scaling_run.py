"""One size of the scaling experiment: one set of contexts, several recipes of Phase 2.

The contexts are made once; every recipe starts from the same fresh TokenBlock. Early stopping
rules are replayed on the curve of a run of fixed length, which stopping would not have changed. A
recipe that differs from the first one only by ending earlier is read off its beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lib.context.early_stopping import best_epoch
from lib.context.features import Features
from lib.context.head import NextTokenModel, represented_parameters
from lib.context.language_run import (
    chosen_metrics,
    corpus_columns,
    phase_two,
    recurrent_parts,
)
from lib.context.sources import Recurrent
from lib.context.token_stream import StreamChoice, Streams, load_streams
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.training.loop import Training


@dataclass(frozen=True)
class Recipe:
    """A Phase 2 and the early stopping rules to read off its curve (patience; 0: none)."""

    name: str
    training: Training
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


def chosen_columns(recipe: Recipe, curve: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Perplexities, accuracy, epoch and updates that each stopping rule would report.

    Each reports the best epoch among those run, so with a limit of updates it may lie before the
    limit; a recipe with one also has columns of its last update, where all runs have made as many.
    """
    losses, found = [row["valid_loss"] for row in curve], {}
    for patience in recipe.patiences:
        epoch = best_epoch(losses, patience)
        row = curve[epoch - 1]
        chosen = chosen_metrics(row) | {"epoch": epoch, "updates": row["updates"]}
        for metric, value in chosen.items():
            found[column(recipe.name, patience, metric)] = value
    if recipe.training.max_updates:
        for metric in ("test_ppl", "val_ppl", "updates"):
            found[last_column(recipe.name, metric)] = curve[-1][metric]
    return found


def beginning(recipes: Sequence[Recipe], positions: int) -> Recipe | None:
    """The recipe whose run over ``positions`` is the beginning of the first one's, if one is."""
    whole = recipes[0].training
    if whole.patience or whole.validations or whole.schedule != "constant":
        return None  # where it ends says how it begins
    for recipe in recipes[1:]:
        limit, epochs = recipe.training.max_updates, min(recipe.training.epochs, whole.epochs)
        longer = replace(recipe.training, epochs=whole.epochs, max_updates=0)
        if longer == whole and 0 < limit <= epochs * -(-positions // whole.batch_size):
            return recipe
    return None


def curves(
    config: ScalingRun, streams: Streams, parts: list[Features], seed: int, place: Place
) -> tuple[NextTokenModel, dict[str, list[dict[str, Any]]]]:
    """The last model trained, and the curve of every recipe by name."""
    short, found = beginning(config.recipes, parts[0].positions), {}
    limit = short.training.max_updates if short else 0

    def trained(recipe: Recipe, limit: int = 0):
        name = f"checkpoint_{recipe.name}"
        return phase_two(
            config.data, streams, parts, recipe.training, seed, place, name, limit=limit
        )

    first, *others = config.recipes
    model, fit, limited = trained(first, limit)
    found[first.name] = whole = fit.curve
    for recipe in others:
        if recipe is short:
            found[recipe.name] = [row for row in whole if row["updates"] <= limit]
            found[recipe.name] += [limited] if limited else []
        else:
            model, fit, _ = trained(recipe)
            found[recipe.name] = fit.curve
    return model, found


@run_function("context_scaling")
def run_scaling(config: ScalingRun, seed: int, place: Place) -> Outcome:
    """Train every recipe on one set of contexts; one row with a column per recipe and rule."""
    streams = load_streams(config.data)
    parts, about, tables = recurrent_parts(config.data, config.contexts, streams, seed, place)
    model, by_recipe = curves(config, streams, parts, seed, place)
    row = corpus_columns(config.data, streams) | about
    for recipe in config.recipes:
        row |= chosen_columns(recipe, by_recipe[recipe.name])
    first = config.recipes[0].name
    metrics = ("val_ppl", "test_ppl", "held_test_ppl", "test_acc_pct")
    row |= {
        "params": represented_parameters(model) + about["context_params"],
        "best_epoch": row[column(first, 0, "epoch")],
        "best_updates": row[column(first, 0, "updates")],
        **{m: row[column(first, 0, m)] for m in metrics if column(first, 0, m) in row},
        "unigram_test_ppl": streams.unigram("test"),
    }
    curve = [{"recipe": name, **entry} for name, rows in by_recipe.items() for entry in rows]
    return Outcome(row, {"curve": curve, **tables})
