"""Generation one symbol at a time with a cache of keys and values, with or without early exit.

What an exited symbol leaves for later ones in the layers it skipped is the question of every
early-exit decoder. ``propagate`` fills those layers' caches at once, from the state it exited with;
``recompute`` keeps the state and runs the skipped layers for all waiting symbols together as soon
as one symbol goes on, which gives the exact caches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.character.models.block import Block, rotary_tables, rotate
from lib.character.models.routed import KEEPS, check_exit, confidence, heads
from lib.character.models.transformer import Transformer


class Decoder:
    """Reads symbols in order and gives the logits of the next one.

    ``exit_layer`` counts from 1 and lies below the last; ``threshold`` above 1 never exits.
    ``length`` is the most symbols it can hold; a step beyond raises ValueError. ``exited`` counts
    the symbols that stopped at ``exit_layer``. One text at a time, on the model's device.
    """

    def __init__(
        self,
        model: Transformer,
        exit_layer: int,
        threshold: float,
        keep: str = "propagate",
        length: int = 64,
    ):
        check_exit(exit_layer, len(model.blocks))
        if keep not in KEEPS:
            raise ValueError(f"keep is {keep!r}; allowed: {', '.join(KEEPS)}")
        self.model, self.exit_layer, self.threshold, self.keep = model, exit_layer, threshold, keep
        config = model.config
        shape = (len(model.blocks), 1, config.heads, length, config.width // config.heads)
        self.device = model.embedding.weight.device
        self.keys, self.values = (torch.zeros(shape, device=self.device) for _ in range(2))
        self.cosine, self.sine = (t.to(self.device) for t in rotary_tables(length, shape[-1]))
        self.read = self.exited = 0
        self.waiting: list[Tensor] = []  # states (1, 1, d) that skipped the deeper layers

    @torch.no_grad()
    def prefill(self, symbols: Tensor) -> Tensor:
        """Read a prompt (n,) through all layers at once; logits (V,) after its last symbol.

        Raises ValueError after the first symbol has been read.
        """
        if self.read:
            raise ValueError("a prompt can only be read first")
        x = self.model.embedding(symbols[None])
        for layer in range(len(self.model.blocks)):
            x = self._layer(layer, x, 0)
        self.read = len(symbols)
        return self.model.head(x[0, -1])

    @torch.no_grad()
    def step(self, symbol: int) -> Tensor:
        """Read one symbol; logits (V,) of the next, from the exit layer if it is confident."""
        place, exit_layer = self.read, self.exit_layer
        if place == self.keys.shape[3]:
            raise ValueError(f"the cache holds {place} symbols and is full")
        self.read += 1
        x = self.model.embedding(torch.tensor([[symbol]], device=self.device))
        for layer in range(exit_layer):
            x = self._layer(layer, x, place)
        if self.threshold <= 1:
            logits = self.model.head(x[0, 0])
            if confidence(logits) >= self.threshold:
                self.exited += 1
                if self.keep == "recompute":
                    self.waiting.append(x)
                else:
                    for layer in range(exit_layer, len(self.model.blocks)):
                        self._store(layer, x, place)
                return logits
        x = torch.cat((*self.waiting, x), dim=1)  # (1, waiting + 1, d)
        self.waiting = []
        for layer in range(exit_layer, len(self.model.blocks)):
            x = self._layer(layer, x, self.read - x.shape[1])
        return self.model.head(x[0, -1])

    def _store(self, layer: int, x: Tensor, start: int) -> None:
        attention, end = self.model.blocks[layer].attention, start + x.shape[1]
        key = heads(attention, attention.key(x))
        self.keys[layer, :, :, start:end] = rotate(
            key, self.cosine[start:end], self.sine[start:end]
        )
        self.values[layer, :, :, start:end] = heads(attention, attention.value(x))

    def _layer(self, layer: int, x: Tensor, start: int) -> Tensor:
        """One block on states x (1, n, d) at places start .. start + n - 1."""
        block: Block = self.model.blocks[layer]
        attention, end = block.attention, start + x.shape[1]
        self._store(layer, x, start)
        query = heads(attention, attention.query(x))
        query = rotate(query, self.cosine[start:end], self.sine[start:end])
        visible = None
        if x.shape[1] > 1:
            places = torch.arange(end, device=self.device)
            visible = places <= places[start:].unsqueeze(-1)  # (n, end)
        mixed = F.scaled_dot_product_attention(
            query,
            self.keys[layer, :, :, :end],
            self.values[layer, :, :, :end],
            attn_mask=visible,
        )
        x = block.attention_norm(x + attention.output(mixed.transpose(1, 2).reshape(x.shape)))
        return block.feed_forward_norm(x + block.feed_forward(x))


def generate(decoder: Decoder, prompt: Tensor, count: int) -> Tensor:
    """``count`` likeliest symbols after a prompt (n,), one by one; (count,) int64."""
    logits = decoder.prefill(prompt)
    made = []
    for _ in range(count):
        made.append(int(logits.argmax()))
        if len(made) < count:
            logits = decoder.step(made[-1])
    return torch.tensor(made)


@torch.no_grad()
def generate_uncached(model: Transformer, prompt: Tensor, count: int) -> Tensor:
    """The same by running the whole text through the whole model for every symbol."""
    symbols = prompt
    for _ in range(count):
        following = model(symbols[None])[0, -1].argmax()
        symbols = torch.cat((symbols, following[None]))
    return symbols[len(prompt) :]
