"""Self-speculative decoding: an early exit drafts, the layers above it check, one cache for both.

After Leviathan et al. (2023) and LayerSkip (Elhoushi et al., 2024). The first layers run for the
last token written and for every drafted one; the layers above run once for all of them, on the
states that drafting left. The longest prefix of drafts on which both agree is kept, and one token
more, which the whole network gives. Greedy output is that of the whole network token for token. In
sampling a drafted token d is kept with probability min(1, p(d) / q(d)) and replaced from (p - q)+
otherwise; the token after the last draft is drawn from p. All of them are so drawn exactly from p.
A round may end early where the exit is not sure of its likeliest token: that is known before a
token is drawn, so that drafts stay exact. Drafts may also be copied from the text.

Texts of a batch keep one length: as many tokens are drafted as the text that is least sure allows,
and as many kept as the text that agrees least allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.depth.forward import Cache, Pass
from lib.depth.llama import Llama, Map


@dataclass
class Count:
    """``drafted`` and ``accepted`` tokens of all texts, ``rounds`` of drafting and checking.

    ``accepted`` counts what each text agreed on, also where another text cut it short.
    """

    drafted: int = 0
    accepted: int = 0
    rounds: int = 0


class Speculation:
    """A network that checks up to ``tokens`` drafted tokens a round; a round writes from one token
    to one more than were drafted. Drafting has run the first ``exit`` layers over them."""

    def __init__(self, llama: Llama, exit: int, tokens: int):
        if tokens < 1:
            raise ValueError(f"{tokens} tokens are to be drafted a round; allowed: at least 1")
        self.llama, self.exit, self.tokens = llama, exit, tokens

    @torch.inference_mode()
    def write(
        self, ids: Tensor, tokens: int, draw: torch.Generator | None = None
    ) -> tuple[Tensor, Count]:
        """``tokens`` new tokens after ids [B, T]: the likeliest, or drawn; [B, tokens].

        Raises ValueError for none.
        """
        if tokens < 1:
            raise ValueError(f"{tokens} tokens are to be written; allowed: at least 1")
        llama, cache, count = self.llama, Cache(), Count()
        passing = Pass(llama, ids.shape[1], cache)
        x = llama.embed(ids)
        for number in range(len(llama.layers)):
            x, _ = passing.layer(number, x)
        cache.length = ids.shape[1]
        # the last token of the text is known, not yet run
        text = torch.cat([ids, _choose(llama.logits(x[:, -1:]), draw)], dim=1)
        whole = ids.shape[1] + tokens
        while text.shape[1] < whole:
            ahead = min(self.tokens, whole - text.shape[1] - 1)  # the last one needs no draft
            start = cache.length
            drafts, states, chances = self._draft(text, ahead, cache, draw)
            cache.length = start
            logits = self._check(states, cache)
            kept, agreed = _kept(drafts, logits, chances, draw)
            count.drafted += drafts.numel()
            count.accepted += agreed
            count.rounds += 1
            cache.cut(start + kept.shape[1])
            text = torch.cat([text, kept], dim=1)
        return text[:, ids.shape[1] :], count

    def _draft(self, text: Tensor, ahead: int, cache: Cache, draw) -> tuple[Tensor, Tensor, Tensor]:
        """Drafts [B, k] after a text [B, n], k up to ``ahead``; states after the exit [B, k + 1, d]
        of its last token and of them; chances [B, k, V] of them if drawn."""
        raise NotImplementedError

    def _check(self, states: Tensor, cache: Cache) -> Tensor:
        """Logits [B, k + 1, V] of the whole network after states [B, k + 1, d] of the exit."""
        passing, x = Pass(self.llama, states.shape[1], cache), states
        for number in range(self.exit, len(self.llama.layers)):
            x, _ = passing.layer(number, x)
        return self.llama.logits(x)


class Drafter(Speculation):
    """Drafts are read out after layer ``exit``, which takes ``exit`` layers a draft.

    ``words`` [v]: the tokens that may be drafted (None: all); a smaller head reads them faster.
    ``sure``: drafting goes on while the likeliest of them has at least this chance (0: always).
    """

    def __init__(
        self, llama: Llama, exit: int, tokens: int, words: Tensor | None = None, sure: float = 0.0
    ):
        super().__init__(llama, exit, tokens)
        if not 0 < exit < len(llama.layers):
            raise ValueError(
                f"drafts are read after layer {exit}; allowed: layers 1 to {len(llama.layers) - 1}"
            )
        if not 0 <= sure <= 1:
            raise ValueError(f"sure is {sure}; allowed: a chance from 0 to 1")
        self.words, self.sure = words, sure
        self._speak = None if words is None else Map(llama.head[words])

    def _draft(self, text: Tensor, ahead: int, cache: Cache, draw) -> tuple[Tensor, Tensor, Tensor]:
        drafts, states, chances, ids = [], [], [], text[:, -1:]
        for place in range(ahead + 1):
            passing = Pass(self.llama, 1, cache)
            x = self.llama.embed(ids)
            for number in range(self.exit):
                x, _ = passing.layer(number, x)
            cache.length += 1
            states.append(x)
            if place == ahead:  # what follows the last draft is for the whole network to say
                break
            logits = self._guess(x)  # [B, 1, v]
            if self.sure and float(logits.softmax(-1).amax(-1).min()) < self.sure:
                break
            ids = _choose(logits, draw)
            if draw is not None:
                chances.append(self._spread(logits.softmax(-1)))
            if self.words is not None:
                ids = self.words[ids]
            drafts.append(ids)
        drafted = torch.cat(drafts, 1) if drafts else ids.new_empty(len(ids), 0)
        found = (
            torch.cat(chances, 1)
            if chances
            else self.llama.head.new_empty(len(ids), 0, len(self.llama.head))
        )
        return drafted, torch.cat(states, 1), found

    def _guess(self, x: Tensor) -> Tensor:
        """Logits [B, 1, v] of the words that may be drafted."""
        return self.llama.logits(x) if self._speak is None else self._speak(self.llama.read(x))

    def _spread(self, chances: Tensor) -> Tensor:
        """Probabilities of the drafted words over the whole vocabulary."""
        if self.words is None:
            return chances
        whole = chances.new_zeros(*chances.shape[:-1], len(self.llama.head))
        whole[..., self.words] = chances
        return whole


class Copier(Speculation):
    """Drafts are copied from the text, which costs no layer: what followed its last ``same`` tokens
    where they stood before, nearest to the end; none where they are new.

    After prompt lookup decoding (Saxena, 2023). A copy may run on over itself, so that a text that
    repeats itself is continued.
    """

    def __init__(self, llama: Llama, tokens: int, same: int = 2):
        super().__init__(llama, 0, tokens)
        if same < 1:
            raise ValueError(f"{same} tokens are to be found again; allowed: at least 1")
        self.same = same

    def _draft(self, text: Tensor, ahead: int, cache: Cache, draw) -> tuple[Tensor, Tensor, Tensor]:
        found = [copied(tokens, self.same, ahead) for tokens in text.tolist()]
        least = min(len(drafts) for drafts in found)
        drafts = text.new_tensor([own[:least] for own in found]).view(len(text), least)
        states = self.llama.embed(torch.cat([text[:, -1:], drafts], 1))
        chances = F.one_hot(drafts, len(self.llama.head)).to(states) if draw is not None else states
        return drafts, states, chances


def copied(tokens: list[int], same: int, ahead: int) -> list[int]:
    """The ``ahead`` tokens that followed the last ``same`` of a text where they stood before,
    nearest to the end; empty where they did not."""
    end, found = tokens[-same:], list(tokens)
    for start in range(len(tokens) - same - 1, -1, -1):
        if tokens[start : start + same] == end:
            for place in range(start + same, start + same + ahead):
                found.append(found[place])
            break
    return found[len(tokens) :]


def _choose(logits: Tensor, draw: torch.Generator | None) -> Tensor:
    """[B, 1, V] -> [B, 1]: the likeliest, or drawn."""
    if draw is None:
        return logits.argmax(-1)
    return torch.multinomial(logits[:, 0].softmax(-1), 1, generator=draw)


def _kept(
    drafts: Tensor, logits: Tensor, chances: Tensor, draw: torch.Generator | None
) -> tuple[Tensor, int]:
    """What is written [B, n] after drafts [B, k], and how many of them agreed: those that all texts
    of the batch agreed on, and one token more; logits [B, k + 1, V], chances [B, k, V] if drawn."""
    if draw is None:
        wanted = logits.argmax(-1)  # [B, k + 1]
        agreed = (drafts == wanted[:, :-1]).long().cumprod(1).sum(1)
        return wanted[:, : int(agreed.min()) + 1], int(agreed.sum())
    p, asked = logits.softmax(-1), drafts[..., None]
    ratio = p[:, :-1].gather(-1, asked) / chances.gather(-1, asked)
    luck = torch.rand(drafts.shape, generator=draw, device=drafts.device)
    agreed = (luck < ratio[..., 0]).long().cumprod(1).sum(1)
    last = int(agreed.min())  # where the one token more goes
    kept = F.pad(drafts, (0, 1))[:, : last + 1]
    more = agreed == last  # texts whose draft there was refused, or that had none left
    q = F.pad(chances, (0, 0, 0, 1))[more, last]  # 0 after the last draft
    rest = (p[more, last] - q).clamp_min(0)
    kept[more, last] = torch.multinomial(rest, 1, generator=draw)[:, 0]
    return kept, int(agreed.sum())


def frequent(ids: Tensor, count: int, vocabulary: int) -> Tensor:
    """The ``count`` most frequent tokens of a text, in rising order."""
    seen = torch.bincount(ids.flatten(), minlength=vocabulary)
    return seen.topk(min(count, vocabulary)).indices.sort().values
