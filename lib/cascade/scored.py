"""The columns that every row of Experiment 19 has: a model's and its base's perplexities."""

from __future__ import annotations

import torch
from torch import Tensor

from lib.cascade.all_tokens import Answers
from lib.cascade.dataset import OpenDataset
from lib.cascade.evaluation import perplexity


def scored(data: OpenDataset, answers: dict[str, Answers], masks: dict[str, Tensor]) -> dict:
    """The columns that every row of the experiment has: ours and the base's, on all tokens, on
    those outside the template, and on the routed ones."""
    row = {
        **data.identity(),
        "rate": masks["test"].float().mean().item(),
    }
    for part, found in answers.items():
        ours, none = masks[part], torch.zeros_like(masks[part])
        alone = found.perplexities(none)
        own = found.perplexities(ours)
        name = "val" if part == "valid" else part
        row |= {
            f"{name}_ppl": own["ppl"],
            f"{name}_content_ppl": own["content_ppl"],
            f"base_{name}_ppl": alone["ppl"],
            f"base_{name}_content_ppl": alone["content_ppl"],
        }
        if part == "test" and ours.any():
            row |= {
                "routed_ppl": perplexity(found.stage[ours]),
                "base_routed_ppl": perplexity(found.features.scalars["loss"][ours]),
            }
    return row
