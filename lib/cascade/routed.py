"""A base with a routed stage as a transformers model: scoring, generation, save and load.

The stage's keys and values live in the same cache as the base's, as further layers of it, because
they are made from the base's states of all tokens; so cutting, reordering and beam search are
transformers' own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationMixin,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from lib.cascade.cost import NEEDS_LOGITS
from lib.cascade.difficulty import HARD_IS_HIGH, head_criterion
from lib.cascade.modeling import CascadeOutput
from lib.cascade.query_stage import Keys, QueryStage
from lib.cascade.route_table import STAGE_FILE
from lib.models.pretrained import Base

RULES = ("gate", *NEEDS_LOGITS)


class RoutedConfig(PretrainedConfig):
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
        base_name: str = "",
        base_sha256: str = "",
        **kwargs,
    ):
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is not known; allowed: {RULES}")
        self.base_config = base_config or LlamaConfig().to_dict()
        self.stage_layers, self.rule, self.threshold = stage_layers, rule, float(threshold)
        self.base_name, self.base_sha256 = base_name, base_sha256
        base = self.llama()
        for name in (
            "vocab_size",
            "hidden_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            kwargs[name] = getattr(base, name)
        # caches are made from this: the stage's layers stand behind the base's
        kwargs["num_hidden_layers"] = base.num_hidden_layers + stage_layers
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(base, name))
        kwargs["tie_word_embeddings"] = base.tie_word_embeddings
        super().__init__(**kwargs)

    def llama(self) -> LlamaConfig:
        """The base's configuration as an object."""
        return LlamaConfig(**{k: v for k, v in self.base_config.items() if k != "model_type"})


class RoutedForCausalLM(PreTrainedModel, GenerationMixin):
    """Frozen base, one ``QueryStage`` and a rule. When nothing is routed its logits are the base's,
    bit for bit."""

    config_class = RoutedConfig
    base_model_prefix = "base"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _tied_weights_keys = {"base.lm_head.weight": "base.model.embed_tokens.weight"}

    def __init__(self, config: RoutedConfig):
        super().__init__(config)
        self.base = LlamaForCausalLM(config.llama())
        self.stage = QueryStage(config.llama(), config.stage_layers)
        self.gate = nn.Linear(config.hidden_size, 1)
        self.post_init()

    @classmethod
    def assemble(cls, base: Base, folder: Path, rule: str, threshold: float) -> RoutedForCausalLM:
        """The model of a finished run: base, and stage and gate from the run's ``folder``."""
        tensors = load_file(folder / STAGE_FILE)
        layers = 1 + max(
            int(name.split(".")[2]) for name in tensors if name.startswith("stage.layers.")
        )
        config = RoutedConfig(
            base.model.config.to_dict(), layers, rule, threshold, base.name, base.sha256
        )
        with torch.device("meta"):
            model = cls(config)
        model.base = base.model
        model.stage = QueryStage(base.model.config, layers)
        model.stage.load_state_dict(
            {name[6:]: t for name, t in tensors.items() if name.startswith("stage.")}
        )
        model.gate = nn.Linear(config.hidden_size, 1)
        with torch.no_grad():
            model.gate.weight.copy_(tensors["gate.weight"][None])
            model.gate.bias.copy_(tensors["gate.bias"])
        model.generation_config = base.model.generation_config
        return model.eval()

    def get_input_embeddings(self):
        return self.base.get_input_embeddings()

    def get_output_embeddings(self):
        return self.base.get_output_embeddings()

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
    ) -> CascadeOutput:
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
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
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
        loss = (
            None
            if labels is None
            else self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        )
        return CascadeOutput(loss, logits, past_key_values if use_cache else None, answered)

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
