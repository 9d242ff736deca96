"""Token streams for the context experiments: one training stream, fixed validation and test.

Inputs are LayerNorm'ed embeddings of the full vocabulary. Outputs are scored in one of two ways:

``held``  The output types are those of the training text. Tokens of other types are read but not
          scored, as language modelling tools do with words outside their vocabulary. Perplexities
          are comparable inside one vocabulary only.
``full``  Every type of the tokenizer can be predicted, and every token is scored: the report's own
          measure. Types that never are a target have equal rows for ever, so that one row times
          their count stands for all of them (``lib.context.head``).
"""

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from lib.context.embedding import Embedding, load_embedding, narrowed
from lib.runs import files
from lib.runs.fetch import Unfit
from lib.runs.places import cache_folder
from lib.runs.tensors import load_tensors, save_tensors
from lib.text.corpus import Corpus

UNSCORED = -100  # the output index that cross-entropy leaves out
SCORINGS = ("full", "held")


@dataclass(frozen=True)
class Vocabulary:
    """Output types: `types` [K] token ids with a row of their own, most frequent first.

    `shared` of the other types share one row (0: they cannot be predicted); `shared_held` of these
    occur in the text that says which types are held.
    """

    types: Tensor
    full_size: int
    shared: int = 0
    shared_held: int = 0
    held: Tensor | None = None  # [full_size], whether a type is held; where there is a shared row

    @property
    def size(self) -> int:
        """Types that can be predicted."""
        return len(self.types) + self.shared

    def encode(self, ids: Tensor) -> Tensor:
        """Token ids [N] -> output indices [N].

        A type without a row is UNSCORED or, where a row is shared, K if it is held, else K + 1.
        """
        rows = len(self.types)
        index = torch.full((self.full_size,), UNSCORED, dtype=torch.long)
        if self.shared:
            index = torch.where(self.held, rows, rows + 1)
        index[self.types] = torch.arange(rows)
        return index[ids]

    def unscored_share(self, ids: Tensor) -> float:
        """Share of tokens [N] whose type is not held."""
        outside = len(self.types) + 1 if self.shared else UNSCORED
        return (self.encode(ids) == outside).float().mean().item()


def build_vocabulary(ids: Tensor, full_size: int) -> Vocabulary:
    """Types of `ids` [N] by falling count, ties by id; no others can be predicted."""
    counts = torch.bincount(ids, minlength=full_size)
    order = torch.argsort(counts, descending=True, stable=True)
    return Vocabulary(order[: int((counts > 0).sum())], full_size)


def full_vocabulary(ids: Tensor, holding: Tensor, full_size: int) -> Vocabulary:
    """All types: a row for each target of the training tokens `ids`, one for all others.

    `holding` [M]: the tokens whose types are held.
    """
    types = build_vocabulary(ids[1:], full_size).types
    held = torch.bincount(holding, minlength=full_size) > 0
    shared_held = int(held.sum() - held[types].sum())
    return Vocabulary(types, full_size, full_size - len(types), shared_held, held)


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


def tokenise(text: str, embedding: Embedding) -> Tensor:
    """Token ids [N] of a whole text; cached on disk by text and tokenizer.

    A damaged cache is set aside and made again.
    """
    key = hashlib.sha256((embedding.sha256 + "\n" + text).encode()).hexdigest()[:24]
    path = cache_folder() / "token_ids" / f"{key}.safetensors"
    if ready := files.kept(path, load_tensors):
        return ready[0]["ids"]
    found = embedding.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor(found, dtype=torch.long)
    save_tensors(path, {"ids": ids})
    return ids


def first(ids: Tensor, tokens: int) -> Tensor:
    """The first tokens of a text. Raises Unfit when it holds fewer."""
    if len(ids) < tokens:
        raise Unfit(f"{tokens:,} tokens were asked for, the text holds {len(ids):,}")
    return ids[:tokens]


def make_stream(ids: Tensor, table: Tensor, vocabulary: Vocabulary) -> TokenStream:
    """A stream of token ids [N] through an embedding table [V, d] and a vocabulary."""
    return TokenStream(ids, embed(ids, table), vocabulary.encode(ids))


def unigram_perplexity(train: Tensor, outputs: Tensor, size: int) -> float:
    """Perplexity of the scored `outputs` [N] under the add-one unigram model of `train`, both
    indices of `size` types."""
    counts = torch.bincount(train[train != UNSCORED], minlength=size).double() + 1
    return torch.exp(-(counts / counts.sum()).log()[outputs[outputs != UNSCORED]].mean()).item()


@dataclass(frozen=True)
class TrainingText:
    """What Phase 1 reads: the first `tokens` of a corpus through an embedding.

    `width` 0 keeps the table's own width. Where the embedding comes from does not count, its hash
    does.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)  # it tokenises

    corpus: Corpus
    embedding: str = field(metadata={"place": True})
    embedding_sha256: str
    tokens: int
    width: int = 0

    @property
    def token_width(self) -> int:
        """Width of the embedded tokens."""
        return self.width or self.load_embedding().table.shape[1]

    def load_embedding(self) -> Embedding:
        """The embedding. RuntimeError if it is not the one that was planned with."""
        embedding = load_embedding(self.embedding)
        if embedding.sha256 != self.embedding_sha256:
            raise RuntimeError(
                f"the embedding {self.embedding!r} changed since the run was planned"
            )
        return embedding


@dataclass(frozen=True)
class StreamChoice(TrainingText):
    """Which text, which embedding, how many tokens of each split, and how outputs are scored.

    The types of the first `vocabulary_tokens` of the training text are held, so that runs on less
    of it are scored on the same tokens.
    """

    valid_tokens: int = 0
    test_tokens: int = 0
    vocabulary_tokens: int = 0
    scoring: str = "held"

    def __post_init__(self) -> None:
        if self.vocabulary_tokens < self.tokens:
            raise ValueError("vocabulary_tokens must not be below tokens")
        if self.scoring not in SCORINGS:
            raise ValueError(f"scoring is {self.scoring!r}; allowed: {', '.join(SCORINGS)}")

    def training(self) -> TrainingText:
        """The part of it that Phase 1 reads."""
        return TrainingText(
            self.corpus, self.embedding, self.embedding_sha256, self.tokens, self.width
        )


@dataclass(frozen=True)
class Streams:
    """Training, validation and test stream over one vocabulary."""

    train: TokenStream
    valid: TokenStream
    test: TokenStream
    vocabulary: Vocabulary

    def unigram(self, split: str) -> float:
        """Perplexity of a split under the add-one unigram model of the training tokens."""
        stream = getattr(self, split)
        if self.vocabulary.shared:  # over all types
            return unigram_perplexity(self.train.ids, stream.ids, self.vocabulary.full_size)
        return unigram_perplexity(self.train.outputs, stream.outputs, self.vocabulary.size)


def training_stream(choice: TrainingText) -> TokenStream:
    """Ids and embedded tokens of the training text; every type is its own output."""
    embedding = choice.load_embedding()
    ids = first(tokenise(choice.corpus.train, embedding), choice.tokens)
    return TokenStream(ids, embed(ids, narrowed(embedding.table, choice.width)), ids)


def load_streams(choice: StreamChoice) -> Streams:
    """Tokenise, embed and restrict. RuntimeError if the embedding changed."""
    embedding = choice.load_embedding()
    holding = first(tokenise(choice.corpus.train, embedding), choice.vocabulary_tokens)
    size = embedding.table.shape[0]
    parts = (
        holding[: choice.tokens],
        first(tokenise(choice.corpus.valid, embedding), choice.valid_tokens),
        first(tokenise(choice.corpus.test, embedding), choice.test_tokens),
    )
    if choice.scoring == "held":
        vocabulary = build_vocabulary(holding, size)
    else:
        vocabulary = full_vocabulary(parts[0], holding, size)
    table = narrowed(embedding.table, choice.width)
    return Streams(*(make_stream(part, table, vocabulary) for part in parts), vocabulary)
