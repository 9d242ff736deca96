"""A base with a routed stage as a transformers model: scoring, generation, save and load.

The stage's keys and values live in the same cache as the base's, as further layers of it, because
they are made from the base's states of all tokens; so cutting, reordering and beam search are
transformers' own.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM

from lib.base.pretrained import Base
from lib.cascade.around_base import (
    AnsweredOutput,
    AroundBase,
    AroundBaseConfig,
    padded_positions,
)
from lib.cascade.difficulty import HARD_IS_HIGH, HEAD_CRITERIA, head_criterion
from lib.cascade.query_stage import Keys, QueryStage
from lib.cascade.routes import STAGE_FILE
from lib.runs.tensors import load_tensors

RULES = ("gate", *(rule for rule in HEAD_CRITERIA if rule != "loss"))


class RoutedConfig(AroundBaseConfig):
    """``base_config``: a Llama configuration as a dict; ``stage_layers``; ``rule`` (gate, entropy,
    confidence, margin) and ``threshold``: a token is routed when the predicted gain or the entropy
    lies above it, confidence or margin below. Plus infinity routes nothing with gate or entropy."""

    model_type = "routed_cascade"

    def __init__(
        self,
        base_config: dict | None = None,
        stage_layers: int = 1,
        rule: str = "gate",
        threshold: float = 0.0,
        **kwargs,
    ):
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is not known; allowed: {RULES}")
        if rule in ("confidence", "margin") and -math.inf < threshold < 0:
            raise ValueError(f"{rule} is never below {threshold}; allowed: 0 to 1, or infinite")
        self.stage_layers, self.rule, self.threshold = stage_layers, rule, float(threshold)
        # caches are made from the number of layers: the stage's stand behind the base's
        super().__init__(base_config, further_layers=stage_layers, **kwargs)


class RoutedForCausalLM(AroundBase):
    """Frozen base, one ``QueryStage`` and a rule. When nothing is routed its logits are the base's,
    bit for bit."""

    config_class = RoutedConfig

    def __init__(self, config: RoutedConfig):
        super().__init__(config)
        self.base = LlamaForCausalLM(config.llama())
        self.stage = QueryStage(config.llama(), config.stage_layers)
        self.gate = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @classmethod
    def assemble(cls, base: Base, folder: Path, rule: str, threshold: float) -> RoutedForCausalLM:
        """The model of a finished run: base, and stage and gate from the run's ``folder``.

        ``rule`` may also be ``joint_gate``, where the gate was trained with the stage: it is served
        as ``gate``. Raises ``ValueError`` if the run had another base, or left no such gate.
        """
        tensors, about = load_tensors(folder / STAGE_FILE)
        if about["base_sha256"] != base.sha256:
            raise ValueError(f"the stage in {folder.name} stands behind another base")
        layers = 1 + max(
            int(name.split(".")[2]) for name in tensors if name.startswith("stage.layers.")
        )
        gate = "joint_gate" if rule == "joint_gate" else "gate"
        if f"{gate}.weight" not in tensors:
            raise ValueError(f"the run in {folder.name} left no {gate}")
        config = RoutedConfig(
            base.model.config.to_dict(),
            layers,
            "gate" if rule == gate else rule,
            threshold,
            base_name=base.name,
            base_sha256=base.sha256,
        )
        model = cls.around(base, config)
        model.stage = QueryStage(base.model.config, layers)
        model.stage.load_state_dict(
            {name[6:]: t for name, t in tensors.items() if name.startswith("stage.")}
        )
        model.gate = nn.Linear(config.hidden_size, 1)
        with torch.no_grad():
            model.gate.weight.copy_(tensors[f"{gate}.weight"][None])
            model.gate.bias.copy_(tensors[f"{gate}.bias"])
        return model.eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> AnsweredOutput:
        """input_ids [batch, length] -> logits [batch, kept, vocabulary] and ``answered_by`` (0 =
        base, 1 = stage, -1 = padding). ``attention_mask`` [batch, past + length], 0 = padding
        (left). ``labels`` as in transformers. ``logits_to_keep`` n > 0: the last n places only.
        """
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        real = None
        if attention_mask is not None and not attention_mask.all():
            real = attention_mask.bool()
            if position_ids is None:
                length = (input_ids if input_ids is not None else inputs_embeds).shape[1]
                position_ids = padded_positions(attention_mask, length)
        final = self.base.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        ).last_hidden_state
        rows, length, _ = final.shape
        wanted = self._routed(final)
        if real is not None:
            wanted &= real[:, -length:]
        if position_ids is not None:
            position_ids = position_ids.expand(rows, length)
        states = final
        if wanted.any() or past_key_values is not None:  # later tokens need these keys
            new = self.stage(
                final,
                wanted,
                position_ids,
                Keys(
                    past_key_values,
                    self.config.num_hidden_layers - self.config.stage_layers,
                    past,
                    real,
                ),
            )
            if wanted.any():
                states = final.clone()
                states[wanted] = new
        answered = wanted.long()
        if real is not None:
            answered = answered.masked_fill(~real[:, -length:], -1)
        logits = self.base.lm_head(states[:, -logits_to_keep:] if logits_to_keep else states)
        return self.answer(logits, labels, past_key_values if use_cache else None, answered)

    def _routed(self, final: Tensor) -> Tensor:
        """bool [batch, length]: which tokens the rule hands to the stage."""
        rule, threshold = self.config.rule, self.config.threshold
        if rule == "gate":
            return self.gate(final)[..., 0] > threshold
        values = torch.cat(
            [
                head_criterion(self.base.lm_head(part), rule)
                for part in final.flatten(0, 1).split(512)
            ]
        ).view(final.shape[:2])
        return values > threshold if rule in HARD_IS_HIGH else values < threshold
