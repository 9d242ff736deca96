"""Drafting and checking on one sentence, round by round: which drafted tokens are kept."""

import pandas as pd
import torch
from torch import Tensor

from lib.base.tiny_llama import tiny_llama
from lib.depth.llama import Llama, of_base
from lib.depth.speculative import Drafter
from lib.depth.toys.sentence import ids, words
from lib.toy import Toy, drawn

EXIT, AHEAD, NEW = 3, 4, 16  # layers that draft, drafts of a round, tokens that are written
QUIET = 0.2  # factor of what the last layer adds: else a random network never agrees with its exit


class Watched(Drafter):
    """A drafter that remembers what each round drafted and what the whole network wanted."""

    def __init__(self, *given):
        super().__init__(*given)
        self.rounds: list[tuple[Tensor, Tensor]] = []

    def _draft(self, *given):
        found = super()._draft(*given)
        self._drafted = found[0]
        return found

    def _check(self, *given) -> Tensor:
        logits = super()._check(*given)
        self.rounds.append((self._drafted[0], logits.argmax(-1)[0]))
        return logits


def quiet_llama() -> Llama:
    """The tiny random base with a last layer that adds little."""
    model = tiny_llama().eval().requires_grad_(False)
    for part in (model.model.layers[-1].self_attn.o_proj, model.model.layers[-1].mlp.down_proj):
        part.weight.mul_(QUIET)
    return of_base(model)


@drawn()
def toy() -> Toy:
    """A row a round: the drafted tokens, which of them are kept, and what the network adds."""
    llama = quiet_llama()
    drafter = Watched(llama, EXIT, AHEAD)
    text, count = drafter.write(ids(), NEW)
    plain, _ = Drafter(llama, 1, 1).write(ids(), NEW)
    rows = {}
    for number, (drafted, wanted) in enumerate(drafter.rounds, 1):
        agreed = int((drafted == wanted[: len(drafted)]).long().cumprod(0).sum())
        marks = [
            *(f"✔{w}" for w in words(drafted[:agreed])),
            *(f"✘{w}" for w in words(drafted[agreed:])),
        ]
        replaced = words(wanted[agreed : agreed + 1])
        rows[number] = {
            "drafted (✔ kept, ✘ not)": "  ".join(marks),
            "kept": agreed,
            "the whole network's": replaced[0] if replaced else "",
        }
    same = "the same" if torch.equal(text, plain) else "NOT the same"
    return Toy(
        "A random tiny Llama of four layers, the last one damped, goes on from the sentence. Its"
        f" text means nothing; letters such as Ą are bytes. {AHEAD} tokens are drafted after layer"
        f" {EXIT}, then checked in one pass. {count.accepted} of {count.drafted} drafted tokens"
        f" agree. The text is {same} as with another exit and single drafts: where one drafts"
        " changes the time alone.",
        {"read": ids().shape, "drafts of a round": (1, AHEAD), "written": text.shape},
        pd.DataFrame(rows).T.rename_axis("round"),
        "written: " + "".join(words(text[0])),
    )
