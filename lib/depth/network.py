"""A method on a base: the frozen layers that it keeps, its adapters, its extras."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from lib.depth.adapters import Adapters, rank_for
from lib.depth.llama import Llama, adapted, of_base, shapes
from lib.depth.methods import Method


def frozen(model: LlamaForCausalLM, method: Method) -> Llama:
    """The layers of the base that the method keeps. Raises ValueError for another depth."""
    if model.config.num_hidden_layers != method.layers:
        raise ValueError(
            f"the base has {model.config.num_hidden_layers} layers, the method is for "
            f"{method.layers}"
        )
    return of_base(model, method.kept)


def adapters_for(llama: Llama, method: Method, rank: int) -> Adapters:
    """Fresh adapters, drawn from the global generator; ``rank`` is that of the whole base.

    A network with fewer layers gets a higher rank, so that all train about as many numbers.
    """
    extras = {}
    if method.gated is not None:
        extras["gate"] = torch.zeros(llama.width)
        extras["gate_bias"] = torch.zeros(())
    if method.again is not None:
        extras["mix"] = torch.zeros(llama.width)
    own = rank_for(method.depth, rank, method.layers)
    return Adapters(method.depth, llama.width, shapes(llama), own, extras)


def for_use(llama: Llama, adapters: Adapters) -> Llama:
    """The network with its adapters merged into the weights, without gradients."""
    with torch.no_grad():
        return adapted(llama, adapters).merged()
