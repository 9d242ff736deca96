"""Tied head + cross-entropy in chunks: the [tokens, vocabulary] logits never exist as a whole.

With a vocabulary of 49,152, the logits of 2,048 tokens are 400 MB and their gradient as much again.
Here each chunk's logits live only until its loss and its two gradients are taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 512  # tokens; 100 MB of logits at 49,152 words


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, chunk, importance):
        # hidden [N, d], weight [V, d], labels [N], importance [N] or None -> sum of losses []
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        need_importance = ctx.needs_input_grad[4]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_importance = torch.empty_like(importance) if need_importance else None
        total = hidden.new_zeros((), dtype=torch.float64)
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits = hidden[rows] @ weight.t()
            target = labels[rows, None]
            top = logits.amax(dim=1, keepdim=True)
            picked = logits.gather(1, target) - top
            logits.sub_(top).exp_()
            mass = logits.sum(dim=1, keepdim=True)
            losses = mass.log() - picked
            if need_importance:
                grad_importance[rows] = losses[:, 0]
            if importance is not None:
                losses = losses * importance[rows, None]
            total += losses.sum(dtype=torch.float64)
            if need_hidden or need_weight:
                logits.div_(mass)  # softmax
                logits.scatter_add_(1, target, -torch.ones_like(picked))  # minus one-hot
                if importance is not None:
                    logits.mul_(importance[rows, None])
                if need_hidden:
                    torch.mm(logits, weight, out=grad_hidden[rows])
                if need_weight:
                    grad_weight.addmm_(logits.t(), hidden[rows])
        ctx.grads = grad_hidden, grad_weight, grad_importance
        return total.to(hidden.dtype)

    @staticmethod
    def backward(ctx, upstream):
        scaled = [None if g is None else g.mul_(upstream) for g in ctx.grads]
        ctx.grads = None
        hidden, weight, importance = scaled
        return hidden, weight, None, None, importance


def summed_loss(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    chunk: int = CHUNK,
    importance: Tensor | None = None,
) -> Tensor:
    """Sum of cross-entropies (nats) of ``hidden @ weight.T`` against ``labels``.

    hidden [N, d], weight [V, d], labels int64 [N] -> []; ``importance`` [N] multiplies each token's
    loss. Differentiable once in hidden, weight and importance; the gradients are computed in the
    forward pass.
    Equals the naive sum (a test says how closely).
    """
    if hidden.ndim != 2 or labels.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden [N, d] and labels [N] are needed, not {tuple(hidden.shape)} and "
            f"{tuple(labels.shape)}"
        )
    return _ChunkedLoss.apply(hidden, weight, labels, chunk, importance)


def loss_by_token(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (nats) of every token, [N], without gradient: those that ``summed_loss`` sums,
    bit for bit. Shapes as there."""
    ones = torch.ones(len(labels), device=hidden.device, dtype=hidden.dtype, requires_grad=True)
    loss = summed_loss(hidden.detach(), weight.detach(), labels, importance=ones)
    return torch.autograd.grad(loss, ones)[0]


@torch.no_grad()
def head_statistics(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int = CHUNK
) -> dict[str, Tensor]:
    """Per token, float32 [N]: loss (nats), confidence, entropy (nats), margin, correct (0 or 1)."""
    parts = []
    for start in range(0, hidden.shape[0], chunk):
        rows = slice(start, start + chunk)
        logits = hidden[rows] @ weight.t()
        best, guess = logits.topk(2, dim=1)
        picked = logits.gather(1, labels[rows, None])[:, 0]
        logits.sub_(best[:, :1])
        weights = logits.exp()
        mass = weights.sum(dim=1)
        log_mass = mass.log()
        # entropy = log Z - E[logit], with logits relative to the best one
        entropy = log_mass - (weights.mul_(logits)).sum(dim=1) / mass
        p = (best - best[:, :1]).exp() / mass[:, None]
        parts.append(
            torch.stack(
                [
                    log_mass - (picked - best[:, 0]),
                    p[:, 0],
                    entropy,
                    p[:, 0] - p[:, 1],
                    (guess[:, 0] == labels[rows]).float(),
                ]
            )
        )
    if not parts:
        parts = [torch.zeros(5, 0)]
    names = ("loss", "confidence", "entropy", "margin", "correct")
    return dict(zip(names, torch.cat(parts, dim=1), strict=True))
