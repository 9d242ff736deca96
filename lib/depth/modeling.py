"""The networks as models of transformers: ``from_pretrained``, ``forward``, ``generate``.

A folder holds a Llama with the adapters merged into its weights, and in its configuration the
method and the policy. ``forward`` gives the logits of the method (exits where tokens stop, second
passes), ``generate`` writes with a cache of its own.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from lib.depth import generation
from lib.depth.exit_gate import ExitGate
from lib.depth.generation import Policy, Session
from lib.depth.llama import Llama, linears, of_base
from lib.depth.methods import Again, Gated, Method


class DepthLlamaConfig(LlamaConfig):
    """A Llama's configuration with ``method`` and ``policy`` as plain values."""

    model_type = "depth_llama"

    def __init__(self, method: dict | None = None, policy: dict | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.method = method or {}
        self.policy = policy or {}


class DepthLlamaForCausalLM(LlamaForCausalLM):
    """A Llama that spends depth as its method and policy say."""

    config_class = DepthLlamaConfig

    def __init__(self, config: DepthLlamaConfig):
        super().__init__(config)
        exits, width = len(config.method.get("exits", ())), config.hidden_size
        self.exit_weight = nn.Parameter(torch.zeros(max(1, exits), width))
        self.exit_bias = nn.Parameter(torch.zeros(max(1, exits)))
        self.block_gate = nn.Parameter(torch.zeros(width))
        self.block_bias = nn.Parameter(torch.zeros(()))
        self.mix = nn.Parameter(torch.zeros(width))
        self._network: Llama | None = None
        self._where: list[int] = []  # addresses of the weights it is made of

    @property
    def method(self) -> Method:
        """The method of the configuration."""
        return method_of(self.config.method)

    @property
    def policy(self) -> Policy:
        """The policy of the configuration, with the exit gates of the weights."""
        own = dict(self.config.policy)
        own["exits"] = tuple(own.get("exits", ()))
        return Policy(**own, gate=ExitGate(self.exit_weight.detach(), self.exit_bias.detach()))

    def network(self) -> Llama:
        """The weights as the functions of this study take them; the same object until they lie
        elsewhere, so that they are laid out for few tokens once."""
        where = [p.data_ptr() for p in self.parameters()]
        if self._network is None or self._where != where:
            self._network, self._where = self._built(), where
        return self._network

    def _built(self) -> Llama:
        llama = of_base(self)
        extras = {"gate": self.block_gate, "gate_bias": self.block_bias}
        if self.method.again is not None and self.method.trained:
            extras["mix"] = self.mix
        llama.extras = {name: value.detach() for name, value in extras.items()}
        return llama

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits [B, T, V] where each token is read; with labels the mean loss, shifted by one.

        Raises ValueError for a mask that leaves tokens out. Other options change nothing.
        """
        _refuse_padding(attention_mask)
        logits = Session(self.network(), self.method, self.policy).logits(input_ids)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            )
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        seed: int = 0,
        **others: Any,
    ) -> Tensor:
        """Prompt and new tokens [B, T + max_new_tokens], also past an end of sequence.

        Raises ValueError for another option of ``generate``, for a mask that leaves tokens out
        (texts of a batch are equally long), for an empty prompt and for less than no new token.
        """
        if others:
            raise ValueError(
                f"generate has no {next(iter(others))} here; allowed: input_ids, attention_mask,"
                " max_new_tokens, do_sample, seed"
            )
        _refuse_padding(attention_mask)
        if not input_ids.shape[1]:
            raise ValueError("the prompt is empty; allowed: at least one token")
        if max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; allowed: 0 or more")
        if not max_new_tokens:
            return input_ids
        session = Session(self.network(), self.method, self.policy)
        draw = torch.Generator(input_ids.device).manual_seed(seed) if do_sample else None
        new = generation.write(session, input_ids, max_new_tokens, draw)
        return torch.cat([input_ids, new], dim=1)


def _refuse_padding(mask: Tensor | None) -> None:
    if mask is not None and not bool(mask.all()):
        raise ValueError("the mask leaves tokens out; allowed: texts that are equally long")


AutoConfig.register("depth_llama", DepthLlamaConfig)
AutoModelForCausalLM.register(DepthLlamaConfig, DepthLlamaForCausalLM)


def method_of(plain: dict[str, Any]) -> Method:
    """The method that ``asdict`` made plain, also after JSON."""
    own = {**plain, "kept": (), "exits": tuple(plain.get("exits", ()))}
    for name, kind in (("gated", Gated), ("again", Again)):
        if own.get(name):
            own[name] = kind(**own[name])
    return Method(**own)


def as_model(
    base: LlamaForCausalLM, llama: Llama, method: Method, policy: Policy | None = None
) -> DepthLlamaForCausalLM:
    """A merged network (``network.for_use``) as a model of its own that can be saved."""
    policy = policy or Policy()
    numbers = {**base.config.to_dict(), "num_hidden_layers": method.depth}
    numbers.pop("model_type", None)
    plain = asdict(method) | {"layers": method.depth, "kept": ()}
    own = {"rule": policy.rule, "threshold": policy.threshold, "mix": policy.mix}
    config = DepthLlamaConfig(plain, {**own, "exits": policy.exits}, **copy.deepcopy(numbers))
    model = _filled(DepthLlamaForCausalLM(config), llama)
    names = {"gate": "block_gate", "gate_bias": "block_bias", "mix": "mix"}
    for name, value in llama.extras.items():
        getattr(model, names[name]).copy_(value)
    if policy.gate is not None:
        model.exit_weight.copy_(policy.gate.weight)
        model.exit_bias.copy_(policy.gate.bias)
    return model


def plain_model(base: LlamaForCausalLM, llama: Llama) -> LlamaForCausalLM:
    """A merged network with all its layers as a model of transformers itself."""
    config = copy.deepcopy(base.config)
    config.num_hidden_layers = len(llama.layers)
    return _filled(LlamaForCausalLM(config), llama)


def _filled(model: Any, llama: Llama) -> Any:
    """A Llama of as many layers with the weights of a merged network, for use, on its device."""
    model = model.to(llama.embedding.device).eval().requires_grad_(False)
    model.model.embed_tokens.weight.copy_(llama.embedding)
    if not model.config.tie_word_embeddings:
        model.lm_head.weight.copy_(llama.head)
    model.model.norm.weight.copy_(llama.norm)
    for own_layer, layer in zip(model.model.layers, llama.layers, strict=True):
        for name, linear in linears(own_layer).items():
            linear.weight.copy_(layer.maps[name].weight)
        own_layer.input_layernorm.weight.copy_(layer.norm1)
        own_layer.post_attention_layernorm.weight.copy_(layer.norm2)
    return model
