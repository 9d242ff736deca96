"""Configuration of a CASCADE: a base, stages behind it, and the rule that hands tokens on."""

from __future__ import annotations

from lib.cascade.around_base import AroundBaseConfig
from lib.cascade.difficulty import CRITERIA

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
