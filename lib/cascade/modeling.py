"""CASCADE as a transformers model: true early exit per token, in scoring and in generation.

Every token passes the base. Those that the rule calls hard go on to stage 1, and so on; the model
at which a token stops gives its logits. Stage layers and heads are computed only for the tokens
that reach them, and each stage's cache holds only those.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM

from lib.base.head import CHUNK
from lib.base.pretrained import Base
from lib.cascade.around_base import AnsweredOutput, AroundBase, AroundBaseConfig, padded_positions
from lib.cascade.difficulty import COSINES, CRITERIA, head_criterion, hidden_cosine, is_hard
from lib.cascade.stage import CompactCache, StageModel, run_compact, run_single

CONTEXTS = ("compact", "single")


class CascadeConfig(AroundBaseConfig):
    """``base_config``: a Llama configuration as a dict. ``stages``: one dict a stage, with
    ``layers``, ``own_head`` and ``final_norm``. ``rules``: one dict a stage, with ``criterion`` and
    ``threshold``; rule k decides which tokens that arrived at model k (0 = base) go on to stage
    k + 1. A token goes on when its value is strictly below the threshold (above it for entropy).

    ``context``: ``compact`` = a stage's tokens attend to those that reached it before them;
    ``single`` = every token is a sequence of length 1 (R1).
    """

    model_type = "cascade"

    def __init__(
        self,
        base_config: dict | None = None,
        stages: list[dict] | None = None,
        rules: list[dict] | None = None,
        context: str = "compact",
        **kwargs,
    ):
        self.stages, self.rules, self.context = stages or [], rules or [], context
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
        super().__init__(base_config, **kwargs)


class CascadeCache(DynamicCache):
    """The base's cache, and a compact one for every stage."""

    def __init__(self, config: CascadeConfig):
        super().__init__(config=config.llama())
        self.depths = [stage["layers"] for stage in config.stages]
        self.stages: list[CompactCache] = []

    def ready(self, batch: int) -> list[CompactCache]:
        """The stages' caches for ``batch`` rows; empty ones at first use."""
        if not self.stages:
            self.stages = [CompactCache(depth, batch) for depth in self.depths]
        return self.stages

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows ``beam_idx`` in base and stages (beam search)."""
        super().reorder_cache(beam_idx)
        for stage in self.stages:
            stage.reorder(beam_idx)

    def reset(self) -> None:
        """Forget everything, in base and stages; some releases only fill the base's with zeros."""
        super().reset()
        for layer in self.layers:
            layer.keys = layer.values = None
            layer.is_initialized = False
        self.stages = []

    def _unsupported(self, *_, **__):
        raise NotImplementedError(
            "a CASCADE's cache cannot be cut or re-batched: its stages hold "
            "different tokens; allowed: sampling, greedy and beam search"
        )

    crop = batch_repeat_interleave = batch_select_indices = _unsupported


class CascadeForCausalLM(AroundBase):
    """A frozen base and any number of stages. With no stages, or when nothing is hard, its logits
    are the base's, bit for bit."""

    config_class = CascadeConfig

    def __init__(self, config: CascadeConfig):
        super().__init__(config)
        llama = config.llama()
        self.base = LlamaForCausalLM(llama)
        self.stages = nn.ModuleList(
            StageModel(llama, s["layers"], s["own_head"], s["final_norm"]) for s in config.stages
        )
        self.post_init()

    @classmethod
    def assemble(
        cls, base: Base, stages: list[StageModel], rules: list[dict], context: str = "compact"
    ) -> CascadeForCausalLM:
        """A cascade around an existing base and trained stages, sharing their memory."""
        config = CascadeConfig(
            base.model.config.to_dict(),
            context=context,
            rules=[dict(rule) for rule in rules],
            stages=[
                {
                    "layers": len(s.layers),
                    "own_head": s.head is not None,
                    "final_norm": s.norm is not None,
                }
                for s in stages
            ],
            base_name=base.name,
            base_sha256=base.sha256,
        )
        model = cls.around(base, config)
        model.stages = nn.ModuleList(stages)
        return model.eval()

    def generate(self, *args, **kwargs):
        """transformers' ``generate`` with a cache that has room for the stages."""
        config = kwargs.get("generation_config") or self.generation_config
        wanted = kwargs.get("use_cache", config.use_cache) is not False
        if wanted and kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = CascadeCache(self.config)
        return super().generate(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: CascadeCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs,
    ) -> AnsweredOutput:
        """input_ids [batch, length] -> logits [batch, kept, vocabulary] and ``answered_by``.

        ``attention_mask`` [batch, past + length], 0 = padding (left). ``labels`` as in transformers
        (-100 is ignored; shifted here). ``logits_to_keep`` n > 0: only the last n places' logits.
        """
        if use_cache and past_key_values is None:
            past_key_values = CascadeCache(self.config)
        if position_ids is None and attention_mask is not None and not attention_mask.all():
            length = (input_ids if input_ids is not None else inputs_embeds).shape[1]
            position_ids = padded_positions(attention_mask, length)
        rules = self.config.rules
        out = self.base.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=bool(rules) and rules[0]["criterion"] in COSINES,
        )
        final = out.last_hidden_state  # [batch, length, width]
        batch, length = final.shape[:2]
        real = (
            torch.ones(batch, length, dtype=torch.bool, device=final.device)
            if attention_mask is None
            else attention_mask[:, -length:].bool()
        )
        answered = torch.where(real, 0, -1)
        states = final  # at every place, the output of the model that answers it
        if rules:
            states, answered = self._defer(out, final, real, past_key_values)
        kept = slice(-logits_to_keep, None) if logits_to_keep else slice(None)
        logits = self._speak(states[:, kept], answered[:, kept])
        return self.answer(logits, labels, past_key_values if use_cache else None, answered)

    def _defer(self, out, final, real, cache) -> tuple[Tensor, Tensor]:
        """Run the stages on the tokens that reach them: states [B, T, width], answered_by."""
        answered = torch.where(real, 0, -1)
        states, reached = final.clone(), real
        if not isinstance(cache, CascadeCache | None):
            raise TypeError(
                f"a {type(cache).__name__} has no room for what the stages saw; "
                "allowed: CascadeCache(model.config)"
            )
        caches = cache and cache.ready(len(real))
        before = None  # input of the model that has just spoken, at the reached tokens
        for number, (stage, rule) in enumerate(zip(self.stages, self.config.rules, strict=True)):
            values = self._criterion(rule["criterion"], number, out, states, reached, before)
            going = is_hard(values, rule["threshold"], rule["criterion"])
            reached = reached.clone()
            reached[reached.clone()] = going
            before = states[reached]
            if len(before):
                if self.config.context == "single":
                    result = run_single(stage, before)
                else:
                    result = run_compact(stage, states, reached, caches and caches[number])
                states[reached] = result
            answered[reached] = number + 1
        return states, answered

    def _criterion(self, criterion, number, out, states, reached, before) -> Tensor:
        """Values [n] of the rule's criterion at the ``reached`` tokens."""
        here = states[reached]
        if criterion == "input_to_output":
            return torch.cosine_similarity(before, here, dim=-1)
        if criterion in COSINES:
            return hidden_cosine(out.hidden_states, criterion)[reached]
        weight = self._head(number)
        return (
            torch.cat([head_criterion(part @ weight.t(), criterion) for part in here.split(CHUNK)])
            if len(here)
            else here[:, 0]
        )

    def _head(self, number: int) -> Tensor:
        """Output matrix of model ``number`` (0 = base)."""
        base = self.base.lm_head.weight
        return base if number == 0 else self.stages[number - 1].head_weight(base)

    def _speak(self, states: Tensor, answered: Tensor) -> Tensor:
        """Logits of each place from the head of the model that answers it."""
        if not (answered > 0).any():
            return self.base.lm_head(states)
        logits = states.new_zeros(*states.shape[:2], self.config.vocab_size)
        for number in answered.unique().tolist():
            here = answered == number
            logits[here] = states[here] @ self._head(max(number, 0)).t()
        return logits
