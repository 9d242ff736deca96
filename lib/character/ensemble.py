"""Train the random seeds of a variant together, as one network with a leading seed dimension.

On an accelerator the small networks of the character experiments leave it idle; stacked, their
matrix products become batched ones. The batch holds the rows of all seeds one below the other,
[seeds * rows, length], every layer with weights takes each seed's rows through that seed's weights,
and everything else is as in a single network. Each seed has its own data order, gradient clipping
and early stopping, so that its numbers are those of a run of its own (to rounding).
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.character.models.block import EPSILON, RMSNorm
from lib.character.run import CharacterRun, WindowWork, held_out_loss, outcome
from lib.runs.task import CannotJoin, Outcome, Place
from lib.training.loop import Fit, Training, perplexity, train
from lib.training.seeding import data_order, seed_weights

STATES = ("initial_state", "low_start", "high_start")  # learned states, [1, length, width] each


class StackedLinear(nn.Module):
    """[seeds * rows, ..., in] -> [seeds * rows, ..., out] by weights [seeds, out, in]."""

    def __init__(self, layers: list[nn.Linear]):
        super().__init__()
        if any(layer.bias is not None for layer in layers):
            raise CannotJoin("a linear layer with a bias")
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        seeds = len(self.weight)
        flat = x.reshape(seeds, -1, x.shape[-1])
        return torch.bmm(flat, self.weight.transpose(1, 2)).view(*x.shape[:-1], -1)


class StackedEmbedding(nn.Module):
    """[seeds * rows, length] -> [seeds * rows, length, width] by tables [seeds, V, width]."""

    def __init__(self, layers: list[nn.Embedding]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))

    def forward(self, symbols: Tensor) -> Tensor:
        seeds, vocabulary, width = self.weight.shape
        first = vocabulary * torch.arange(seeds, device=symbols.device)
        shifted = symbols.view(seeds, -1) + first[:, None]
        found = self.weight.view(-1, width)[shifted]
        return found.view(*symbols.shape, width)


class StackedNorm(nn.Module):
    """RMSNorm with gains [seeds, width]."""

    def __init__(self, layers: list[RMSNorm]):
        super().__init__()
        self.gain = nn.Parameter(torch.stack([layer.gain.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        seeds, width = self.gain.shape
        normal = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
        return (normal.view(seeds, -1, width) * self.gain[:, None]).view(x.shape)


class StackedState(nn.Module):
    """A learned start state of every seed; indexing it gives one for each row of the batch."""

    def __init__(self, states: list[Tensor]):
        super().__init__()
        self.state = nn.Parameter(torch.cat([state.detach() for state in states]))  # [seeds, T, d]
        self.rows = 1

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor:
        return self.state[:, index[1]].repeat_interleave(self.rows, 0)


STACKED = {nn.Linear: StackedLinear, nn.Embedding: StackedEmbedding, RMSNorm: StackedNorm}


def stack(models: list[nn.Module]) -> nn.Module:
    """One network out of several of one shape. Raises CannotJoin for weights of another kind."""
    whole = copy.deepcopy(models[0])
    for name, module in list(whole.named_modules()):
        parent = whole.get_submodule(name.rpartition(".")[0])
        if type(module) in STACKED:
            layers = [model.get_submodule(name) for model in models]
            setattr(parent, name.rpartition(".")[2], STACKED[type(module)](layers))
            continue
        for own in list(module._parameters):
            if own not in STATES:
                raise CannotJoin(f"{own} of {type(module).__name__}")
            states = [getattr(model.get_submodule(name), own) for model in models]
            del module._parameters[own]
            setattr(module, own, StackedState(states))
        if list(module.buffers(recurse=False)):
            raise CannotJoin(f"a buffer of {type(module).__name__}")
    return whole


def unstacked(whole: nn.Module, single: nn.Module, seed: int) -> dict[str, Tensor]:
    """The weights of one seed (its place in the stack) under the names of a single network."""
    held = dict(whole.named_parameters())
    names = dict(single.named_parameters())
    found = {}
    for name, value in names.items():
        stacked = held.get(name, held.get(f"{name}.state"))
        found[name] = stacked.detach()[seed].clone().view(value.shape)
    return found


class EnsembleWork(WindowWork):
    """Windows of symbols for several seeds at once; validation and best weights seed by seed."""

    def __init__(self, config: CharacterRun, seeds: list[int], device: torch.device):
        self.seeds, singles = seeds, []
        for seed in seeds:
            seed_weights(seed)
            singles.append(config.build())
        whole = stack(singles).to(device)
        windows = config.windows("train"), config.windows("valid")
        super().__init__(whole, config.objective, windows, config.training, seeds[0])
        self.patience = config.training.patience
        self.single = singles[0].to(device)
        self.fits = [Fit() for _ in seeds]
        self.updates = self.symbols = self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.epoch = epoch

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(self.model.parameters()).device
        windows, size = self.train_windows, self.training.batch_size
        orders = [data_order(seed, epoch) if self.training.shuffle else None for seed in self.seeds]
        for parts in zip(*(windows.batches(size, order) for order in orders), strict=True):
            inputs, targets = (torch.cat(side).to(device) for side in zip(*parts, strict=True))
            for module in self.model.modules():
                if isinstance(module, StackedState):
                    module.rows = len(inputs) // len(self.seeds)
            yield inputs, targets

    def losses(self, batch: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, float]]:
        # the mean over all rows, times the seeds: the gradient of each seed is that of its own mean
        for loss in self.objective.losses(self.model, *batch):
            self.updates += 1
            yield loss * len(self.seeds), 1.0
        self.seen += 1
        self.symbols += batch[0].numel() // len(self.seeds)

    def clip(self, parameters: list[nn.Parameter], bound: float) -> None:
        moved = [p.grad for p in parameters if p.grad is not None]
        squares = sum(g.square().flatten(1).sum(1) for g in moved)  # [seeds]
        factor = (bound / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for g in moved:
            g.mul_(factor.view(-1, *[1] * (g.dim() - 1)))

    def validate(self) -> dict[str, Any]:
        losses = [self._scored(place) for place in range(len(self.seeds))]
        for place, (fit, loss) in enumerate(zip(self.fits, losses, strict=True)):
            if fit.stopped:
                continue
            fit.epoch, fit.updates, fit.symbols = self.epoch, self.updates, self.symbols
            fit.last = unstacked(self.model, self.single, place)
            if loss < fit.valid_loss:
                fit.stale, fit.valid_loss, fit.best = 0, loss, fit.last
                fit.best_epoch, fit.best_updates = fit.epoch, fit.updates
            else:
                fit.stale += 1
            row = {"epoch": fit.epoch, "updates": fit.updates, "train_loss": None}
            fit.curve.append(row | {"valid_loss": loss, "val_ppl": perplexity(loss)})
            fit.stopped = bool(self.patience and fit.stale >= self.patience)
        mean = sum(losses) / len(losses)  # one that is no finite number ends the training of all
        return {"valid_loss": mean, "stop": all(fit.stopped for fit in self.fits)}

    def _scored(self, place: int) -> float:
        self.single.load_state_dict(unstacked(self.model, self.single, place))
        return held_out_loss(self.single.eval(), self.objective, self.valid_windows)


def train_together(config: CharacterRun, seeds: list[int], device: torch.device) -> list[Fit]:
    """The fits of all seeds, trained as one network. Raises CannotJoin, Diverged.

    Curves hold no training losses: those of a stack are of all seeds together.
    """
    work = EnsembleWork(config, seeds, device)
    train(work, loop_numbers(config.training))
    return work.fits


def run_together(config: CharacterRun, seeds: list[int], places: list[Place]) -> list[Outcome]:
    """What ``run_character`` gives for each seed, from one training of all.

    Raises CannotJoin, Diverged.
    """
    if config.keep:
        raise CannotJoin("weights that are kept")
    if config.objective.measures_are_read:
        raise CannotJoin("measures of the training, which are each seed's own")
    if getattr(config.objective, "most", 0):
        raise CannotJoin("numbers of segments that each seed draws for itself")
    if getattr(config.model, "dropout", 0):
        raise CannotJoin("dropout, which each seed draws for itself")
    found = []
    for fit in train_together(config, seeds, places[0].device):
        model = config.build().to(places[0].device)
        model.load_state_dict(fit.best if config.training.restore == "best" else fit.last)
        found.append(outcome(config, model.eval(), fit))
    return found


def loop_numbers(training: Training) -> Training:
    """What the loop is told: stopping and best weights are the seeds' own."""
    if training.average or training.max_updates or training.validations:
        raise CannotJoin("averages, limits of updates and spread validations")
    return replace(training, patience=0, restore="last")
