"""What is trained: low-rank adapters on every linear map, changes of every norm gain, few extras.

The base stays frozen and outside, so that a checkpoint holds the adapters alone. The adapters are
those of Hu et al. (2021, LoRA): y = x Wᵀ + s (x Aᵀ) Bᵀ with A [r, in], B [out, r] = 0 at first and
s = 2, so that an untrained adapter is the base bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn
from transformers import LlamaForCausalLM

from lib.depth.llama import Layer, Llama, Map, of_base
from lib.depth.methods import Method


class Adapters(nn.Module):
    """Fresh adapters of a frozen network, drawn from the global generator; ``extras`` are the gate
    of a block and the mix of a second pass.

    ``rank`` is that of the whole base: a network with fewer layers gets a higher one, so that all
    train about as many numbers.
    """

    def __init__(self, llama: Llama, method: Method, rank: int):
        super().__init__()
        rank = max(1, round(rank * method.layers / method.depth))
        self.layers = nn.ModuleList()
        for layer in llama.layers:
            own = nn.ParameterDict()
            for name, kept in layer.maps.items():
                out, inside = kept.weight.shape
                a = torch.empty(rank, inside)
                nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                own[f"{name}_a"], own[f"{name}_b"] = nn.Parameter(a), torch.zeros(out, rank)
            own["norm1"], own["norm2"] = torch.zeros(llama.width), torch.zeros(llama.width)
            self.layers.append(own)
        self.norm = nn.Parameter(torch.zeros(llama.width))
        self.extras = nn.ParameterDict()
        if method.gated is not None:
            self.extras["gate"] = torch.zeros(llama.width)
            self.extras["gate_bias"] = torch.zeros(())
        if method.again is not None:
            self.extras["mix"] = torch.zeros(llama.width)

    def count(self) -> int:
        """Trained numbers."""
        return sum(p.numel() for p in self.parameters())


def frozen(model: LlamaForCausalLM, method: Method) -> Llama:
    """The layers of the base that the method keeps. Raises ValueError for another depth."""
    layers = model.config.num_hidden_layers
    if layers != method.layers:
        raise ValueError(f"the base has {layers} layers, the method is for {method.layers}")
    return of_base(model, method.kept)


def adapted(llama: Llama, adapters: Adapters) -> Llama:
    """A frozen network with adapters beside its weights; gradients reach the adapters only."""
    layers = []
    for layer, own in zip(llama.layers, adapters.layers, strict=True):
        maps = {n: Map(m.weight, own[f"{n}_a"], own[f"{n}_b"]) for n, m in layer.maps.items()}
        layers.append(Layer(maps, layer.norm1 + own["norm1"], layer.norm2 + own["norm2"]))
    norm, extras = llama.norm + adapters.norm, dict(adapters.extras)
    return replace(llama, layers=layers, norm=norm, extras=extras)


@torch.no_grad()
def for_use(llama: Llama, adapters: Adapters) -> Llama:
    """The network with its adapters merged into the weights, without gradients."""
    return adapted(llama, adapters).merged()
