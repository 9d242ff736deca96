"""The sentence of all toys as a batch of one window, and networks fitted to it and nothing else."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lib.character.models.transformer import Transformer, TransformerConfig
from lib.character.objectives import Objective, cross_entropy
from lib.text.alphabet import Alphabet
from lib.text.windows import Windows
from lib.toy import SENTENCE, drawn
from lib.training.optimizers import Adam

ALPHABET = Alphabet.of(SENTENCE)
LENGTH = len(SENTENCE) - 1
WINDOW = Windows.cut(ALPHABET.encode(SENTENCE), LENGTH)
INPUTS, TARGETS = WINDOW.inputs, WINDOW.targets  # (1, T): a symbol, and the one after it
READ, NEXT = SENTENCE[:-1], SENTENCE[1:]  # the same as characters
UPDATES = 40
RATE = 3e-3
FITTED = f"fitted to this sentence alone, in {UPDATES} updates"


def network(layers: int = 1, **changes) -> Transformer:
    """A transformer 32 wide, drawn at random."""
    with drawn():
        return TransformerConfig(layers, width=32, length=LENGTH, **changes).build(len(ALPHABET))


def fit(
    model: nn.Module,
    objective: Objective,
    updates: int = UPDATES,
    only: Iterable[nn.Parameter] | None = None,
) -> list[list[float]]:
    """Fit a network to the sentence by Adam, or ``only`` some of its parameters.

    Returns the losses of every batch in the order of its updates.
    """
    parameters = list(model.parameters() if only is None else only)
    optimizer, found = Adam(parameters, lr=RATE), []
    objective.begin_epoch()
    for _ in range(updates):
        own = []
        for loss in objective.losses(model, INPUTS, TARGETS):
            model.zero_grad()
            loss.backward()
            optimizer.step()
            own.append(loss.item())
        found.append(own)
    return found


@torch.no_grad()
def loss_of(logits: Tensor) -> float:
    """Mean loss in nats of logits (1, T, V) on the sentence."""
    return cross_entropy(logits, TARGETS).item()


@torch.no_grad()
def layer_logits(model: Transformer) -> list[Tensor]:
    """Logits (1, T, V) that the shared head reads after each layer."""
    return [model.head(state) for state in model.hidden_states(INPUTS)[1:]]


@torch.no_grad()
def symbol_losses(logits: Tensor) -> Tensor:
    """Loss (T,) in nats of each symbol of the sentence, from logits (1, T, V)."""
    return nn.functional.cross_entropy(logits[0], TARGETS[0], reduction="none")
