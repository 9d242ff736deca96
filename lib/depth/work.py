"""The methods as Work for the training loop: one batch of windows, one update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lib.depth import forward
from lib.depth.adapters import Adapters, adapted
from lib.depth.llama import Llama
from lib.depth.methods import Again, Gated, Method
from lib.depth.reading import mean_loss, statistics, token_losses
from lib.depth.texts import Windows
from lib.training.loop import Training, Work
from lib.training.seeding import data_order


class DepthWork(Work):
    """Adapters of a frozen network, trained on windows as their method says."""

    in_order = False

    def __init__(
        self,
        frozen: Llama,
        adapters: Adapters,
        method: Method,
        windows: tuple[Windows, Windows],
        training: Training,
        seed: int,
    ):
        self.frozen, self.model, self.method = frozen, adapters, method
        self.train_windows, self.valid_windows = windows
        self.training, self.seed = training, seed
        self.device = frozen.embedding.device

    def updates_an_epoch(self) -> int:
        return -(-len(self.train_windows) // self.training.batch_size)

    def batches(self, epoch: int) -> Iterator[Tensor]:
        order = torch.randperm(len(self.train_windows), generator=data_order(self.seed, epoch))
        for chosen in order.split(self.training.batch_size):
            yield self.train_windows.ids[chosen].to(self.device)

    def size(self, batch: Tensor) -> int:
        return batch[:, 1:].numel()

    def losses(self, batch: Tensor) -> Iterator[tuple[Tensor, float]]:
        llama = adapted(self.frozen, self.model)
        yield loss_of(llama, self.method, batch[:, :-1], batch[:, 1:]), 1.0

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Loss of the whole network on valid, and of each exit."""
        llama = adapted(self.frozen, self.model).merged()
        total: dict[str, float] = {}
        for ids in self.valid_windows.ids.split(8):
            ids = ids.to(self.device)
            for name, losses in held_out(llama, self.method, ids[:, :-1], ids[:, 1:]).items():
                total[name] = total.get(name, 0.0) + losses.sum().item()
        tokens = self.valid_windows.tokens
        found = {name: value / tokens for name, value in total.items()}
        return {"valid_loss": found.pop("loss"), **found}


def loss_of(llama: Llama, method: Method, ids: Tensor, labels: Tensor) -> Tensor:
    """The training loss (nats a token) of a method on windows [B, T]."""
    if method.gated is not None:
        return _gated_loss(llama, method.gated, ids, labels)
    if method.again is not None:
        return _again_loss(llama, method.again, ids, labels)
    dropout = None
    if method.layer_dropout:
        steps = torch.arange(method.depth) / max(1, method.depth - 1)
        chances = method.layer_dropout * (torch.exp(steps * math.log(2)) - 1)  # Elhoushi et al.
        dropout = (torch.rand(method.depth, len(ids)) < chances[:, None]).to(ids.device)
    states = forward.through(llama, ids, dropout)
    weights = exit_weights(method)
    parts = [w * mean_loss(llama, states[r], labels) for r, w in weights.items()]
    return torch.stack(parts).sum()


def exit_weights(method: Method) -> dict[int, float]:
    """Weight of the loss after each read-out; their sum is 1."""
    rising = method.exit_loss == "rising"
    weights = {read: float(read) if rising else 1.0 for read in method.reads}
    return {read: w / sum(weights.values()) for read, w in weights.items()}


def _gated_loss(llama: Llama, block: Gated, ids: Tensor, labels: Tensor) -> Tensor:
    def opens(logits: Tensor) -> Tensor:
        noise = torch.rand(logits.shape).clamp(1e-6, 1 - 1e-6).logit().to(logits.device)
        return logits.detach() + noise > 0

    states, logits, _ = forward.through_gated(llama, ids, block, opens)
    off = logits.sigmoid().mean() - block.rate
    return mean_loss(llama, states, labels) + block.penalty * off.square()


def _again_loss(llama: Llama, block: Again, ids: Tensor, labels: Tensor) -> Tensor:
    before, after, pairs = forward.first_pass(llama, ids, block)
    active = chosen_again(llama, block, after, labels)
    states = forward.second_pass(llama, block, before, after, pairs, active, llama.extras["mix"])
    return mean_loss(llama, states, labels)


def chosen_again(llama: Llama, block: Again, after: Tensor, labels: Tensor) -> Tensor:
    """Which tokens [B, T] the second pass takes while training; random ones from the generator."""
    if block.which == "hard":
        entropy = statistics(llama, after.detach(), labels)["entropy"]
        return forward.highest(entropy, block.rate)
    if block.which == "random":
        return (torch.rand(labels.shape) < block.rate).to(labels.device)
    return torch.ones_like(labels, dtype=torch.bool)


@torch.no_grad()
def held_out(llama: Llama, method: Method, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Losses [B, T] of the whole network as ``loss``, and of the exits as ``loss_exit_N``.

    Nothing is drawn: the gate opens for its share of these tokens, a second pass takes its share of
    them by entropy, or all of them where it was trained on random ones.
    """
    if method.gated is not None:
        states, _, _ = forward.through_gated(
            llama, ids, method.gated, lambda logits: forward.highest(logits, method.gated.rate)
        )
        return {"loss": token_losses(llama, states, labels)}
    if method.again is not None:
        block = method.again
        before, after, pairs = forward.first_pass(llama, ids, block)
        if block.which == "random":
            active = torch.ones_like(labels, dtype=torch.bool)
        else:
            active = chosen_again(llama, block, after, labels)
        mix = llama.extras.get("mix", 1.0)
        states = forward.second_pass(llama, block, before, after, pairs, active, mix)
        return {"loss": token_losses(llama, states, labels)}
    states = forward.through(llama, ids)
    found = {f"loss_exit_{e}": token_losses(llama, states[e], labels) for e in method.exits}
    return {"loss": token_losses(llama, states[-1], labels), **found}
