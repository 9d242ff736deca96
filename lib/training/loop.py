"""The training loop: one for every model and every method of the repository.

A method is a ``Work``: it knows its batches, the losses of a batch (one optimiser step each) and
how it is validated. The loop does what all of them share: Adam, clipping, schedules, an average of
the weights, early stopping, the best weights put back, a curve that is recorded as it comes, and a
checkpoint from which a run that was killed at any step goes on with the same bits (on the CPU).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib.runs import files
from lib.runs.key import described, digest
from lib.runs.task import Diverged
from lib.runs.tensors import load_tensors, save_tensors
from lib.training.optimizers import Adam, AdamW

CHECKPOINT_SECONDS = 10.0  # the least time between two checkpoints, and
CHECKPOINT_SHARE = 0.05  # the most of the time that writing them may take
WORDS = {
    "restore": ("best", "last"),
    "optimizer": ("adamw", "adam"),
    "schedule": ("constant", "linear"),
}
COUNTS_FROM = {"epochs": 1, "batch_size": 1, "patience": 0, "max_updates": 0, "validations": 0}
NUMBERS_BELOW = {
    "learning_rate": math.inf,
    "weight_decay": math.inf,
    "clip": math.inf,
    "average": 1.0,
}


@dataclass(frozen=True)
class Training:
    """Numbers of the loop; defaults are those of R4, Experiment 3.

    ``patience`` validations without a new best end the run (0: none do). ``restore``: ``best`` puts
    back the weights of the best validation, ``last`` keeps the last ones. ``shuffle=False`` visits
    batches in the same order every epoch. ``clip`` bounds the norm of the whole gradient (0: not).
    ``schedule``: ``linear`` lowers the rate to 0 over all updates. ``max_updates`` ends the run (0:
    ``epochs`` do). ``validations``: how often over the whole run, 0: at the end of each epoch.
    ``validate_first``: the untrained weights are a candidate for the best. ``average``: decay of an
    exponential average of the weights, which is what is validated and kept (0: none). Raises
    ValueError for a word or a number that is not allowed.
    """

    epochs: int = 30
    patience: int = 5
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    shuffle: bool = True
    restore: str = "best"
    optimizer: str = "adamw"
    schedule: str = "constant"
    max_updates: int = 0
    validations: int = 0
    validate_first: bool = False
    average: float = 0.0

    def __post_init__(self):
        for name, allowed in WORDS.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}"
                )
        for name, least in COUNTS_FROM.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} is {value!r}; allowed: a whole number of at least {least}"
                )
        for name, below in NUMBERS_BELOW.items():
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value < below:
                span = f"from 0 below {below:g}" if below < math.inf else "of at least 0, finite"
                raise ValueError(f"{name} is {value!r}; allowed: a number {span}")


class Work:
    """What a method gives to the loop. ``model`` holds all weights that are saved and put back."""

    model: nn.Module
    mid_epoch = True  # whether a run may go on inside an epoch, from the batches not yet seen
    in_order = True  # whether batches can be visited in the same order every epoch

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Groups of parameters that move, each with the factor of its learning rate."""
        return [([p for p in self.model.parameters() if p.requires_grad], 1.0)]

    def optimizer(self, training: "Training") -> torch.optim.Optimizer | None:
        """An optimiser of the method's own, equal to Adam in its numbers; None: the loop's."""
        return None

    def clip(self, parameters: list[nn.Parameter], bound: float) -> None:
        """Bound the norm of the whole gradient."""
        nn.utils.clip_grad_norm_(parameters, bound)

    def updates_an_epoch(self) -> int:
        """Optimiser steps of an epoch; asked for schedules and evenly spread validations only."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Forget what was carried from batch to batch; epochs count from 1."""

    def batches(self, epoch: int) -> Iterable[Any]:
        """The batches of an epoch, the same ones however often they are asked for."""
        raise NotImplementedError

    def losses(self, batch: Any) -> Iterator[tuple[Tensor | float, float]]:
        """A loss for each optimiser step on a batch, and its weight in the mean of the curve.

        What runs between two losses sees the updated weights. A float says that the method has
        made the gradients itself (in pieces, say).
        """
        raise NotImplementedError

    def size(self, batch: Any) -> int:
        """Symbols or tokens of a batch."""
        return 0

    def validate(self) -> dict[str, Any]:
        """``valid_loss`` (nats; the lower the better), and what else the curve shall hold.

        ``stop`` True ends the run.
        """
        raise NotImplementedError

    def measures(self) -> dict[str, float]:
        """Further numbers of the epoch so far, for the curve."""
        return {}

    def carried(self) -> tuple[dict[str, Tensor], Any]:
        """Tensors and plain values beside the weights that going on needs."""
        return {}, None

    def restore(self, tensors: dict[str, Tensor], about: Any) -> None:
        """Take back what ``carried`` gave."""


@dataclass
class Fit:
    """What training found.

    ``updates`` and ``symbols`` count the whole run, ``best_*`` up to the best validation. ``best``
    and ``last`` are weights, by name.
    """

    epoch: int = 0
    place: int = 0  # batches of this epoch that are done
    stale: int = 0
    updates: int = 0
    symbols: int = 0
    best_epoch: int = 0
    best_updates: int = 0
    valid_loss: float = math.inf
    total: float = 0.0  # of the losses since the last row of the curve
    weight: float = 0.0
    stopped: bool = False
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)

    @property
    def val_ppl(self) -> float:
        return perplexity(self.valid_loss)


COUNTS = tuple(name for name in Fit.__dataclass_fields__ if name not in ("best", "last"))


def perplexity(loss: float) -> float:
    """exp(loss); inf instead of an overflow error for a diverged model."""
    return math.exp(loss) if loss < 700 else math.inf


def train(
    work: Work,
    training: Training,
    *,
    path: Path | None = None,
    identity: str = "",
    report: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Fit:
    """Train ``work.model`` in place and return the record.

    ``path`` is the checkpoint file: if it exists the run goes on from it; ``identity`` says what
    the checkpoint belongs to, beside the training. ``report(curve)`` is called after every
    validation. Raises Diverged at the first loss that is not finite, ValueError for a checkpoint of
    something else, or for batches in the same order every epoch where the work has no such.
    """
    if not (training.shuffle or work.in_order):
        raise ValueError(f"shuffle is False; {type(work).__name__} shuffles; allowed: True")
    return _Loop(work, training, path, identity, report).run()


class _Loop:
    """A run in progress: weights, optimiser, average, and its place in the schedule."""

    def __init__(self, work: Work, training: Training, path, identity: str, report):
        self.work, self.training, self.path, self.report = work, training, path, report
        # as in keys: a number that is added later, at its default, refuses no checkpoint
        self.identity = f"{digest(described(training))} {identity}"
        groups = [(ps, rate) for params, rate in work.groups() if (ps := list(params))]
        self.parameters = [p for params, _ in groups for p in params]
        self.rates = [rate for _, rate in groups]
        self.optimizer = work.optimizer(training) or self._optimizer(groups)
        self.average = [p.detach().clone() for p in self.parameters] if training.average else []
        self.fit = Fit()
        self.planned = self._planned()
        self.saved, self.cost = time.monotonic(), 0.0
        # as of a whole run: what it costs, whatever runs beside it
        on_cpu = all(p.device.type == "cpu" for p in self.parameters)
        self.clock = time.process_time if on_cpu else time.perf_counter
        self.began = self.clock()

    def _optimizer(self, groups) -> torch.optim.Optimizer:
        t = self.training
        split = [{"params": ps, "lr": t.learning_rate * rate} for ps, rate in groups]
        if t.optimizer == "adam":
            return Adam(split, fused=True)  # fused: one pass over the weights
        return AdamW(split, weight_decay=t.weight_decay, fused=True)

    def _planned(self) -> int:
        """All updates of the run, where the schedule or the validations ask for them, else 0."""
        t = self.training
        if t.schedule == "constant" and not t.validations:
            return t.max_updates
        whole = t.epochs * self.work.updates_an_epoch()
        return min(whole, t.max_updates) if t.max_updates else whole

    def run(self) -> Fit:
        fit, t = self.fit, self.training
        if not self._resume() and t.validate_first:
            self._validate(None)
        spread = {round(self.planned * (i + 1) / t.validations) for i in range(t.validations)}
        while not self._over():
            if fit.place == 0:
                fit.epoch += 1
                self.work.begin_epoch(fit.epoch)
                self.work.model.train()
                self.began = self.clock()
            for number, batch in enumerate(self.work.batches(fit.epoch)):
                if number < fit.place:
                    continue
                for loss, weight in self.work.losses(batch):
                    self._step(loss, weight)
                    if fit.updates in spread:
                        self._validate(self.began)
                    if t.max_updates and fit.updates >= t.max_updates:
                        break
                fit.symbols, fit.place = fit.symbols + self.work.size(batch), number + 1
                if self._over():
                    break
                if self.work.mid_epoch and self._due():
                    self._save()
            if not t.validations:
                self._validate(self.began)
            fit.place = 0
            if self._due():
                self._save()
        self._swap()
        fit.last = self._copied()
        self._swap()
        if t.restore == "best" and fit.best:
            self.work.model.load_state_dict(fit.best)
        elif self.average:
            self.work.model.load_state_dict(fit.last)
        self.work.model.eval()
        return fit

    def _over(self) -> bool:
        fit, t = self.fit, self.training
        full = t.max_updates and fit.updates >= t.max_updates
        ended = fit.epoch >= t.epochs and fit.place == 0
        return fit.stopped or bool(full) or ended or bool(t.patience and fit.stale >= t.patience)

    def _step(self, loss: Tensor | float, weight: float) -> None:
        fit, t = self.fit, self.training
        value = loss if isinstance(loss, float) else loss.item()
        if not math.isfinite(value):
            raise Diverged(f"training loss {value} in epoch {fit.epoch}, update {fit.updates + 1}")
        if isinstance(loss, Tensor):
            loss.backward()
        if t.clip:
            self.work.clip(self.parameters, t.clip)
        if t.schedule == "linear":
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = t.learning_rate * rate * (1 - fit.updates / self.planned)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        fit.updates += 1
        fit.total, fit.weight = fit.total + value * weight, fit.weight + weight
        with torch.no_grad():
            for mean, p in zip(self.average, self.parameters, strict=False):
                mean.lerp_(p, 1 - t.average)

    def _validate(self, began: float | None) -> None:
        """Score the weights (or their average), note the best, add a row to the curve."""
        fit, model = self.fit, self.work.model
        self._swap()
        model.eval()
        found = dict(self.work.validate())
        loss = found.pop("valid_loss")
        if not math.isfinite(loss):
            raise Diverged(f"validation loss {loss} in epoch {fit.epoch}, update {fit.updates}")
        if loss < fit.valid_loss:
            fit.stale, fit.valid_loss = 0, loss
            fit.best_epoch, fit.best_updates = fit.epoch, fit.updates
            if self.training.restore == "best":
                fit.best = self._copied()
        else:
            fit.stale += 1
        model.train()
        self._swap()
        fit.stopped = bool(found.pop("stop", False))
        row = {"epoch": fit.epoch, "updates": fit.updates}
        row["train_loss"] = fit.total / fit.weight if fit.weight else None
        row |= {"valid_loss": loss, "val_ppl": perplexity(loss), **found, **self.work.measures()}
        if began is not None:
            row["epoch_seconds"] = round(self.clock() - began, 6)
        fit.curve.append(row)
        fit.total = fit.weight = 0.0
        if self.report is not None:
            self.report(fit.curve)

    def _swap(self) -> None:
        """Exchange weights and their average, where there is one."""
        with torch.no_grad():
            for mean, p in zip(self.average, self.parameters, strict=False):
                held = p.detach().clone()
                p.copy_(mean)
                mean.copy_(held)

    def _copied(self) -> dict[str, Tensor]:
        return {name: v.detach().clone() for name, v in self.work.model.state_dict().items()}

    def _due(self) -> bool:
        """Whether a checkpoint is to be written now."""
        wait = max(CHECKPOINT_SECONDS, self.cost / CHECKPOINT_SHARE)
        return self.path is not None and time.monotonic() - self.saved > wait

    def _save(self) -> None:
        started = time.monotonic()
        tensors = {f"model/{n}": v for n, v in self.work.model.state_dict().items()}
        tensors |= {f"best/{n}": v for n, v in self.fit.best.items()}
        tensors |= {f"average/{i}": v for i, v in enumerate(self.average)}
        for i, p in enumerate(self.parameters):
            for name in ("exp_avg", "exp_avg_sq"):
                if name in self.optimizer.state[p]:
                    tensors[f"{name}/{i}"] = self.optimizer.state[p][name]
        own, about = self.work.carried()
        tensors |= {f"work/{name}": value for name, value in own.items()}
        tensors["random"] = torch.get_rng_state()
        counts = {name: getattr(self.fit, name) for name in COUNTS}
        # a weight that some updates leave out has a count of its own
        steps = [float(self.optimizer.state[p].get("step", 0)) for p in self.parameters]
        content = {"identity": self.identity, "counts": counts, "work": about, "steps": steps}
        content["epoch_seconds"] = self.clock() - self.began
        save_tensors(self.path, tensors, content)
        self.saved = time.monotonic()
        self.cost = self.saved - started

    def _resume(self) -> bool:
        """Go on from the checkpoint if there is one; a damaged one is set aside, said aloud."""
        held = self.path and files.kept(self.path, load_tensors, "the run begins again")
        if not held:
            return False
        tensors, about = held
        where = f"the checkpoint {self.path.name} in {self.path.parent.name}"
        if about["identity"] != self.identity:
            raise ValueError(f"{where} is of other settings, another seed or other data; delete it")
        own = {f"model/{name}": v.shape for name, v in self.work.model.state_dict().items()}
        held = {name: v.shape for name, v in tensors.items() if name.startswith("model/")}
        if held != own or len(about["steps"]) != len(self.parameters):
            raise ValueError(f"{where} holds other weights than the model has; delete it")
        for name, value in about["counts"].items():
            setattr(self.fit, name, value)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "work": {}}
        for name, value in tensors.items():
            group, _, rest = name.partition("/")
            parts.setdefault(group, {})[rest] = value
        self.work.model.load_state_dict(parts["model"])
        self.fit.best = parts["best"]
        with torch.no_grad():
            for i, mean in enumerate(self.average):
                mean.copy_(parts["average"][str(i)])
        for i, (p, steps) in enumerate(zip(self.parameters, about["steps"], strict=True)):
            if steps:
                state = {n: parts[n][str(i)].to(p.device) for n in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[p] = {"step": torch.tensor(steps, device=p.device), **state}
        self.work.restore(parts["work"], about["work"])
        torch.set_rng_state(tensors["random"])
        self.work.model.train()
        self.began = self.clock() - about.get("epoch_seconds", 0.0)  # older ones do not say
        return True
