"""What every transformers model that is built around a frozen base has in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationMixin, LlamaConfig, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from lib.base.pretrained import Base

FORWARDED = (  # what generation and caches ask a configuration for
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


@dataclass
class AnsweredOutput(ModelOutput):
    """``answered_by`` int64 [batch, length]: 0 = base, k = stage k, -1 = padding."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: object | None = None
    answered_by: Tensor | None = None


class AroundBaseConfig(PretrainedConfig):
    """``base_config``: a Llama configuration as a dict; ``further_layers`` that share its cache."""

    def __init__(
        self,
        base_config: dict | None = None,
        base_name: str = "",
        base_sha256: str = "",
        further_layers: int = 0,
        **kwargs,
    ):
        self.base_config = base_config or LlamaConfig().to_dict()
        self.base_name, self.base_sha256 = base_name, base_sha256
        if self.base_config.get("model_type", "llama") != "llama":
            raise ValueError(
                f"a base of type {self.base_config['model_type']!r} is not supported; "
                "allowed: 'llama'"
            )
        base = self.llama()
        kwargs |= {name: getattr(base, name) for name in FORWARDED}
        kwargs["num_hidden_layers"] += further_layers
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(base, name))
        kwargs["tie_word_embeddings"] = base.tie_word_embeddings
        super().__init__(**kwargs)

    def llama(self) -> LlamaConfig:
        """The base's configuration as an object."""
        return LlamaConfig(**{k: v for k, v in self.base_config.items() if k != "model_type"})


class AroundBase(PreTrainedModel, GenerationMixin):
    """A model whose ``base`` is a ``LlamaForCausalLM``."""

    base_model_prefix = "base"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _tied_weights_keys = {"base.lm_head.weight": "base.model.embed_tokens.weight"}

    @classmethod
    def around(cls, base: Base, config: AroundBaseConfig) -> AroundBase:
        """An empty model on the meta device that holds ``base`` itself, not a copy."""
        with torch.device("meta"):
            model = cls(config)
        model.base = base.model
        model.generation_config = base.model.generation_config
        return model

    def get_input_embeddings(self):
        return self.base.get_input_embeddings()

    def get_output_embeddings(self):
        return self.base.get_output_embeddings()

    def answer(
        self, logits: Tensor, labels: Tensor | None, cache: object | None, answered: Tensor
    ) -> AnsweredOutput:
        """The output of a forward pass, with a loss where there are labels (shifted here)."""
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size
            )
        return AnsweredOutput(loss, logits, cache, answered)


def padded_positions(attention_mask: Tensor, length: int) -> Tensor:
    """Positions [batch, length] of the newest tokens where padding (0) on the left counts for none.

    ``attention_mask`` [batch, past + length].
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
