"""The base applied to its own output, which R2 took for the base. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.cascade.dataset import TokenDataset
from lib.cascade.difficulty import threshold_for
from lib.cascade.evaluation import applied_twice, boundary_mask, hard_mask, perplexity, share
from lib.cascade.packing import Packs, arrange_all
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place


@dataclass(frozen=True)
class BaseTwice:
    """The base over its own states, on hard held-out tokens packed as R2 did."""

    dataset: TokenDataset
    criterion: str = "last_two_layers"
    hard_ratio: float = 0.1
    natural_windows: int = 32


@run_function("base-twice", version=2)
def run_base_twice(config: BaseTwice, seed: int, place: Place) -> Outcome:
    """Two passes on packed hard tokens and on whole windows (its "true early exit"), beside one.

    The seed is not used. The row's ``test_ppl`` and ``val_ppl`` are the two-pass figures on the
    hard tokens of test and of valid; all others are of test: ``base_ppl`` is the one-pass figure on
    the identical tokens.
    """
    data = config.dataset.open(place.device)
    features, eos = data.features("test"), data.base.tokenizer.eos_token_id
    values = data.features("train").scalars[config.criterion]
    threshold = threshold_for(values, config.hard_ratio, config.criterion)

    def on_hard(part: str) -> tuple[Tensor, dict[str, Tensor]]:
        own = data.features(part)
        mask = hard_mask(own, config.criterion, threshold)
        pieces = arrange_all(mask.nonzero()[:, 0], "packed", own.tokens, own.length)
        return mask, applied_twice(data.base, own, pieces)

    mask, twice = on_hard("test")
    chosen = mask.nonzero()[:, 0]
    loss = features.scalars["loss"]
    ends = boundary_mask(features, eos)
    inner = ~ends[chosen]
    index = torch.arange(config.natural_windows * features.length).view(-1, features.length)
    whole = applied_twice(data.base, features, [Packs.whole(index)])
    exits = whole["last_two_layers"] >= threshold
    row = {
        **data.identity(),
        "params": data.base.parameters,
        "val_ppl": perplexity(on_hard("valid")[1]["loss"]),
        "test_ppl": perplexity(twice["loss"]),
        "threshold": threshold,
        "hard_tokens": len(chosen),
        "base_ppl": perplexity(loss[chosen]),
        "base_inner_ppl": perplexity(loss[chosen][inner]),
        "inner_ppl": perplexity(twice["loss"][inner]),
        "accuracy": share(twice["correct"]),
        "base_easy_ppl": perplexity(loss[~mask]),
        "base_easy_inner_ppl": perplexity(loss[~mask & ~ends]),
        "base_all_ppl": perplexity(loss),
        "base_all_inner_ppl": perplexity(loss[~ends]),
        "base_all_accuracy": features.scalars["correct"].mean().item(),
        "exit_rate": exits.float().mean().item(),
        "exit_accuracy": share(whole["correct"][exits]),
        "twice_all_ppl": perplexity(whole["loss"]),
        "boundary_share": 1 - inner.float().mean().item(),
        "boundary_all_share": ends.float().mean().item(),
    }
    return Outcome(row)
