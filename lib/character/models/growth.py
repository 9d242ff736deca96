"""Make a trained transformer deeper: append a block, by chance or as an exact identity.

A whole model of the new depth is drawn from the global generator and its lower part overwritten,
so that after the same seed a grown model and one from scratch begin the new block alike.

``identity`` starts the new block as one that changes nothing. In a post-norm block zero output
maps are not enough: what remains, ``gain2 * norm(gain1 * norm(x))``, divides each position by the
size of its x, and x = gain * n (n of size 1) has a size that differs from position to position.
Therefore the last gain of the block below moves up: it becomes 1 there and becomes the last gain
of the new block, whose first gain is 1. The new block then turns n into gain * n, which is what
the old model handed to its head. Exact up to rounding and the norm's eps of 1e-6.

Source: the untested ideas at the end of R4, Experiment 5; zero-output initialisation as in
Net2Net (Chen et al. 2016) and bert2BERT (Chen et al. 2021).
"""

import dataclasses

import torch
from torch import nn

from lib.character.models.transformer import Transformer


def deepen(model: Transformer, layers: int, identity: bool = False) -> Transformer:
    """A new model of ``layers`` blocks that holds all weights of ``model`` in its lower part.

    ``layers`` equal to the present depth returns a copy. Raises ValueError for fewer, and for an
    identity on a model without blocks (there is no norm whose gain could move).
    """
    old = len(model.blocks)
    if layers < old:
        raise ValueError(f"a model of {old} layers cannot grow to {layers}")
    if identity and old == 0:
        raise ValueError("identity growth needs at least one block below the new one")
    grown = dataclasses.replace(model.config, layers=layers).build(model.vocabulary)
    grown.load_state_dict(model.state_dict(), strict=False)
    if identity:
        for place in range(old, layers):
            as_identity(grown.blocks[place], grown.blocks[place - 1])
    return grown


@torch.no_grad()
def as_identity(block: nn.Module, below: nn.Module) -> None:
    """Turn ``block`` into an exact identity on what ``below`` gave, as described above.

    ``below`` itself gives another output from now on: its gains have moved up.
    """
    block.attention.output.weight.zero_()
    block.feed_forward.down.weight.zero_()
    block.attention_norm.gain.fill_(1)
    block.feed_forward_norm.gain.copy_(below.feed_forward_norm.gain)
    below.feed_forward_norm.gain.fill_(1)
