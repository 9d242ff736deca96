"""The base's last layers once more, over all tokens or some: depth is added by reusing weights.

The second pass has low-rank matrices of its own in these layers (which start at nothing) and begins
from the state under them, to which something of the first pass is led back:

* ``mixed``         under + mix * (after - under), a trained number per channel from 0 on: at 1 the
                    pass runs on where the first one ended, as looped networks do.
* ``recirculated``  under + a low-rank map of the normed final state, whose second matrix starts at
                    0: a deep state is led back to where shallow ones enter.

So an untrained second pass repeats the first and is the base bit for bit. A token that is not
chosen stands still: in every layer its keys and values come from its state in the first pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.base.pretrained import Base
from lib.cascade.baselines import Tail

FEEDBACKS = ("mixed", "recirculated")


class SecondPass(nn.Module):
    """The second pass over the last ``layers`` layers of ``base``, about ``trained`` weights in
    low-rank matrices. Raises ``ValueError`` for an unknown ``feedback``."""

    def __init__(self, base: Base, layers: int, feedback: str, trained: int, seed: int):
        super().__init__()
        if feedback not in FEEDBACKS:
            raise ValueError(f"feedback {feedback!r} is not known; allowed: {FEEDBACKS}")
        width = base.model.config.hidden_size
        tail = Tail(base, layers)
        beside = 2 * width if feedback == "recirculated" else 0  # the map's two sides
        tail.low_rank(trained, layers, seed, beside)
        self.tail, self.feedback = tail, feedback
        # the first pass runs in the base's own layers, which are no part of what is trained
        self.first = [base.model.model.layers[-layers:]]
        if feedback == "mixed":
            self.mix = nn.Parameter(torch.zeros(width))
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.down = nn.Linear(width, tail.rank, bias=False)
            self.up = nn.Linear(tail.rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    @property
    def feedback_weights(self) -> int:
        """Weights of the matrices that lead the first pass back."""
        return 0 if self.feedback == "mixed" else self.down.weight.numel() + self.up.weight.numel()

    def forward(self, states: Tensor, wanted: Tensor | None = None) -> Tensor:
        """states [rows, length, width] under the layers -> final normed states of the wanted tokens
        [n, width], row-major. ``wanted`` bool [rows, length], default all; causal."""
        if wanted is None:
            wanted = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        places = torch.arange(states.shape[1], device=states.device)[None]
        turn = {"position_embeddings": self.tail.model.rotary_emb(states, position_ids=places)}
        held = [states]
        with torch.no_grad():
            for layer in self.first[0]:
                held.append(layer(held[-1], **turn))
            final = self.tail.model.norm(held[-1])
        if self.feedback == "mixed":
            start = states + self.mix * (held[-1] - states)
        else:
            start = states + self.up(self.down(final))
        chosen, x = wanted[..., None], start
        for layer, still in zip(self.tail.model.layers, held, strict=False):
            x = layer(torch.where(chosen, x, still), **turn)
        return self.tail.model.norm(x[wanted])
