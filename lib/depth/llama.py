"""A Llama as plain functions over tokens that may be at different depths.

transformers runs every token through every layer. Here a layer is run for the tokens that are
``active``; all others keep their state, and give keys and values made from it, so that a later
token can attend to a token that has stopped. With all tokens active it is the Llama of
transformers (a test compares them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from lib.runs.fetch import Unfit

MAPS = ("q", "k", "v", "o", "gate", "up", "down")
SCALE = 2.0  # of the low-rank change of a map
ROTATIONS = ("default", "linear", "llama3")  # their frequencies hold for any length
FEW = 40  # tokens up to which a CPU is faster with a weight that is laid out for them
Pair = tuple[Tensor, Tensor]  # keys and values [B, kv heads, T, head width]


class Map:
    """A linear map [out, in] with or without a low-rank change b [out, r] a [r, in].

    A few tokens on a CPU cost as much as reading the weight, if it lies as oneDNN wants it: then
    five cost what one does. In rows, as it is stored, they cost up to twice that, and on some
    processors a single one three times. So it is laid out anew when few tokens first ask, by the
    operators that torch's compiler lays frozen weights out with, which takes its memory once more.
    Training keeps the plain product, to whose bits finished runs
    belong.
    """

    def __init__(self, weight: Tensor, a: Tensor | None = None, b: Tensor | None = None):
        self.weight, self.a, self.b = weight, a, b
        self._laid_out: Tensor | None = None
        self._version = 0

    def __call__(self, x: Tensor) -> Tensor:
        # x [..., in] -> [..., out]
        y = self._product(x)
        if self.a is None:
            return y
        return y + F.linear(F.linear(x, self.a), self.b) * SCALE

    def _product(self, x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if not 0 < rows <= FEW or torch.is_grad_enabled() or not _can_be_laid_out(self.weight):
            return F.linear(x, self.weight)
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._laid_out is None or version != self._version:
            self._laid_out = torch.ops.mkldnn._reorder_linear_weight(self.weight, FEW)
            self._version = version
        flat = x.reshape(rows, x.shape[-1])
        found = torch.ops.mkldnn._linear_pointwise(flat, self._laid_out, None, "none", [], "")
        return found.view(*x.shape[:-1], len(self.weight))

    def merged(self) -> Map:
        """The same map as one matrix."""
        if self.a is None:
            return self
        return Map((self.weight + SCALE * (self.b @ self.a)).detach())


def _can_be_laid_out(weight: Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and torch.backends.mkldnn.is_available()


@dataclass
class Layer:
    """One decoder layer: its maps by name, and the gains of its two norms."""

    maps: dict[str, Map]
    norm1: Tensor
    norm2: Tensor


@dataclass
class Llama:
    """Layers, embedding, last norm and head, with the numbers that a forward pass depends on.

    ``extras`` are trained tensors that are no part of a Llama.
    """

    layers: list[Layer]
    embedding: Tensor  # [V, d]
    head: Tensor  # [V, d]
    norm: Tensor
    heads: int
    kv_heads: int
    head_width: int
    eps: float
    frequencies: Tensor  # [head width / 2]
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        self._speak = Map(self.head)

    @property
    def width(self) -> int:
        return self.embedding.shape[1]

    def embed(self, ids: Tensor) -> Tensor:
        """ids [B, T] -> [B, T, d]."""
        return F.embedding(ids, self.embedding)

    def read(self, x: Tensor) -> Tensor:
        """The last norm, after which the head reads: [..., d] -> [..., d]."""
        return F.rms_norm(x, (self.width,), self.norm, self.eps)

    def logits(self, x: Tensor) -> Tensor:
        """[..., d] -> [..., V]."""
        return self._speak(self.read(x))

    def rotation(self, start: int, length: int) -> Pair:
        """Cosines and sines [length, head width] of positions from ``start`` on, as wide as states:
        angles are taken in 32 bits whatever those are."""
        places = torch.arange(start, start + length, device=self.embedding.device)
        angles = torch.outer(places.float(), self.frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)

    def merged(self) -> Llama:
        """The same network without separate adapters, for use."""
        layers = [
            Layer(
                {name: m.merged() for name, m in layer.maps.items()},
                layer.norm1.detach(),
                layer.norm2.detach(),
            )
            for layer in self.layers
        ]
        extras = {name: value.detach() for name, value in self.extras.items()}
        return replace(self, layers=layers, norm=self.norm.detach(), extras=extras)


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linear maps of a layer of transformers by their names in MAPS."""
    attention, mlp = layer.self_attn, layer.mlp
    found = (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip
    return dict(zip(MAPS, found, strict=True))


def of_base(model: LlamaForCausalLM, kept: tuple[int, ...] = ()) -> Llama:
    """The frozen base, or the layers ``kept`` of it (all for none named).

    Raises Unfit for a Llama that the functions of this file would run wrongly.
    """
    config, inner = model.config, model.model
    plain = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    if other := [f"{n} {getattr(config, n)}" for n, v in plain.items() if getattr(config, n) != v]:
        raise Unfit(f"the base has {', '.join(other)}; allowed: a Llama without biases, with silu")
    if inner.rotary_emb.rope_type not in ROTATIONS:
        raise Unfit(
            f"the base has rotations of type {inner.rotary_emb.rope_type!r}; allowed: "
            f"{', '.join(ROTATIONS)}"
        )
    layers = []
    for i in kept or range(config.num_hidden_layers):
        own = inner.layers[i]
        maps = {name: Map(linear.weight.detach()) for name, linear in linears(own).items()}
        gains = own.input_layernorm.weight, own.post_attention_layernorm.weight
        layers.append(Layer(maps, *(gain.detach() for gain in gains)))
    return Llama(
        layers,
        inner.embed_tokens.weight.detach(),
        model.lm_head.weight.detach(),
        inner.norm.weight.detach(),
        config.num_attention_heads,
        config.num_key_value_heads,
        inner.layers[0].self_attn.head_dim,
        config.rms_norm_eps,
        inner.rotary_emb.inv_freq.detach().float(),
    )


def run_layer(
    llama: Llama,
    number: int,
    x: Tensor,
    rotation: Pair,
    active: Tensor | None = None,
    extend: Callable[[Pair], Pair] | None = None,
    others: Pair | None = None,
) -> tuple[Tensor, Pair]:
    """States after a layer [B, T, d], and its keys and values of these tokens.

    ``active`` [B, T] bool: tokens that the layer moves (None: all); the others keep their state x.
    ``extend``: takes these, and gives all that attention sees, those of earlier tokens first.
    ``others``: keys and values of the tokens that are not active; None: they are made from the
    state that such a token keeps.
    """
    layer = llama.layers[number]
    if active is not None and bool(active.all()):
        active = None
    normed = F.rms_norm(x, (llama.width,), layer.norm1, llama.eps)
    keys = _heads(layer.maps["k"](normed), llama.kv_heads)
    values = _heads(layer.maps["v"](normed), llama.kv_heads)
    keys = _rotate(keys, rotation)
    if others is not None and active is not None:  # None: all are active
        here = active[:, None, :, None]
        keys, values = torch.where(here, keys, others[0]), torch.where(here, values, others[1])
    own = keys, values
    if extend is not None:
        keys, values = extend(own)
    before = keys.shape[2] - x.shape[1]
    if active is not None and not bool(active.any()):
        return x, own
    if active is None:
        queries = _rotate(_heads(layer.maps["q"](normed), llama.heads), rotation)
        mixed = _attend(llama, queries, keys, values, None, before)
        x = x + layer.maps["o"](mixed.transpose(1, 2).flatten(2))
        return x + _mlp(llama, layer, x), own
    # only active tokens ask: rows [N, d], packed to [B, most, d] for attention
    window, place = active.nonzero(as_tuple=True)
    slot = (active.cumsum(1) - 1)[window, place]
    most = int(slot.max()) + 1
    rows = layer.maps["q"](normed[window, place])
    packed = rows.new_zeros(len(x), most, rows.shape[1]).index_put((window, slot), rows)
    at = place.new_zeros(len(x), most).index_put((window, slot), place)
    cos, sin = (part[at][:, None] for part in rotation)  # [B, 1, most, w]
    queries = _rotate(_heads(packed, llama.heads), (cos, sin))
    mixed = _attend(llama, queries, keys, values, at, before).transpose(1, 2).flatten(2)
    moved = x[window, place] + layer.maps["o"](mixed[window, slot])
    moved = moved + _mlp(llama, layer, moved)
    return x.index_put((window, place), moved), own


def _mlp(llama: Llama, layer: Layer, x: Tensor) -> Tensor:
    normed = F.rms_norm(x, (llama.width,), layer.norm2, llama.eps)
    return layer.maps["down"](F.silu(layer.maps["gate"](normed)) * layer.maps["up"](normed))


def _heads(x: Tensor, heads: int) -> Tensor:
    # [B, T, heads * w] -> [B, heads, T, w]
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _rotate(x: Tensor, rotation: Pair) -> Tensor:
    cos, sin = rotation
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def _attend(
    llama: Llama, queries: Tensor, keys: Tensor, values: Tensor, at: Tensor | None, before: int
) -> Tensor:
    """Causal attention [B, H, Q, w]. ``at`` [B, Q]: places of the queries after ``before`` keys."""
    if torch.is_grad_enabled():  # sums the gradients of a group in the order of finished runs
        group = llama.heads // llama.kv_heads
        keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    attend = partial(F.scaled_dot_product_attention, queries, keys, values, enable_gqa=True)
    asked, there = queries.shape[2], keys.shape[2]
    if at is None and (asked == 1 or asked == there):
        return attend(is_causal=asked > 1)
    if at is None:
        at = torch.arange(asked, device=queries.device)[None]
    seen = torch.arange(there, device=queries.device) <= (at + before)[..., None]  # [B, Q, keys]
    return attend(attn_mask=seen[:, None])
