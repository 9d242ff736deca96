"""What an adapted base says about every token: features like the base's own, by its last layers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lib.base.head import head_statistics
from lib.base.pretrained import Base
from lib.cascade.adaptation_text import TextPart
from lib.cascade.all_tokens import Answers
from lib.cascade.baselines import Tail, states_under
from lib.cascade.difficulty import hidden_cosine
from lib.cascade.evaluation import perplexity
from lib.cascade.features import COSINES, TokenFeatures

BATCH = 8  # windows of a forward pass


@torch.no_grad()
def adapted_part(base: Base, tail: Tail, part: TextPart, under: int) -> TokenFeatures:
    """Features of the same tokens where ``tail`` takes the place of the base's last ``under``
    layers: final states [N, width] and all scalars [N], as in ``token_features``.

    Raises ``ValueError`` for a tail of fewer than three layers, which the cosines need.
    """
    states, device = states_under(base, part.windows, under), base.model.device
    weight, embed = base.model.lm_head.weight, base.model.get_input_embeddings()
    found: list[dict[str, Tensor]] = []
    chunks = (part.windows.inputs, part.windows.labels, states)
    for ids, labels, x in zip(*(chunk.split(BATCH) for chunk in chunks), strict=True):
        hidden = [embed(ids.to(device)), *tail.hidden(x.to(device))]
        final = hidden[-1].flatten(0, 1)
        said = {name: hidden_cosine(hidden, name).flatten() for name in COSINES}
        said |= head_statistics(final, weight, labels.flatten().to(device))
        found.append({"final": final} | said)
    whole = {name: torch.cat([one[name] for one in found]).cpu() for name in found[0]}
    return replace(part.features, final=whole.pop("final"), scalars=whole)


def beside_base(
    row: dict, answers: dict[str, Answers], plain: dict[str, TokenFeatures], routed: Tensor
) -> dict:
    """The columns of a row that change where a stage stands behind an adapted base.

    ``base_*`` are the untouched base's again (``plain``: its features of valid, test ...), and
    ``adapted_*`` those of the adapted base alone. ``routed`` bool [N]: routed tokens of test.
    """
    found = {}
    for part, own in answers.items():
        name = "val" if part == "valid" else part
        loss = plain[part].scalars["loss"]
        for kind, tokens in (("", torch.ones_like(own.template)), ("content_", ~own.template)):
            column = f"{name}_{kind}ppl"
            found[f"adapted_{column}"] = row[f"base_{column}"]
            found[f"base_{column}"] = perplexity(loss[tokens])
    if routed.any():
        found["base_routed_ppl"] = perplexity(plain["test"].scalars["loss"][routed])
    return found
