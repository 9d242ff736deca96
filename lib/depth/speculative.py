"""Self-speculative decoding: an early exit drafts, the layers above it check, one cache for both.

After Leviathan et al. (2023) and LayerSkip (Elhoushi et al., 2024). The first layers run for every
drafted token; the layers above run once for all of them, on the states that drafting left, and the
longest prefix on which both agree is kept. Greedy output is that of the whole network token for
token. In sampling a drafted token d is kept with probability min(1, p(d) / q(d)) and replaced from
(p - q)+ otherwise, which draws exactly from p.

Texts of a batch keep one length: as many tokens are kept as the text that agrees least allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib.depth.forward import Cache, Pass
from lib.depth.llama import Llama


@dataclass
class Count:
    """``drafted`` and ``accepted`` tokens of all texts, ``rounds`` of drafting and checking.

    ``accepted`` counts what each text agreed on, also where another text cut it short.
    """

    drafted: int = 0
    accepted: int = 0
    rounds: int = 0


class Drafter:
    """A network that drafts ``tokens`` tokens after layer ``exit``.

    ``words`` [v]: the tokens that may be drafted (None: all); a smaller head reads them faster.
    """

    def __init__(self, llama: Llama, exit: int, tokens: int, words: Tensor | None = None):
        if not 0 < exit < len(llama.layers) or tokens < 1:
            raise ValueError(
                f"drafting {tokens} tokens after layer {exit}; allowed: at least 1, after layers 1 "
                f"to {len(llama.layers) - 1}"
            )
        self.llama, self.exit, self.tokens, self.words = llama, exit, tokens, words
        self.head = llama.head if words is None else llama.head[words].contiguous()

    @torch.inference_mode()
    def write(
        self, ids: Tensor, tokens: int, draw: torch.Generator | None = None
    ) -> tuple[Tensor, Count]:
        """``tokens`` new tokens after ids [B, T]: the likeliest, or drawn; [B, tokens]."""
        llama, cache, count = self.llama, Cache(), Count()
        passing = Pass(llama, ids.shape[1], cache)
        x = llama.embed(ids)
        for number in range(len(llama.layers)):
            x, _ = passing.layer(number, x)
        cache.length = ids.shape[1]
        pending = _choose(llama.logits(x[:, -1:]), draw)  # known, not yet run
        found = [pending]
        written = 1
        while written < tokens:
            ahead = min(self.tokens, tokens - written)
            start = cache.length
            drafts, states, chances = self._draft(pending, ahead, cache, draw)
            cache.length = start
            logits = self._check(states, cache)
            kept, agreed = _kept(drafts, logits, chances, draw)
            count.drafted += drafts.numel()
            count.accepted += agreed
            count.rounds += 1
            cache.cut(start + kept.shape[1])
            pending = kept[:, -1:]
            found.append(kept)
            written += kept.shape[1]
        return torch.cat(found, dim=1), count

    def _draft(self, ids: Tensor, ahead: int, cache: Cache, draw) -> tuple[Tensor, Tensor, Tensor]:
        """Drafts [B, k], states after the exit [B, k, d], draft logits [B, k, v] or none."""
        drafts, states, chances = [], [], []
        for _ in range(ahead):
            passing = Pass(self.llama, 1, cache)
            x = self.llama.embed(ids)
            for number in range(self.exit):
                x, _ = passing.layer(number, x)
            cache.length += 1
            states.append(x)
            logits = self.llama.read(x) @ self.head.t()  # [B, 1, v]
            ids = _choose(logits, draw)
            if draw is not None:
                chances.append(self._spread(logits.softmax(-1)))
            if self.words is not None:
                ids = self.words[ids]
            drafts.append(ids)
        found = torch.cat(chances, 1) if chances else torch.empty(0)
        return torch.cat(drafts, 1), torch.cat(states, 1), found

    def _spread(self, chances: Tensor) -> Tensor:
        """Probabilities of the drafted words over the whole vocabulary."""
        if self.words is None:
            return chances
        whole = chances.new_zeros(*chances.shape[:-1], len(self.llama.head))
        whole[..., self.words] = chances
        return whole

    def _check(self, states: Tensor, cache: Cache) -> Tensor:
        """Logits [B, k, V] of the whole network after states [B, k, d] of the exit."""
        passing, x = Pass(self.llama, states.shape[1], cache), states
        for number in range(self.exit, len(self.llama.layers)):
            x, _ = passing.layer(number, x)
        return self.llama.logits(x)


def _choose(logits: Tensor, draw: torch.Generator | None) -> Tensor:
    """[B, 1, V] -> [B, 1]: the likeliest, or drawn."""
    if draw is None:
        return logits.argmax(-1)
    return torch.multinomial(logits[:, 0].softmax(-1), 1, generator=draw)


def _kept(
    drafts: Tensor, logits: Tensor, chances: Tensor, draw: torch.Generator | None
) -> tuple[Tensor, int]:
    """What is written of drafts [B, k], the first that fails replaced; and how many agreed."""
    if draw is None:
        wanted = logits.argmax(-1)  # [B, k]
        agreed = (drafts == wanted).long().cumprod(1).sum(1)
        return wanted[:, : _length(agreed, drafts)], int(agreed.sum())
    p = logits.softmax(-1)
    asked = drafts[..., None]
    ratio = p.gather(-1, asked) / chances.gather(-1, asked)
    luck = torch.rand(drafts.shape, generator=draw, device=drafts.device)
    agreed = (luck < ratio[..., 0]).long().cumprod(1).sum(1)
    length = _length(agreed, drafts)
    kept = drafts[:, :length].clone()
    failed = agreed < length  # texts whose last token here was refused
    if bool(failed.any()):
        rest = (p[failed, length - 1] - chances[failed, length - 1]).clamp_min(0)
        kept[failed, length - 1] = torch.multinomial(rest, 1, generator=draw)[:, 0]
    return kept, int(agreed.sum())


def _length(agreed: Tensor, drafts: Tensor) -> int:
    """Tokens that every text of the batch may write: one more than the least agreement."""
    return min(int(agreed.min()) + 1, drafts.shape[1])


def frequent(ids: Tensor, count: int, vocabulary: int) -> Tensor:
    """The ``count`` most frequent tokens of a text, in rising order."""
    seen = torch.bincount(ids.flatten(), minlength=vocabulary)
    return seen.topk(min(count, vocabulary)).indices.sort().values
