"""Which tokens a stage is trained on, and into which sequences they are put.

Selection rules, all giving stream positions in order: ``hard`` (the reports' rule), and its
controls ``random``, ``first`` (the contiguous beginning of the stream), ``loss`` (the truly worst
ones) and ``all`` (every token, whatever the ratio).

Arrangements: ``packed`` puts consecutive selected tokens of different places side by side in
sequences of 128 (R2), ``single`` makes every token a sequence of length 1 (R0, R1), and ``full``
leaves them in their text, where the stage reads all tokens and is scored on the selected.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.cascade.difficulty import is_hard, threshold_for
from lib.cascade.features import TokenFeatures

RULES = ("hard", "random", "first", "loss", "all")
ARRANGEMENTS = ("packed", "single", "full")


@dataclass(frozen=True)
class Packs:
    """Sequences as stream positions: ``index`` int64 [sequences, length]; ``counted`` bool, same
    shape, True where a token is learnt or scored."""

    index: Tensor
    counted: Tensor

    @classmethod
    def whole(cls, index: Tensor) -> Packs:
        """Sequences of which every token counts."""
        return cls(index, torch.ones_like(index, dtype=torch.bool))

    def __len__(self) -> int:
        return self.index.shape[0]

    @property
    def tokens(self) -> int:
        """How many tokens are learnt or scored."""
        return int(self.counted.sum())


def select(
    features: TokenFeatures,
    rule: str,
    ratio: float,
    criterion: str,
    count: int = 0,
    seed: int = 0,
    left_out: Tensor | None = None,
) -> Tensor:
    """Positions int64 [n], ascending: ``ratio`` of the tokens by ``rule`` (all of them by ``all``),
    at most ``count``.

    ``count`` 0 = no limit; where it bites, ``hard`` and ``loss`` keep the first in the stream, so
    that neither becomes harder by it; ``random`` draws from the whole stream. Thresholds come
    from these very features: call it on training data. ``left_out`` bool [N]: tokens that ``hard``
    and ``loss`` pass over; the share of the others grows, so that as many are chosen. Raises
    ``ValueError`` for another rule.
    """
    if rule not in RULES:
        raise ValueError(f"selection rule {rule!r} is not known; allowed: {RULES}")
    wanted = features.tokens if rule == "all" else round(ratio * features.tokens)
    wanted = min(wanted, count) if count else wanted
    if rule in ("first", "all"):
        return torch.arange(wanted)
    if rule == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(features.tokens, generator=generator)[:wanted].sort().values
    by = "loss" if rule == "loss" else criterion
    values = features.scalars[by]
    if left_out is None:
        hard = is_hard(values, threshold_for(values, ratio, by), by).nonzero()[:, 0]
        return hard[:wanted]
    others = (~left_out).nonzero()[:, 0]
    share = min(1.0, ratio * features.tokens / len(others))
    threshold = threshold_for(values[others], share, by)
    return others[is_hard(values[others], threshold, by)][:wanted]


def arrange(chosen: Tensor, arrangement: str, tokens: int, length: int = 128) -> Packs:
    """Sequences for training. ``packed`` drops the remainder; ``full`` drops windows without any
    chosen token. ``tokens`` is the size of the stream. Raises ``ValueError`` if none is left."""
    if arrangement == "packed":
        packs = Packs.whole(chosen[: len(chosen) // length * length].view(-1, length))
    elif arrangement == "single":
        packs = Packs.whole(chosen[:, None])
    elif arrangement == "full":
        counted = torch.zeros(tokens, dtype=torch.bool)
        counted[chosen] = True
        counted = counted.view(-1, length)
        kept = counted.any(dim=1)
        packs = Packs(torch.arange(tokens).view(-1, length)[kept], counted[kept])
    else:
        raise ValueError(f"arrangement {arrangement!r} is not known; allowed: {ARRANGEMENTS}")
    if len(packs) == 0:
        raise ValueError(
            f"{len(chosen)} chosen tokens give no {arrangement} sequence of {length}; "
            "take more tokens or a larger hard ratio"
        )
    return packs


def arrange_all(chosen: Tensor, arrangement: str, tokens: int, length: int = 128) -> list[Packs]:
    """Sequences for evaluation: as ``arrange``, but the remainder is one shorter sequence."""
    whole = len(chosen) // length * length if arrangement == "packed" else len(chosen)
    packs = [arrange(chosen[:whole], arrangement, tokens, length)] if whole else []
    rest = chosen[whole:][None]
    return packs + ([Packs.whole(rest)] if rest.numel() else [])
