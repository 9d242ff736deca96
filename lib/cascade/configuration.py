"""Configuration of a CASCADE: a base, stages behind it, and the rule that hands tokens on."""

from __future__ import annotations

from transformers import LlamaConfig, PretrainedConfig

from lib.cascade.difficulty import CRITERIA

CONTEXTS = ("compact", "single")


class CascadeConfig(PretrainedConfig):
    """``base_config``: a Llama configuration as a dict. ``stages``: one dict a stage, with
    ``layers``, ``own_head`` and ``final_norm``. ``rules``: one dict a stage, with ``criterion`` and
    ``threshold``; rule k decides which tokens that arrived at model k (0 = base) go on to stage
    k + 1. A token goes on when its value is strictly below the threshold (above it for entropy).

    ``context``: ``compact`` = a stage's tokens attend to those that reached it before them;
    ``single`` = every token is a sequence of length 1 (seed 001).
    """

    model_type = "cascade"

    def __init__(
        self,
        base_config: dict | None = None,
        stages: list[dict] | None = None,
        rules: list[dict] | None = None,
        context: str = "compact",
        base_name: str = "",
        base_sha256: str = "",
        **kwargs,
    ):
        self.base_config = base_config or LlamaConfig().to_dict()
        self.stages, self.rules, self.context = stages or [], rules or [], context
        self.base_name, self.base_sha256 = base_name, base_sha256
        if self.base_config.get("model_type", "llama") != "llama":
            raise ValueError(
                f"a base of type {self.base_config['model_type']!r} is not supported; "
                "allowed: 'llama'"
            )
        if len(self.stages) != len(self.rules):
            raise ValueError(f"{len(self.stages)} stages need as many rules, not {len(self.rules)}")
        if context not in CONTEXTS:
            raise ValueError(f"context {context!r} is not known; allowed: {CONTEXTS}")
        for place, rule in enumerate(self.rules):
            allowed = [
                c
                for c in CRITERIA
                if c != "loss"
                and (c == "input_to_output")
                == (place > 0 and c not in ("confidence", "entropy", "margin"))
            ]
            if rule["criterion"] not in allowed:
                raise ValueError(f"rule {place} uses {rule['criterion']!r}; allowed: {allowed}")
            rule["threshold"] = float(rule["threshold"])
        base = LlamaConfig(**{k: v for k, v in self.base_config.items() if k != "model_type"})
        # what generation and caches ask a configuration for
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ):
            kwargs[name] = getattr(base, name)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(base, name))
        kwargs["tie_word_embeddings"] = base.tie_word_embeddings
        super().__init__(**kwargs)

    def llama(self) -> LlamaConfig:
        """The base's configuration as an object."""
        return LlamaConfig(**{k: v for k, v in self.base_config.items() if k != "model_type"})
