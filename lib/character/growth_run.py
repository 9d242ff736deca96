"""Train a model in stages of growing depth: freezing, greedy layer-wise, progressive growing.

A *path* is a tuple of stages; each stage deepens the model that the stage before left and trains
it with a new optimiser. A run trains the last stage of its path; the path without that stage is a
run of its own. Paths that begin alike therefore share those runs, differ in nothing but what they
are named for, and train nothing twice.

``start`` of a stage decides what it inherits: the *last* weights of the stage before, which early
stopping has let overfit for ``patience`` epochs (as R4 ran it), or those of its *best* epoch.

Source: R4, Experiments 5-7.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lib.character.models.compute import Shape, training_step
from lib.character.models.growth import deepen
from lib.character.models.transformer import Transformer, TransformerConfig
from lib.character.objectives import LayerLosses, Objective, Standard
from lib.character.run import (
    KEPT,
    STATES,
    CharacterRun,
    WindowWork,
    held_out_loss,
    outcome,
    own_seconds,
)
from lib.results.schema import status
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.runs.tensors import load_tensors, save_tensors
from lib.text.corpus import Corpus
from lib.training.loop import Fit, Training, perplexity, train
from lib.training.seeding import seed_weights

CHOICES = {"trains": ("all", "new"), "loss": ("last", "sum"), "start": ("last", "best")}
CURVE = ("epoch", "train_loss", "valid_loss", "val_ppl")


@dataclass(frozen=True)
class Stage:
    """Train at a depth of ``layers``.

    ``trains`` new: only the blocks added by this stage and the head (the embedding too stays as
    it is, at random in a first stage). ``loss`` sum: LPT, every layer read by the shared head.
    ``rate`` multiplies the learning rate, ``old_rate`` that of everything but new blocks and head.
    ``identity``: new blocks begin as ones that leave the last layer's reading as it was; that of
    the block below, which LPT trains too, moves. ``patient`` trains all epochs
    without early stopping. Raises ValueError for an unknown word.
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

    @property
    def objective(self) -> Objective:
        """The loss of the stage."""
        return Standard() if self.loss == "last" else LayerLosses((1.0,) * self.layers)


Stages = tuple[Stage, ...]


@dataclass(frozen=True)
class GrowthRun:
    """The last stage of a path on a corpus.

    ``model`` gives width, heads and initialisation; depth is that of the stages.
    ``frozen_embedding`` keeps the embedding as it was drawn, whatever a stage trains: going on with
    the *same* block would otherwise train more than greedy training does. Raises ValueError for a
    path without stages, one that gets shallower, and one whose first stage is an identity.
    """

    corpus: Corpus
    model: TransformerConfig
    path: Stages
    training: Training = Training(shuffle=False)
    frozen_embedding: bool = False

    def __post_init__(self):
        if not self.path:
            raise ValueError("a path has at least one stage")
        depths = [stage.layers for stage in self.path]
        if depths != sorted(depths):
            raise ValueError(f"a path never gets shallower; its stages have {depths} layers")
        if self.path[0].identity:
            raise ValueError("the first stage of a path has nothing to be an identity on")

    @property
    def before(self) -> "GrowthRun | None":
        """The run that this one goes on from."""
        return replace(self, path=self.path[:-1]) if len(self.path) > 1 else None

    @property
    def new(self) -> int:
        """How many blocks the last stage adds."""
        return self.path[-1].layers - (self.path[-2].layers if len(self.path) > 1 else 0)

    @property
    def stage(self) -> CharacterRun:
        """The last stage as a training of its own."""
        stage, numbers = self.path[-1], self.training
        numbers = replace(
            numbers,
            patience=0 if stage.patient else numbers.patience,
            learning_rate=numbers.learning_rate * stage.rate,
            restore="best",
        )
        model = replace(self.model, layers=stage.layers)
        return CharacterRun(
            self.corpus, model, stage.objective, numbers, self.model.length, whole_batches=True
        )


@run_function("growth")
def run_growth(config: GrowthRun, seed: int, place: Place) -> Outcome:
    """Train the last stage of a path, the stages before it first if they are not finished.

    The row is that of the last stage; ``operations`` and the curve are those of the whole path. The
    weights of the best and the last epoch are kept for the paths that go on from here.
    """
    before = config.before
    left = before and place.need(run_growth, before, seed, *KEPT)
    stage, path = config.stage, config.path
    model = _begin(config, left, seed).to(place.device).eval()
    windows = stage.windows("train"), stage.windows("valid")
    begin_loss = held_out_loss(model, stage.objective, windows[1])
    fit = train(
        WindowWork(
            model,
            stage.objective,
            windows,
            stage.training,
            seed,
            groups(model, path[-1], config.new),
        ),
        stage.training,
        path=place.folder / "checkpoint.safetensors",
        identity=f"{seed} {config.corpus.sha256}",
    )
    for state in STATES:
        save_tensors(place.folder / f"{state}.safetensors", getattr(fit, state))
    found = outcome(stage, model, fit)
    spent, curve = _spent(left)
    each = _operations(config) * fit.symbols / len(fit.curve)  # of an epoch
    row = {
        **found.row,
        "status": status(fit.val_ppl),  # R4 found growing worse than blind guessing: that counts
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "begin_val_ppl": perplexity(begin_loss),
        "last_test_ppl": _last_test(stage, model, fit),
        "operations": spent + each * len(fit.curve),
        "best_operations": spent + each * fit.best_epoch,
        "seconds": own_seconds(fit.curve),
    }
    here = {"stage": len(path), "layers": path[-1].layers}
    rows = [
        {**here, **{n: e[n] for n in CURVE}, "operations": spent + each * e["epoch"]}
        for e in fit.curve
    ]
    return Outcome(row, {"curve": curve + rows})


def older(model: Transformer, new: int) -> Iterator[nn.Parameter]:
    """Parameters of the embedding and of all blocks but the ``new`` topmost."""
    yield from model.embedding.parameters()
    for block in model.blocks[: len(model.blocks) - new]:
        yield from block.parameters()


def groups(model: Transformer, stage: Stage, new: int) -> list[tuple[list[nn.Parameter], float]]:
    """Groups of parameters with factors of their learning rate; one group at equal rates."""
    if stage.old_rate == 1:
        return [(list(model.parameters()), 1.0)]
    old = list(older(model, new))
    below = {id(parameter) for parameter in old}
    fresh = [parameter for parameter in model.parameters() if id(parameter) not in below]
    return [(fresh, 1.0), (old, stage.old_rate)]


def _begin(config: GrowthRun, left: Place | None, seed: int) -> Transformer:
    """The model before the last stage, what it does not train frozen."""
    stage, symbols = config.path[-1], len(config.corpus.alphabet)
    seed_weights(seed)
    if left is None:
        model = replace(config.model, layers=stage.layers).build(symbols)
    else:
        model = replace(config.model, layers=config.path[-2].layers).build(symbols)
        model.load_state_dict(load_tensors(left.folder / f"{stage.start}.safetensors")[0])
        seed_weights(seed)
        model = deepen(model, stage.layers, stage.identity)
    if stage.trains == "new":
        for parameter in older(model, config.new):
            parameter.requires_grad_(False)
    if config.frozen_embedding:
        model.embedding.requires_grad_(False)
    return model


def _spent(left: Place | None) -> tuple[float, list[dict[str, Any]]]:
    """Operations and curve of the stages before."""
    if left is None:
        return 0.0, []
    record = left.record()
    return record["row"]["operations"], record["tables"]["curve"]


def _last_test(stage: CharacterRun, model: Transformer, fit: Fit) -> float | None:
    """Test perplexity of the last epoch's weights; None where no test exists."""
    if not stage.corpus.test:
        return None
    model.load_state_dict(fit.last)
    return perplexity(held_out_loss(model, stage.objective, stage.windows("test")))


def _operations(config: GrowthRun) -> int:
    """Operations of one symbol in training."""
    stage = config.path[-1]
    shape = Shape(len(config.corpus.alphabet), config.model.width, config.model.length)
    reads = stage.layers if stage.loss == "sum" else 1
    return training_step(shape, stage.layers, reads, config.new if stage.trains == "new" else None)
