"""Next-token heads of R3, untied and started at zero, and the model they complete.

A head gives the loss of a batch and what an evaluation adds up. ``SharedRowHead`` is a softmax over
a whole vocabulary, exactly, at the price of the types that are targets: the others start with equal
rows and get equal gradients and updates for ever, so one row u stands for all c of them,

    log sum_j exp(z w_j)  =  log( sum_{targets j} exp(z w_j)  +  c exp(z u) )

The parameter that is stored is sqrt(c) u. Its gradient then has the norm of all c rows together, so
that clipping by the norm of the whole gradient is the same; Adam takes the same step with the rate
and the epsilon of this parameter times sqrt(c) (``adam_groups``).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.context.token_stream import UNSCORED, Vocabulary


class UntiedHead(nn.Module):
    """Linear map [n, d] -> [n, V] with bias, all zeros at the start (uniform first prediction)."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, vocabulary)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z)

    def loss(self, z: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the scored targets [n] of z [n, d]."""
        return functional.cross_entropy(self(z), targets)

    def sums(self, z: Tensor, targets: Tensor) -> dict[str, float]:
        """Over the scored targets: sum of the loss, right answers, and how many there are."""
        logits = self(z)
        return {
            "loss": functional.cross_entropy(logits, targets, reduction="sum").item(),
            "right": float((logits.argmax(1) == targets).sum()),
            "scored": float((targets != UNSCORED).sum()),
        }

    @property
    def represented(self) -> int:
        """Parameters of the head that this one computes."""
        return sum(p.numel() for p in self.parameters())


class SharedRowHead(nn.Module):
    """A head over `len(types) + shared` types, the last `shared` of which have one row.

    Targets [n]: row, or K for a shared type that is held, K + 1 for one that is not.
    """

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.rows = UntiedHead(width, len(vocabulary.types))
        self.count, self.held = vocabulary.shared, vocabulary.shared_held
        self.scale = self.count**0.5
        self.weight = nn.Parameter(torch.zeros(1, width))  # sqrt(c) times the shared row
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n, K] of the rows and [n, 1] of one shared type."""
        shared = functional.linear(z, self.weight / self.scale, self.bias / self.scale)
        return self.rows(z), shared

    def loss(self, z: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy over all types, of targets [n] that have a row (as in training)."""
        logits, shared = self(z)
        together = torch.cat([logits, shared + math.log(self.count)], 1)
        return functional.cross_entropy(together, targets)

    def sums(self, z: Tensor, targets: Tensor) -> dict[str, float]:
        """Over all targets as ``UntiedHead.sums``; ``held_*``: over the held types alone.

        A shared type is never the single best answer, so it is never right.
        """
        logits, shared = self(z)
        rows = logits.shape[1]
        own = torch.logsumexp(logits, 1)
        picked = torch.where(
            targets < rows,
            logits.gather(1, targets.clamp(max=rows - 1)[:, None])[:, 0],
            shared[:, 0],
        )
        best, place = logits.max(1)
        right = (place == targets) & (best > shared[:, 0])
        held = targets <= rows
        found = {
            "loss": (_with(own, shared[:, 0], self.count) - picked).sum().item(),
            "right": float(right.sum()),
            "scored": float(len(targets)),
        }
        inside = _with(own, shared[:, 0], self.held) - picked
        return found | {"held_loss": inside[held].sum().item(), "held_scored": float(held.sum())}

    @property
    def represented(self) -> int:
        """Parameters of the whole head, every shared type with a row of its own."""
        rows = self.rows.linear.out_features + self.count
        return rows * (self.rows.linear.in_features + 1)


def _with(own: Tensor, shared: Tensor, count: int) -> Tensor:
    """log(exp(own) + count exp(shared)), [n]."""
    return torch.logaddexp(own, shared + math.log(count)) if count else own


class NextTokenModel(nn.Module):
    """TokenBlock and head as one model over (contexts per layer, token input)."""

    def __init__(self, token_block: nn.Module, head: UntiedHead | SharedRowHead) -> None:
        super().__init__()
        self.token_block, self.head = token_block, head

    def loss(self, contexts: list[Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch in nats."""
        return self.head.loss(self.token_block(contexts, tokens), targets)

    def sums(self, contexts: list[Tensor], tokens: Tensor, targets: Tensor) -> dict[str, float]:
        """What an evaluation adds up over batches."""
        return self.head.sums(self.token_block(contexts, tokens), targets)


def build_head(width: int, vocabulary: Vocabulary) -> UntiedHead | SharedRowHead:
    """The head that scores a vocabulary."""
    if vocabulary.shared:
        return SharedRowHead(width, vocabulary)
    return UntiedHead(width, vocabulary.size)


EPSILON = 1e-8  # of Adam


def adam_groups(model: nn.Module, rate: float) -> list[dict]:
    """Groups for Adam by which the shared row moves as each of the rows it stands for would."""
    heads = [module for module in model.modules() if isinstance(module, SharedRowHead)]
    special = {p for head in heads for p in (head.weight, head.bias)}
    groups = [{"params": [p for p in model.parameters() if p not in special], "lr": rate}]
    for head in heads:
        scaled = {"lr": rate * head.scale, "eps": EPSILON * head.scale}
        groups.append({"params": [head.weight, head.bias], **scaled})
    return [{"eps": EPSILON, **group} for group in groups]


def represented_parameters(model: nn.Module) -> int:
    """Trainable parameters of a model, shared types counted with a row each."""
    heads = [module for module in model.modules() if isinstance(module, SharedRowHead)]
    extra = sum(head.represented - sum(p.numel() for p in head.parameters()) for head in heads)
    return extra + sum(p.numel() for p in model.parameters() if p.requires_grad)
