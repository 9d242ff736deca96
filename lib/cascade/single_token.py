"""A faster update on single tokens, with the numbers of the plain one.

A step on 32 tokens of a stage moves 28 million head weights for little arithmetic: it is bound by
memory traffic. Three things make it faster and change no number beyond rounding:

* a sequence of one token attends to itself alone, so its mixed value is its value: queries, keys,
  rotation and softmax are left out (queries and keys have no gradient; AdamW only decays them);
* the head's gradient is made in blocks of rows, and AdamW moves a block while it is in the cache;
* AdamW moves each weight of the layers as soon as its gradient is there.

Needs no bound on the gradient's norm, whose value is known only when it is whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.optim.adamw import adamw

from lib.cascade.stage import StageModel
from lib.cascade.work import StageWork
from lib.training.loop import Training

BLOCK = 512  # rows of the head: 1.2 MB each of weights, gradient and moments


class SingleTokenWork(StageWork):
    """``StageWork`` on sequences of length 1; falls back to the plain update where it must."""

    fast: BlockAdamW | None = None

    def optimizer(self, training: Training) -> torch.optim.Optimizer | None:
        single = self.packs.index.shape[1] == 1 and bool(self.packs.counted.all())
        if single and not training.clip and training.optimizer == "adamw":
            if self.device.type == "cpu":
                self.fast = BlockAdamW(self.model, self.base_head, training)
        return self.fast

    def losses(self, batch: Tensor) -> Iterator[tuple[Tensor | float, float]]:
        if self.fast is None:
            yield from super().losses(batch)
            return
        index = self.packs.index[batch, 0]
        self.tokens = len(index)
        yield self.fast.prepare(self.inputs[index], self.labels[index]), self.tokens


class BlockAdamW(torch.optim.AdamW):
    """AdamW for a stage on single tokens: ``prepare`` a batch, then ``step``."""

    def __init__(self, stage: StageModel, base_head: Tensor | None, training: Training):
        super().__init__(
            [p for p in stage.parameters() if p.requires_grad],
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
        )
        self.stage, self.base_head = stage, base_head
        self.head = None if stage.head is None else stage.head.weight
        self.idle = [
            p
            for layer in stage.layers
            for p in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight)
        ]
        # weakly: the garbage collector sees no cycle through a hook, and a stage with its moments
        # (1.1 GB at R1's size) would stay in memory after its run
        mine = weakref.WeakMethod(self._move_whole)
        for p in stage.parameters():
            if p is not self.head and not any(p is q for q in self.idle):
                p.register_post_accumulate_grad_hook(lambda moved: mine()(moved))
        self.pending: tuple[Tensor, Tensor, Tensor | None] | None = None

    def prepare(self, states: Tensor, labels: Tensor) -> float:
        """Mean loss of states [n, width] on labels [n]; keeps what ``step`` needs."""
        trained = len(self.stage.layers) > 0
        with torch.set_grad_enabled(trained):
            out = outputs_of_single(self.stage, states)
        with torch.no_grad():
            weight = self.stage.head_weight(self.base_head)
            gradient = out.detach() @ weight.t()
            top = gradient.amax(dim=1, keepdim=True)
            picked = gradient.gather(1, labels[:, None]) - top
            gradient.sub_(top).exp_()
            mass = gradient.sum(dim=1, keepdim=True)
            loss = (mass.log() - picked).mean(dtype=torch.float64)
            gradient.div_(mass).scatter_add_(1, labels[:, None], -torch.ones_like(picked))
            gradient.div_(len(labels))
            below = gradient @ weight if trained else None  # before the head moves
        self.pending = out, gradient, below
        return loss.item()

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Move head and layers by the batch that was prepared."""
        out, gradient, below = self.pending
        self.pending = None
        if self.head is not None:
            self._move_head(out.detach(), gradient.t())
        if below is not None:
            with torch.enable_grad():
                out.backward(below)
        group = self.param_groups[0]
        for p in self.idle:
            p.mul_(1 - group["lr"] * group["weight_decay"])

    def _move_head(self, states: Tensor, gradient: Tensor) -> None:
        """states [n, width], gradient of the logits [vocabulary, n]."""
        mean, square, step = self._moments(self.head)
        block = torch.empty(BLOCK, states.shape[1])
        for start in range(0, len(gradient), BLOCK):
            rows = slice(start, start + BLOCK)
            own = torch.mm(gradient[rows], states, out=block[: len(gradient[rows])])
            self._adamw(self.head[rows], own, mean[rows], square[rows], step.clone())
        step += 1

    @torch.no_grad()
    def _move_whole(self, p: Tensor) -> None:
        self._adamw(p, p.grad, *self._moments(p))
        p.grad = None

    def _moments(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return state["exp_avg"], state["exp_avg_sq"], state["step"]

    def _adamw(self, p: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, step: Tensor):
        group = self.param_groups[0]
        adamw(
            [p], [gradient], [mean], [square], [], [step],
            fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1],
            lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def outputs_of_single(stage: StageModel, states: Tensor) -> Tensor:
    """What a stage makes of tokens that each stand alone: states [n, width] -> [n, width]."""
    for layer in stage.layers:
        attention = layer.self_attn
        value = attention.v_proj(layer.input_layernorm(states))
        value = value.view(len(states), -1, attention.head_dim)  # [n, key heads, head width]
        value = value.repeat_interleave(attention.num_key_value_groups, dim=1).flatten(1)
        states = states + attention.o_proj(value)
        states = states + _feed_forward(layer.mlp, layer.post_attention_layernorm(states))
    return states if stage.norm is None else stage.norm(states)


def _feed_forward(mlp: nn.Module, x: Tensor) -> Tensor:
    return mlp.down_proj(silu(mlp.gate_proj(x)) * mlp.up_proj(x))
