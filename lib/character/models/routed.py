"""Early exit by confidence: read the shared head after some layer and stop where it is sure.

Three ways to the same predictions, from the definition to the fast form:

``routed``     runs all layers for all symbols and picks per symbol (how R4 measured);
``compacted``  runs the deeper layers for the continuing symbols only. Later symbols still attend
               to exited ones; what they find there is either the exited symbol's state carried
               upwards, projected to keys and values in every layer (``propagate``: approximate), or
               its true deep state, computed after all (``recompute``: exact, and little is saved);
``lib.character.models.generation`` does the same symbol by symbol with a cache of keys and values.

Sources: R4, Experiments 9-11; state propagation after CALM (Schuster et al. 2022),
recomputation after EE-LLM (Chen et al. 2023).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.character.models.block import Block, CausalSelfAttention, rotary_tables, rotate
from lib.character.models.transformer import Transformer

KEEPS = ("propagate", "recompute")


def confidence(logits: Tensor) -> Tensor:
    """Largest probability, (..., V) -> (...)."""
    return logits.softmax(-1).amax(-1)


def mix(shallow: Tensor, deep: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Shallow logits (..., V) where they are confident, deep ones elsewhere; and where (...)."""
    exits = confidence(shallow) >= threshold
    return torch.where(exits.unsqueeze(-1), shallow, deep), exits


def routed(
    model: Transformer, symbols: Tensor, exit_layer: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and which symbols (B, T) exit; a threshold above 1 is the full model.

    Raises ValueError for an exit layer that is not below the last.
    """
    _check(model, exit_layer)
    states = model.hidden_states(symbols)
    return mix(model.head(states[exit_layer]), model.head(states[-1]), threshold)


def compacted(
    model: Transformer,
    symbols: Tensor,
    exit_layer: int,
    threshold: float,
    keep: str = "propagate",
    exits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As ``routed``, but the deeper layers see only the symbols that go on.

    ``exits`` (B, T) forces which symbols exit, for timing at a given share. ``recompute`` runs
    every symbol deep that a later continuing one of its row will attend to.
    """
    _check(model, exit_layer)
    if keep not in KEEPS:
        raise ValueError(f"keep is {keep!r}; allowed: {', '.join(KEEPS)}")
    state = model.embedding(symbols)
    for block in model.blocks[:exit_layer]:
        state = block(state)
    logits = model.head(state)
    if exits is None:
        exits = confidence(logits) >= threshold
    going = ~exits
    if not going.any():
        return logits, exits
    if keep == "recompute":  # up to the last continuing symbol of each row
        going = going.flip(1).cumsum(1).flip(1) > 0
    rows, columns = going.nonzero(as_tuple=True)  # (N,), (N,)
    for block in model.blocks[exit_layer:]:
        state = state.index_put((rows, columns), _continue(block, state, going, rows, columns))
    final = ~exits
    logits[final] = model.head(state[final])
    return logits, exits


def _continue(block: Block, state: Tensor, going: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The block's output (N, d) for the continuing symbols of a state (B, T, d)."""
    attention = block.attention
    x = state[rows, columns]  # (N, d)
    most = int(going.sum(1).max())
    slots = (going.cumsum(1) - 1)[rows, columns]  # place of each symbol in its row's queries
    length, head_width = state.shape[1], state.shape[2] // attention.heads
    cosine, sine = (table.to(state) for table in rotary_tables(length, head_width))
    query = attention.query(x).view(-1, attention.heads, 1, head_width)  # (N, heads, 1, hd)
    query = rotate(query, cosine[columns, None, None], sine[columns, None, None])
    key = rotate(heads(attention, attention.key(state)), cosine, sine)  # (B, heads, T, hd)
    value = heads(attention, attention.value(state))
    queries = state.new_zeros(len(state), most, attention.heads, head_width)
    queries[rows, slots] = query.squeeze(2)
    place = columns.new_zeros(len(state), most).index_put((rows, slots), columns)
    positions = torch.arange(length, device=state.device)
    visible = positions <= place.unsqueeze(-1)  # (B, M, T); padding sees symbol 0
    mixed = F.scaled_dot_product_attention(
        queries.transpose(1, 2), key, value, attn_mask=visible.unsqueeze(1)
    )
    mixed = mixed.transpose(1, 2)[rows, slots].reshape(len(x), -1)  # (N, d)
    x = block.attention_norm(x + attention.output(mixed))
    return block.feed_forward_norm(x + block.feed_forward(x))


def heads(attention: CausalSelfAttention, x: Tensor) -> Tensor:
    """Split (B, T, d) into (B, heads, T, d / heads)."""
    return x.view(*x.shape[:2], attention.heads, -1).transpose(1, 2)


def _check(model: Transformer, exit_layer: int) -> None:
    check_exit(exit_layer, len(model.blocks))


def check_exit(exit_layer: int, layers: int) -> None:
    """Raises ValueError for an exit layer that is not below the last; layers count from 1."""
    if not 1 <= exit_layer < layers:
        raise ValueError(f"exit layer {exit_layer}; allowed: 1 to {layers - 1}")
