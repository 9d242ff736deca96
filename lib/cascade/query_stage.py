"""A stage that begins as the base itself: hard tokens as queries over every token's base state.

The base's final state of a token is ``gain * x`` with ``x`` of unit mean square. The stage works on
``scale * x``, the size that the stream has inside the base (35 in SmolLM2-135M: at size 1 a usual
learning rate moves the state 35 times as far, and training ruins it); what its layers add is added,
times gain over scale, to the base's final state. With the
output projections of all layers at zero it adds exactly nothing, so the untrained stage is the base
bit for bit. Keys and values of *every* layer come from the base's states of *all* earlier tokens,
not from what the stage made of them. Therefore a token's answer does not depend on which other
tokens were routed: only the chosen tokens need queries, feed-forward and head, a token that stays
behind costs two small projections a layer, and one pass over all tokens scores every routing rule
at every rate.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)


@dataclass(frozen=True)
class Keys:
    """Where keys lie that a stage has seen before: ``cache`` (a transformers cache), the layer at
    which the stage's own entries begin in it, ``past`` = how many tokens it holds already, and
    ``real`` bool [rows, past + new], False at padding (None = no padding)."""

    cache: object | None = None
    first_layer: int = 0
    past: int = 0
    real: Tensor | None = None


class QueryStage(nn.Module):
    """``layers`` Llama layers over base states. Weights: see ``query_stage``."""

    def __init__(self, config: LlamaConfig, layers: int):
        super().__init__()
        if layers < 1:
            raise ValueError(f"a stage of {layers} layers has no query; allowed: 1 or more")
        config = copy.deepcopy(config)
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(layers))
        self.rotary = LlamaRotaryEmbedding(config)
        self.register_buffer("gain", torch.ones(config.hidden_size))
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self,
        final: Tensor,
        wanted: Tensor | None = None,
        positions: Tensor | None = None,
        keys: Keys = Keys(),
    ) -> Tensor:
        """final [rows, length, width] -> new states of the wanted tokens [n, width], row-major.

        ``wanted`` bool [rows, length], default all. ``positions`` int64 [rows, length] for the
        rotation, default 0..length-1 after the past. Tokens see themselves and what stands before.
        """
        rows, length, width = final.shape
        if wanted is None:
            wanted = torch.ones(rows, length, dtype=torch.bool, device=final.device)
        places = torch.arange(keys.past, keys.past + length, device=final.device)
        if positions is None:
            positions = places[None].expand(rows, length)
        x = final * (self.scale / self.gain)
        count = max(int(wanted.sum(dim=1).max()), 1)
        # a stable sort brings each row's wanted tokens to its front, in order: [rows, count]
        order = (~wanted).to(torch.int8).argsort(dim=1, stable=True)[:, :count]
        real = wanted.gather(1, order)
        y = x.gather(1, order[..., None].expand(-1, -1, width))
        extent = torch.arange(keys.past + length, device=final.device)
        mask = extent[None, None] <= places[order][..., None]  # [rows, count, keys]
        if keys.real is not None:
            # a padded query must see something, or its row is not a number
            mask &= keys.real[:, None] | (extent[None, None] == places[order][..., None])
        cos, sin = self.rotary(x, positions)
        pick = order[..., None].expand(-1, -1, cos.shape[-1])
        turn = cos.expand(rows, -1, -1).gather(1, pick), sin.expand(rows, -1, -1).gather(1, pick)
        for number, layer in enumerate(self.layers):
            y = self._layer(layer, number, x, y, (cos, sin), turn, mask[:, None], keys)
        added = (y - x.gather(1, order[..., None].expand(-1, -1, width)))[real]
        return final[wanted] + (self.gain / self.scale) * added

    def _layer(self, layer, number, x, y, rotation, turn, mask, keys) -> Tensor:
        attention = layer.self_attn
        size = attention.head_dim

        def heads(t: Tensor) -> Tensor:
            return t.view(*t.shape[:2], -1, size).transpose(1, 2)

        base = layer.input_layernorm(x)
        k, v = heads(attention.k_proj(base)), heads(attention.v_proj(base))
        q = heads(attention.q_proj(layer.input_layernorm(y)))
        q, _ = apply_rotary_pos_emb(q, q, *turn)
        k, _ = apply_rotary_pos_emb(k, k, *rotation)
        if keys.cache is not None:
            k, v = keys.cache.update(k, v, keys.first_layer + number)
        found = scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
        y = y + attention.o_proj(found.transpose(1, 2).flatten(2))
        return y + layer.mlp(layer.post_attention_layernorm(y))


def query_stage(base: LlamaForCausalLM, layers: int, scale: float = 1.0) -> QueryStage:
    """An untrained stage behind ``base``, equal to it bit for bit.

    Its layers are the base's last ``layers``, with the output projections of attention and
    feed-forward at zero: nothing is drawn. ``scale``: see ``stream_scale``. Raises ``ValueError``
    for more layers than the base has.
    """
    if layers > len(base.model.layers):
        raise ValueError(f"{layers} layers cannot be copied from {len(base.model.layers)}")
    with torch.random.fork_rng(devices=[]):
        stage = QueryStage(base.config, layers)
    with torch.no_grad():
        stage.gain.copy_(base.model.norm.weight)
        stage.scale.fill_(scale)
        for own, theirs in zip(stage.layers, base.model.layers[-layers:], strict=True):
            own.load_state_dict(theirs.state_dict())
            own.self_attn.o_proj.weight.zero_()
            own.mlp.down_proj.weight.zero_()
    return stage.requires_grad_(True)


@torch.inference_mode()
def stream_scale(base: LlamaForCausalLM, ids: Tensor) -> float:
    """Median over tokens of the root mean square of the state before the final norm.

    ids int64 [rows, length].
    """
    held = {}
    hook = base.model.norm.register_forward_pre_hook(lambda _, given: held.update(x=given[0]))
    try:
        base.model(ids, use_cache=False)
    finally:
        hook.remove()
    return held["x"].square().mean(dim=-1).sqrt().median().item()
