"""Train a model in stages of growing depth: freezing, greedy layer-wise, progressive growing.

A *path* is a tuple of stages; each stage deepens the model that the stage before left and trains
it with a new optimiser. Paths that begin alike share those stages, so that an experiment's
branches differ in nothing but what they are named for, and nothing is trained twice.

``start`` of a stage decides what it inherits: the *last* weights of the stage before, which early
stopping has let overfit for ``patience`` epochs (as seed 004 ran it), or those of its *best* epoch.

Source: seed 004, Experiments 5-7.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.character.models.compute import Shape, training_step
from lib.character.models.growth import deepen
from lib.character.models.transformer import Transformer, TransformerConfig
from lib.text.corpus import Corpus
from lib.text.windows import Windows
from lib.training import checkpoint
from lib.character.evaluation import mean_loss, perplexity
from lib.training.fit import Fit, Training, fit
from lib.character.objectives import LayerLosses, Objective, Standard
from lib.runs.task import Outcome
from lib.training.seeding import seed_weights

CHOICES = {"trains": ("all", "new"), "loss": ("last", "sum"), "start": ("last", "best")}


@dataclass(frozen=True)
class Stage:
    """Train at a depth of ``layers``.

    ``trains`` new: only the blocks added by this stage and the head (the embedding too stays as
    it is, at random in a first stage). ``loss`` sum: LPT, every layer read by the shared head.
    ``rate`` multiplies the learning rate, ``old_rate`` that of everything but new blocks and head.
    ``patient`` trains all epochs without early stopping. Raises ValueError for an unknown word.
    """

    layers: int
    trains: str = "all"
    loss: str = "last"
    start: str = "last"
    rate: float = 1.0
    old_rate: float = 1.0
    identity: bool = False
    patient: bool = False

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            word = getattr(self, name)
            if word not in allowed:
                raise ValueError(f"{name} is {word!r}; allowed: {', '.join(allowed)}")


Stages = tuple[Stage, ...]


@dataclass
class SlowerOldLayers(Objective):
    """Discriminative learning rates: everything below the ``new`` top blocks moves more slowly.

    A step of AdamW (weight decay included) is proportional to the learning rate, so pulling a
    parameter back to ``before + ratio * (after - before)`` after the step is exactly a learning
    rate ``ratio`` times as large. With ratio 1 nothing is pulled back.
    """

    inner: Objective
    ratio: float
    new: int

    def begin_epoch(self) -> None:
        self.inner.begin_epoch()
        self.measures = self.inner.measures

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        for loss in self.inner.losses(model, symbols, targets):
            old = [] if self.ratio == 1 else list(older(model, self.new))
            before = [parameter.detach().clone() for parameter in old]
            yield loss  # the loop takes its step here
            with torch.no_grad():
                for parameter, place in zip(old, before, strict=True):
                    parameter.copy_(place + self.ratio * (parameter - place))

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        return self.inner.predict(model, symbols)


def older(model: Transformer, new: int) -> Iterator[nn.Parameter]:
    """Parameters of the embedding and of all blocks but the ``new`` topmost."""
    yield from model.embedding.parameters()
    for block in model.blocks[: len(model.blocks) - new]:
        yield from block.parameters()


@dataclass(frozen=True)
class GrowthRun:
    """Named paths on one corpus. ``model`` gives width, heads and initialisation; depth varies."""

    corpus: Corpus
    model: TransformerConfig
    paths: tuple[tuple[str, Stages], ...]
    training: Training = Training(shuffle=False)

    def windows(self, split: str) -> Windows:
        """Whole batches of train, valid or test in their order."""
        symbols = self.corpus.alphabet.encode(getattr(self.corpus, split))
        return Windows.cut(symbols, self.model.length).whole_batches(self.training.batch_size)


@dataclass(frozen=True)
class Trained:
    """What a path left behind: weights to go on from, its record, and the path's whole cost."""

    layers: int
    weights: dict[str, dict[str, Tensor]]  # "best" and "last"
    record: Fit
    row: dict[str, Any]
    curve: list[dict[str, Any]]
    operations: float


def run(config: GrowthRun, seed: int, folder: Path) -> Outcome:
    """Train all paths with one seed: one row a path in the table ``paths``, and their curves."""
    known: dict[Stages, Trained] = {}
    rows, curve = [], []
    for name, path in config.paths:
        for end in range(1, len(path) + 1):
            if path[:end] not in known:
                before = known.get(path[: end - 1])
                known[path[:end]] = _stage(config, path[:end], before, seed, folder)
        found = known[path]
        rows.append({"variant": name, **found.row})
        curve += [{"variant": name, **row} for row in found.curve]
    base = {"corpus": config.corpus.name, "corpus_sha256": config.corpus.sha256}
    return Outcome(base, {"paths": rows, "curve": curve})


def _stage(
    config: GrowthRun, path: Stages, before: Trained | None, seed: int, folder: Path
) -> Trained:
    """Train the last stage of a path; resumable like every fit."""
    stage, start = path[-1], 0 if before is None else before.layers
    model = _begin(config, stage, before, seed)
    new = stage.layers - start
    trainable = list(model.parameters())
    if stage.trains == "new":
        frozen = {id(parameter) for parameter in older(model, new)}
        for parameter in older(model, new):
            parameter.requires_grad_(False)
        trainable = [parameter for parameter in trainable if id(parameter) not in frozen]
    valid = config.windows("valid")
    begin_loss = mean_loss(model, valid)
    file = folder / f"checkpoint_{_key(path)}.pt"
    training = _training(config.training, stage)
    record = fit(
        model,
        objective(stage, new),
        config.windows("train"),
        valid,
        training,
        seed,
        path=file,
        trained=trainable,
    )
    saved = checkpoint.load(file)
    weights = {"best": saved["best"], "last": saved["model"]}
    operations = _operations(config, stage, new)
    spent = 0.0 if before is None else before.operations
    curve = [] if before is None else list(before.curve)
    per_epoch = operations * record.symbols / len(record.curve)
    curve += [
        {
            "stage": len(path),
            "layers": stage.layers,
            "epoch": row["epoch"],
            "train_loss": row["train_loss"],
            "valid_loss": row["valid_loss"],
            "val_ppl": row["val_ppl"],
            "operations": spent + per_epoch * row["epoch"],
        }
        for row in record.curve
    ]
    row = {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "trainable": sum(parameter.numel() for parameter in trainable),
        "best_epoch": record.best_epoch,
        "epochs": len(record.curve),
        "updates": record.updates,
        "best_updates": record.best_updates,
        "symbols": record.symbols,
        "begin_val_ppl": perplexity(begin_loss),
        "val_ppl": record.val_ppl,
        "last_val_ppl": record.curve[-1]["val_ppl"],
        "test_ppl": None,
        "last_test_ppl": None,
        "operations": spent + per_epoch * len(record.curve),
        "best_operations": spent + per_epoch * record.best_epoch,
        "seconds": round(sum(row["epoch_seconds"] for row in record.curve), 2),
    }
    if config.corpus.test:
        for which, column in (("best", "test_ppl"), ("last", "last_test_ppl")):
            model.load_state_dict(weights[which])
            row[column] = perplexity(mean_loss(model, config.windows("test")))
    return Trained(stage.layers, weights, record, row, curve, row["operations"])


def _begin(config: GrowthRun, stage: Stage, before: Trained | None, seed: int) -> Transformer:
    seed_weights(seed)
    if before is None:
        if stage.identity:
            raise ValueError("the first stage of a path has nothing to be an identity on")
        return replace(config.model, layers=stage.layers).build()
    model = replace(config.model, layers=before.layers).build()
    model.load_state_dict(before.weights[stage.start])
    seed_weights(seed)
    return deepen(model, stage.layers, stage.identity)


def objective(stage: Stage, new: int) -> Objective:
    """The loss of a stage; ``new`` blocks are the ones that discriminative rates leave fast."""
    inner = Standard() if stage.loss == "last" else LayerLosses((1.0,) * stage.layers)
    return inner if stage.old_rate == 1 else SlowerOldLayers(inner, stage.old_rate, new)


def _training(training: Training, stage: Stage) -> Training:
    patience = training.epochs if stage.patient else training.patience
    rate = training.learning_rate * stage.rate
    return replace(training, patience=patience, learning_rate=rate, restore="best")


def _operations(config: GrowthRun, stage: Stage, new: int) -> int:
    shape = Shape(config.model.vocabulary, config.model.width, config.model.length)
    reads = stage.layers if stage.loss == "sum" else 1
    trained = new if stage.trains == "new" else None
    return training_step(shape, stage.layers, reads, trained)


def _key(path: Stages) -> str:
    content = json.dumps([asdict(stage) for stage in path], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
