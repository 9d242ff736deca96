"""One run of a character experiment: build, train, evaluate, from a description alone.

This is the function most experiments hand to the sweep. A variant is a model configuration, an
objective and a ``Training``; everything else (corpus, seed) is shared between variants.
"""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lib.text.corpus import Corpus
from lib.text.windows import Windows
from lib.character.evaluation import mean_loss, perplexity
from lib.training.fit import Fit, Training, fit
from lib.character.objectives import Objective
from lib.runs.task import Outcome
from lib.training.seeding import seed_weights


@dataclass(frozen=True)
class CharacterRun:
    """A variant on a corpus. ``model`` is a configuration with ``build()``.

    ``whole_batches`` drops windows that do not fill a batch (Exp 5-11 of seed 004).
    """

    corpus: Corpus
    model: Any
    objective: Objective
    training: Training = Training()
    length: int = 64
    whole_batches: bool = False

    def windows(self, split: str) -> Windows:
        """The windows of train, valid or test."""
        symbols = self.corpus.alphabet.encode(getattr(self.corpus, split))
        windows = Windows.cut(symbols, self.length)
        return windows.whole_batches(self.training.batch_size) if self.whole_batches else windows


def run(config: CharacterRun, seed: int, folder: Path) -> Outcome:
    """Train one variant with one seed; curve and checkpoint live in ``folder`` as it goes."""
    seed_weights(seed)
    model = config.model.build()
    record = fit(
        model,
        config.objective,
        config.windows("train"),
        config.windows("valid"),
        config.training,
        seed,
        path=folder / "checkpoint.pt",
        report=CurveFile(folder / "curve.csv"),
    )
    return outcome(config, model, record)


def outcome(config: CharacterRun, model: nn.Module, record: Fit) -> Outcome:
    """The row and curve of a trained variant, its test perplexity included where a test exists."""
    row = {
        "corpus": config.corpus.name,
        "corpus_sha256": config.corpus.sha256,
        "params": sum(p.numel() for p in model.parameters()),
        "best_epoch": record.best_epoch,
        "epochs": len(record.curve),
        "updates": record.updates,
        "best_updates": record.best_updates,
        "symbols": record.symbols,
        "val_ppl": record.val_ppl,
        "test_ppl": None,
    }
    if config.corpus.test:
        loss = mean_loss(lambda x: config.objective.predict(model, x), config.windows("test"))
        row["test_ppl"] = perplexity(loss)
    return Outcome(row, {"curve": record.curve})


class CurveFile:
    """Writes the curve to a CSV file as it grows, so that a long run can be watched."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, curve: list[dict[str, Any]], epochs: int) -> None:
        """Replace the file by the whole curve so far: a reader never sees half a line."""
        partial = self.path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(k for row in curve for k in row)))
            writer.writeheader()
            writer.writerows(curve)
        os.replace(partial, self.path)
