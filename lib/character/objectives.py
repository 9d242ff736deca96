"""Training methods as objectives: what a model is asked to minimise, one loss per optimiser step.

``losses`` is a generator: the training loop takes one loss, steps the optimiser, and asks for the
next, so that a method with several updates per batch (IRT, HRM) needs no loop of its own. What
runs between two losses sees the updated weights. ``predict`` is how the trained model is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.character.models.routed import routed


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all symbols of logits (B, T, V) against targets (B, T), in nats."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class Objective:
    """What every training method offers; ``measures`` are extra numbers for the curve."""

    measures: dict[str, float]
    measures_are_read: ClassVar[bool] = False  # by tables and claims

    @property
    def steps(self) -> int:
        """Losses, and so optimiser steps, of a batch."""
        return 1

    def begin_epoch(self) -> None:
        """Forget whatever was carried from batch to batch."""
        self.measures = {}

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """One differentiable loss for each optimiser step on this batch."""
        raise NotImplementedError

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        """Logits (B, T, V) of the model in use."""
        return model(symbols)

    def add(self, name: str, value: Tensor) -> None:
        """Accumulate a measure over the epoch."""
        self.measures[name] = self.measures.get(name, 0.0) + value.item()


@dataclass
class Standard(Objective):
    """Cross-entropy after the last layer; ``updates`` repeats the step on the same batch.

    ``updates=2`` is the control for refinement training, which also steps twice a batch.
    """

    updates: int = 1

    @property
    def steps(self) -> int:
        return self.updates

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        for _ in range(self.updates):
            yield cross_entropy(model(symbols), targets)


@dataclass
class LayerLosses(Objective):
    """Layer-wise progressive training (LPT): the shared head reads after every block.

    ``weights`` has one number a layer and is not normalised: (1, 1, 1, 1) is LPT sum, (1, 2, 3, 4)
    LPT weighted, (0, 0, 0, 1) standard training bit for bit, (0, .5, 0, .5) the auxiliary loss of
    confidence routing. Layers of weight zero are not evaluated.

    Source: R4, Experiments 4, 7, 10, 11.
    """

    measures_are_read: ClassVar[bool] = True
    weights: tuple[float, ...]

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        states = model.hidden_states(symbols)[1:]
        if len(states) != len(self.weights):
            raise ValueError(f"{len(self.weights)} weights for a model of {len(states)} layers")
        total = None
        for layer, (weight, state) in enumerate(zip(self.weights, states, strict=True), start=1):
            if weight == 0:
                continue
            loss = cross_entropy(model.head(state), targets)
            self.add(f"train_loss_layer_{layer}", loss.detach())
            term = loss if weight == 1 else weight * loss
            total = term if total is None else total + term
        if total is None:
            raise ValueError("all layer weights are zero: nothing to train")
        yield total


@dataclass
class Visits(Objective):
    """Cross-entropy after a pass that runs the blocks in an ``order``, such as (0, 1, 2, 1, 2, 3).

    (0, 1, .., L - 1) is standard training bit for bit. Source: this repository, Experiment 24.
    """

    order: tuple[int, ...]

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        yield cross_entropy(self.predict(model, symbols), targets)

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        return model.head(model.hidden_states(symbols, order=self.order)[-1])


@dataclass
class Segments(Objective):
    """Iterative refinement training (IRT): the same window several times, a loss each time.

    The model offers ``begin(symbols) -> state`` and ``segment(symbols, state) -> (logits, state)``;
    the state goes to the next segment without gradient. The prediction is the last segment's.
    ``carry`` lets row b of a batch inherit the memories of row b of the batch before (Infini-HRM
    and HRM+Memory *carry*); they are dropped at each epoch and when the batch size changes.
    ``joint`` is the control of equal depth: one loss after the last segment, gradients through
    all of them, one update. ``most`` > 0 (only if ``joint``) draws for every training batch how
    many segments it has, from 1 to ``most``; the prediction has ``segments`` all the same, and the
    measure of a segment is what batches that end there add to the mean loss.
    Source: R4, Experiments 1-4; ``most``: this repository, Experiment 24. Raises ValueError for
    less than one segment, for ``most`` without ``joint``, whose updates would differ in number, and
    for ``carry`` with a model that has no memory.
    """

    segments: int = 2
    carry: bool = False
    joint: bool = False
    most: int = 0
    _kept: tuple[Any, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self):
        if not isinstance(self.segments, int) or self.segments < 1:
            raise ValueError(
                f"segments is {self.segments!r}; allowed: a whole number of at least 1"
            )
        if self.most and not self.joint:
            raise ValueError("segments are drawn at random under one joint loss only")

    @property
    def steps(self) -> int:
        return 1 if self.joint else self.segments

    def begin_epoch(self) -> None:
        super().begin_epoch()
        self._kept = ()

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        state = self._begin(model, symbols)
        last = int(torch.randint(1, self.most + 1, ())) if self.most else self.segments
        for segment in range(1, last + 1):
            logits, state = model.segment(symbols, state)
            if self.joint and segment < last:
                continue
            loss = cross_entropy(logits, targets)
            self.add(f"train_loss_segment_{segment}", loss.detach())
            yield loss
            state = state.detach()
        if self.carry:
            self._kept = state.kept

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        state = self.start(model, symbols)
        for _ in range(self.segments):
            logits, state = model.segment(symbols, state)
        return logits

    def start(self, model: nn.Module, symbols: Tensor) -> Any:
        """The state in which a prediction begins."""
        return model.begin(symbols)

    def _begin(self, model: nn.Module, symbols: Tensor) -> Any:
        if self._kept and len(self._kept[0].matrix) == len(symbols):
            return model.begin(symbols, self._kept)
        state = model.begin(symbols)
        if self.carry and not getattr(state, "kept", ()):
            raise ValueError("the model has no memory that the next batch could inherit")
        return state


@dataclass
class Dispersion(Objective):
    """Origin-anchored centroid dispersion (OACD): shape contexts without labels.

    For the contexts C (n, d) of a batch with mean mu: - ||C - mu||_F / n + 0.1 ||mu||^2, summed
    over the model's blocks; one update a segment, states cached without gradient (LCT).
    Source: R4, Experiment 1, with the definition of R3.
    """

    segments: int = 4
    anchor: float = 0.1

    @property
    def steps(self) -> int:
        return self.segments

    def losses(self, model: nn.Module, symbols: Tensor, targets: Tensor) -> Iterator[Tensor]:
        state = model.begin(symbols)
        for _ in range(self.segments):
            before = state
            state = model.contexts(symbols, state)
            # the H block steps every second segment only: a block that did not step has no loss
            moved = [state.low]
            if state.high is not None and state.segments % 2 == 0 and before.segments % 2 == 1:
                moved.append(state.high)
            yield sum(dispersion(contexts.flatten(0, 1), self.anchor) for contexts in moved)
            state = state.detach()

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        return Segments(self.segments).predict(model, symbols)


def dispersion(contexts: Tensor, anchor: float) -> Tensor:
    """The OACD loss of contexts (n, d), a scalar."""
    mean = contexts.mean(0, keepdim=True)
    spread = torch.linalg.vector_norm(contexts - mean) / len(contexts)
    return -spread + anchor * mean.square().sum()


@dataclass
class Routed(LayerLosses):
    """Losses after layers as weighted; held-out symbols exit where layer ``exit_layer`` is sure.

    Early stopping therefore watches the *routed* perplexity, as R4 did. Weights (0, .5, 0,
    .5) are its confidence-routed transformer. Source: R4, Experiments 10 and 11.
    """

    exit_layer: int = 2
    threshold: float = 0.8

    def predict(self, model: nn.Module, symbols: Tensor) -> Tensor:
        return routed(model, symbols, self.exit_layer, self.threshold)[0]
