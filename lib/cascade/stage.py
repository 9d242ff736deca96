"""A stage: the language model that is put behind another one and reads its final hidden states.

Built from transformers' own Llama layers, with its own final norm and its own output matrix. A
stage of R1 and R2 is 28,311,552 (head) + 576 (norm) + k * 3,540,096 parameters: 35,392,320
for 2 layers, 56,632,896 for 8. The input of the first stage is the base's normed final state.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

HEADS = ("scratch", "copied", "shared")


class StageModel(nn.Module):
    """``layers`` Llama layers, a norm and a head over hidden states.

    ``own_head`` False: the stage speaks through the base's frozen head. ``final_norm`` False: the
    output is input + what the layers add, so that a stage whose layers add nothing is the base.
    With 0 layers and no norm it is the bare linear head of R0.
    """

    def __init__(
        self, config: LlamaConfig, layers: int, own_head: bool = True, final_norm: bool = True
    ):
        super().__init__()
        if layers < 0:
            raise ValueError(f"a stage cannot have {layers} layers")
        config = copy.deepcopy(config)
        config.num_hidden_layers = layers
        config._attn_implementation = "sdpa"
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, i) for i in range(layers))
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps) if final_norm else None
        self.rotary = LlamaRotaryEmbedding(config)
        self.head = (
            nn.Linear(config.hidden_size, config.vocab_size, bias=False) if own_head else None
        )

    def forward(
        self,
        hidden: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache=None,
    ) -> Tensor:
        """hidden [rows, length, width] -> [rows, length, width], causal.

        ``positions`` int64 [rows, length], default 0..length-1. ``mask`` bool [rows, 1, length,
        keys], True = may look; default the causal one. ``cache``: see ``CompactCache``.
        """
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotation = self.rotary(hidden, positions)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                position_embeddings=rotation,
            )
        return hidden if self.norm is None else self.norm(hidden)

    def head_weight(self, base_head: Tensor | None = None) -> Tensor:
        """The output matrix [vocabulary, width]: the stage's own or the base's."""
        if self.head is not None:
            return self.head.weight
        if base_head is None:
            raise ValueError("this stage shares the base's head; give it as base_head")
        return base_head


def new_stage(
    config: LlamaConfig,
    layers: int,
    head: str = "scratch",
    start: str = "random",
    base_head: Tensor | None = None,
    std: float = 0.02,
    seed: int = 0,
) -> StageModel:
    """A stage with weights drawn from N(0, ``std``²); the reports' library defaults to 0.02.

    ``head``: scratch (the reports), copied from the base and trained on, or shared = the base's
    own, frozen. ``start``: random (the reports) or identity (a zero-initialised residual stage),
    where attention and feed-forward outputs are zero and no final norm is used, so that the
    untrained stage repeats the base exactly. With 0 layers there is no norm and the head starts
    uniform in ±1/sqrt(width), as in R0. The draw leaves the global random state untouched. Raises
    ``ValueError`` for other names.
    """
    if head not in HEADS or start not in ("random", "identity"):
        raise ValueError(
            f"head {head!r} / start {start!r}: allowed are {HEADS} and 'random', 'identity'"
        )
    if head == "copied" and base_head is None:
        raise ValueError("head 'copied' needs base_head")
    stage = StageModel(
        config, layers, own_head=head != "shared", final_norm=start == "random" and layers > 0
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in stage.modules():
            if isinstance(module, nn.Linear):
                if head == "copied" and module is stage.head:
                    module.weight.copy_(base_head)
                elif layers == 0:
                    bound = config.hidden_size**-0.5
                    module.weight.uniform_(-bound, bound, generator=generator)
                else:
                    module.weight.normal_(0, std, generator=generator)
        if start == "identity":
            for layer in stage.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
    return stage


def parameter_count(module: nn.Module) -> int:
    """Parameters of a module, tied ones once."""
    return sum(p.numel() for p in module.parameters())


class CompactCache:
    """Keys and values of one stage, holding only the tokens that reached it, per row.

    Rows have different lengths: row r holds ``lengths[r]`` tokens at places 0..lengths[r]-1. A
    forward pass is framed by ``begin`` (which rows bring how many tokens) and ``commit``.
    """

    def __init__(self, layers: int, batch: int):
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths = torch.zeros(batch, dtype=torch.long)

    def begin(self, rows: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Announce ``counts`` [R] new tokens for ``rows`` [R]; give positions and mask.

        Positions [R, W] are places among the tokens that reached the stage; mask [R, 1, W, K].
        """
        self.lengths = self.lengths.to(rows.device)
        past = self.lengths[rows]
        width = int(counts.max())
        self.rows, self.counts = rows, counts
        self.extent = int((past + counts).max())
        steps = torch.arange(width, device=rows.device)
        self.real = steps[None] < counts[:, None]  # [R, W]
        positions = past[:, None] + steps[None]
        mask = torch.arange(self.extent, device=rows.device)[None, None] <= positions[..., None]
        self.slots = positions
        return positions, mask[:, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Called by the attention: store [R, heads, W, d], return everything up to the extent."""
        stores = []
        for store, new in ((self.keys, keys), (self.values, values)):
            held = store[layer]
            if held is None:
                held = new.new_zeros(len(self.lengths), new.shape[1], 0, new.shape[3])
            if held.shape[2] < self.extent:  # grow by half as much again, not token by token
                room = max(self.extent, held.shape[2] * 3 // 2) - held.shape[2]
                held = torch.cat([held, held.new_zeros(*held.shape[:2], room, held.shape[3])], 2)
            row = self.rows[:, None].expand_as(self.slots)[self.real]
            held[row, :, self.slots[self.real]] = new.transpose(1, 2)[self.real]
            store[layer] = held
            stores.append(held[self.rows, :, : self.extent])
        return stores[0], stores[1]

    def commit(self) -> None:
        """The announced tokens are in."""
        self.lengths[self.rows] += self.counts

    def reorder(self, index: Tensor) -> None:
        """Take the rows ``index`` (beam search)."""
        self.lengths = self.lengths[index.to(self.lengths.device)]
        for store in (self.keys, self.values):
            store[:] = [held if held is None else held[index.to(held.device)] for held in store]


def run_compact(
    stage: StageModel, hidden: Tensor, reached: Tensor, cache: CompactCache | None = None
) -> Tensor:
    """Run the stage over only the tokens that reached it; outputs [n, width] in row-major order.

    hidden [B, T, width], reached bool [B, T] (n True). Tokens of a row see the earlier ones of that
    row that reached the stage, including those in ``cache``; rows without any are not computed.
    """
    counts = reached.sum(dim=1)
    rows = counts.nonzero()[:, 0]
    if len(rows) == 0:
        return hidden.new_zeros(0, hidden.shape[-1])
    cache = cache or CompactCache(len(stage.layers), len(counts))
    positions, mask = cache.begin(rows, counts[rows])
    # stable sort brings each row's reached tokens to its front, in order
    order = (~reached[rows]).to(torch.int8).argsort(dim=1, stable=True)[:, : positions.shape[1]]
    compact = hidden[rows[:, None], order]  # [R, W, width]
    out = stage(compact, positions, mask, cache)
    real = cache.real
    cache.commit()
    return out[real]


def run_single(stage: StageModel, hidden: Tensor) -> Tensor:
    """Every token alone, as a sequence of length 1 (R1): [n, width] -> [n, width]."""
    return stage(hidden[:, None])[:, 0]
