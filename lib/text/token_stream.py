"""Token ids cut into windows: the two packings of the CASCADE reports.

* ``joined_windows``: all texts in one stream, an end-of-sequence token after each, cut every
  ``length`` tokens (R0 and R2; length 128). Windows cross document borders.
* ``record_chunks``: every text cut from its own start into ``length + 1`` tokens with stride
  ``length``; a text shorter than that gives nothing (R1).

In both, the label of a token is the token that follows it, also at the last place of a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.runs.fetch import Unfit


@dataclass(frozen=True)
class TokenWindows:
    """``inputs`` and ``labels``: int64 [windows, length]; ``name`` says where they come from."""

    inputs: Tensor
    labels: Tensor
    name: str

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def tokens(self) -> int:
        return self.inputs.numel()

    @property
    def sha256(self) -> str:
        """Digest of ids and labels: the corpus part of a feature cache's key."""
        digest = hashlib.sha256(str(tuple(self.inputs.shape)).encode())
        digest.update(self.inputs.contiguous().numpy().tobytes())
        digest.update(self.labels.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def first(self, windows: int) -> TokenWindows:
        """The first ``windows`` windows. Raises ``Unfit`` if there are fewer."""
        if windows > len(self):
            raise Unfit(
                f"{self.name} has {len(self)} windows, {self.tokens:,} tokens; {windows} were "
                "asked for; ask for fewer or give a larger corpus"
            )
        return TokenWindows(self.inputs[:windows], self.labels[:windows], self.name)


def encode(text: str, tokenizer) -> list[int]:
    """Token ids of a text without any special token added."""
    return tokenizer(text, add_special_tokens=False).input_ids


def joined_windows(
    texts: Iterable[str],
    tokenizer,
    length: int = 128,
    name: str = "stream",
    at_most: int | None = None,
) -> TokenWindows:
    """One stream, end of sequence after each text, windows of ``length`` without overlap.

    Of N tokens, floor((N - 1) / length) windows are kept: the last label needs a next token.
    ``at_most``: texts are read until so many windows are full.
    """
    stream: list[int] = []
    for text in texts:
        stream += encode(text, tokenizer) + [tokenizer.eos_token_id]
        if at_most is not None and len(stream) > at_most * length:
            break
    return stream_windows(stream, length, name)


def stream_windows(stream: list[int], length: int, name: str) -> TokenWindows:
    """Windows of an id stream, for text that is one piece (WikiText).

    Raises ``Unfit`` if the stream does not fill one window.
    """
    count = (len(stream) - 1) // length
    if count < 1:
        raise Unfit(f"{name}: {len(stream)} tokens give no window of {length} + 1")
    ids = torch.tensor(stream[: count * length + 1])
    return TokenWindows(ids[:-1].view(count, length), ids[1:].view(count, length), name)


def record_chunks(
    texts: Iterable[str],
    tokenizer,
    length: int = 128,
    name: str = "chunks",
    at_most: int | None = None,
) -> TokenWindows:
    """Chunks of ``length`` + 1 tokens from the start of each text, stride ``length``.

    ``at_most``: texts are read until there are so many. Raises ``Unfit`` if no text is that long.
    """
    chunks = []
    for text in texts:
        if at_most is not None and len(chunks) >= at_most:
            break
        ids = encode(text, tokenizer)
        chunks += [ids[start : start + length + 1] for start in range(0, len(ids) - length, length)]
    if not chunks:
        raise Unfit(f"{name}: no text has {length + 1} tokens")
    table = torch.tensor(chunks)
    return TokenWindows(table[:, :-1].contiguous(), table[:, 1:].contiguous(), name)
