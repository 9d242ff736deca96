"""Token streams for the context experiments: one training stream, fixed validation and test.

Inputs are LayerNorm'ed embeddings of the full vocabulary; outputs are restricted to the token
types of the training text, because a head over 49,152 types costs far more than the rest of the
model. Tokens of other types are read but not scored, as language modelling tools do with words
outside their vocabulary: an unknown type without training examples would reward whoever knows
least. Perplexities are comparable inside one vocabulary only.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib.context.embedding import Embedding, load_embedding, narrowed
from lib.base.pretrained import cache_folder
from lib.text.corpus import Corpus

UNSCORED = -100  # the output index that cross-entropy leaves out


@dataclass(frozen=True)
class Vocabulary:
    """Output types: `types` [K] token ids, most frequent first."""

    types: Tensor
    full_size: int

    @property
    def size(self) -> int:
        """Number of output types K."""
        return len(self.types)

    def encode(self, ids: Tensor) -> Tensor:
        """Token ids [N] -> output indices [N]; UNSCORED where the type is not kept."""
        index = torch.full((self.full_size,), UNSCORED, dtype=torch.long)
        index[self.types] = torch.arange(len(self.types))
        return index[ids]

    def unscored_share(self, ids: Tensor) -> float:
        """Share of tokens [N] of other types."""
        return (self.encode(ids) == UNSCORED).float().mean().item()


def build_vocabulary(ids: Tensor, full_size: int) -> Vocabulary:
    """Types of `ids` [N] by falling count, ties by id."""
    counts = torch.bincount(ids, minlength=full_size)
    order = torch.argsort(counts, descending=True, stable=True)
    return Vocabulary(order[: int((counts > 0).sum())], full_size)


@dataclass(frozen=True)
class TokenStream:
    """One text: ids [N], embedded input [N, d] (LayerNorm'ed) and output indices [N]."""

    ids: Tensor
    embedded: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def embed(ids: Tensor, table: Tensor) -> Tensor:
    """LayerNorm without affine of the table's rows: ids [N] -> [N, d]."""
    return nn.functional.layer_norm(table[ids], (table.shape[1],))


def tokenise(text: str, embedding: Embedding, tokens: int = 0) -> Tensor:
    """Token ids of `text`, at most `tokens` (0: all); cached on disk by text and tokenizer.

    Raises ValueError when the text holds fewer tokens than asked for.
    """
    if tokens:
        text = text[: 16 * tokens]  # far more characters than the tokens need
    key = hashlib.sha256((embedding.sha256 + "\n" + text).encode()).hexdigest()[:24]
    path = cache_folder() / "token_ids" / f"{key}.safetensors"
    if path.is_file():
        ids = load_file(path)["ids"]
    else:
        ids = torch.tensor(
            embedding.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"],
            dtype=torch.long,
        )
        _write(path, ids)
    if tokens and len(ids) < tokens:
        raise ValueError(f"{tokens} tokens were asked for, the text holds {len(ids)}")
    return ids[:tokens] if tokens else ids


def _write(path: Path, ids: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    save_file({"ids": ids}, partial)
    os.replace(partial, path)


def make_stream(ids: Tensor, table: Tensor, vocabulary: Vocabulary) -> TokenStream:
    """A stream of token ids [N] through an embedding table [V, d] and a vocabulary."""
    return TokenStream(ids, embed(ids, table), vocabulary.encode(ids))


def unigram_perplexity(train: Tensor, outputs: Tensor, size: int) -> float:
    """Perplexity of the scored `outputs` [N] under the add-one unigram model of `train`, both
    output indices."""
    counts = torch.bincount(train[train != UNSCORED], minlength=size).double() + 1
    return torch.exp(-(counts / counts.sum()).log()[outputs[outputs != UNSCORED]].mean()).item()


@dataclass(frozen=True)
class StreamChoice:
    """Which text, which embedding, how many tokens of each split; hashable into a run id.

    The output vocabulary holds the types of the first `vocabulary_tokens` of the training text, so
    that runs on less of it are scored on the same tokens. `width` 0 keeps the table's own width.
    """

    corpus: Corpus
    embedding: str
    embedding_sha256: str
    tokens: int
    valid_tokens: int
    test_tokens: int
    vocabulary_tokens: int
    width: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary_tokens < self.tokens:
            raise ValueError("vocabulary_tokens must not be below tokens")


@dataclass(frozen=True)
class Streams:
    """Training, validation and test stream over one vocabulary."""

    train: TokenStream
    valid: TokenStream
    test: TokenStream
    vocabulary: Vocabulary


def load_streams(choice: StreamChoice) -> Streams:
    """Tokenise, embed and restrict. RuntimeError if the embedding changed."""
    embedding = load_embedding(choice.embedding)
    if embedding.sha256 != choice.embedding_sha256:
        raise RuntimeError(f"the embedding {choice.embedding!r} changed since the run was planned")
    ids = tokenise(choice.corpus.train, embedding, choice.vocabulary_tokens)
    size = embedding.table.shape[0]
    vocabulary = build_vocabulary(ids, size)
    table = narrowed(embedding.table, choice.width)
    parts = (
        ids[: choice.tokens],
        tokenise(choice.corpus.valid, embedding, choice.valid_tokens),
        tokenise(choice.corpus.test, embedding, choice.test_tokens),
    )
    return Streams(*(make_stream(part, table, vocabulary) for part in parts), vocabulary)
