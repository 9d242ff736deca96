"""What the three context-vector experiments share: parameters, text and the seed's settings."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from lib.checks import CheckFailed
from lib.context.block import LAYOUTS as BLOCK_LAYOUTS
from lib.context.block import ContextBlock
from lib.context.contexts import documents, layer_outputs, parallel, sequential
from lib.context.embedding import load_embedding
from lib.context.forgetting import STEPS
from lib.context.phase_one import PhaseOneSettings
from lib.context.phase_two import PhaseTwoSettings
from lib.context.token_stream import StreamChoice
from lib.context.ultrachat import load_ultrachat
from lib.parameters import Parameters, choice, folder, real, whole, words
from lib.text.corpus import Corpus, load_corpus

CHARACTERS = 7  # characters asked for per token: WikiText-2 has about four
SEED_WIDTH, SEED_CHUNK, SEED_RATE = 768, 8000, 0.002
LAYOUTS = {"every_layer": "token at every layer", "first_layer": "token at first layer"}
CLOSE = 1e-4  # largest difference that float32 sums in another order may make


@dataclass(frozen=True)
class ContextParameters(Parameters):
    """Text, embedding and the budget of Phase 2, at the full size that fits two CPU cores.

    Cut against the seed: embedding and context width 192 instead of 768 (leading directions of
    the table; weights, rate and chunk scaled so that the cell behaves as at 768), 6,000 instead
    of 529,173 tokens, outputs limited to the types of the training text.
    """

    corpus: str = choice("auto", ("auto", "wikitext-2", "python-docs", "ultrachat"))
    data_dir: str = folder()
    base: str = words("auto")
    tokens: int = whole(6_000, 100, 10_000_000)
    valid_tokens: int = whole(3_000, 50, 100_000)
    test_tokens: int = whole(6_000, 50, 100_000)
    width: int = whole(192, 0, 4_096)
    layers: int = whole(6, 1, 64)
    seeds: int = whole(3, 1, 1_000)
    batch: int = whole(512, 1, 100_000)
    epochs: int = whole(10, 1, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)
    workers: int = whole(2, 1, 64)

    TINY = {
        "base": "tiny",
        "tokens": 600,
        "valid_tokens": 200,
        "test_tokens": 200,
        "width": 16,
        "layers": 2,
        "seeds": 1,
        "batch": 128,
        "epochs": 1,
        "workers": 1,
    }
    PLACES = ("corpus", "data_dir", "workers")

    @property
    def most_tokens(self) -> int:
        """Training tokens of the largest run of the experiment."""
        return self.tokens

    def fixed_length(self) -> PhaseTwoSettings:
        """Phase 2 without early stopping: equal updates for every variant, best epoch on valid."""
        return PhaseTwoSettings(self.batch, self.learning_rate, self.epochs, patience=0)

    def load(self) -> "ContextText":
        """The text and the embedding these parameters name, printed as two lines."""
        sizes = [CHARACTERS * n for n in (self.most_tokens, self.valid_tokens, self.test_tokens)]
        if self.corpus == "ultrachat":
            corpus = load_ultrachat(*sizes)
        else:
            corpus = load_corpus(self.corpus, self.data_dir, *sizes)
        print(corpus.describe(), flush=True)
        embedding = load_embedding(self.base)
        rows, columns = embedding.table.shape
        print(
            f"embedding {embedding.name}: {rows:,} x {columns}, sha256 {embedding.sha256[:12]}; "
            f"used at width {self.width or columns}",
            flush=True,
        )
        return ContextText(corpus, self.base, embedding.sha256, columns)


@dataclass(frozen=True)
class ContextText:
    """A corpus and the embedding it is read through."""

    corpus: Corpus
    embedding: str
    embedding_sha256: str
    embedding_width: int

    @property
    def name(self) -> str:
        return self.corpus.name

    def choose(self, run: ContextParameters, **changes: Any) -> StreamChoice:
        """The streams of one run; `changes` replaces fields of StreamChoice."""
        fields = {
            "corpus": self.corpus,
            "embedding": self.embedding,
            "embedding_sha256": self.embedding_sha256,
            "tokens": run.tokens,
            "valid_tokens": run.valid_tokens,
            "test_tokens": run.test_tokens,
            "vocabulary_tokens": run.most_tokens,
            "width": run.width,
        }
        return StreamChoice(**{**fields, **changes})


def seed_phase_one(width: int, **changes: Any) -> PhaseOneSettings:
    """The seed's Phase 1 carried to another width.

    The chunk shrinks with the width, so that the dispersion term keeps its size (-sqrt(D / n)),
    and the rate grows as the initial weights do, so that a step moves them by the same share.
    """
    fields = {
        "chunk": max(1, SEED_CHUNK * width // SEED_WIDTH),
        "learning_rate": SEED_RATE * (SEED_WIDTH / width) ** 0.5,
    }
    return PhaseOneSettings(**{**fields, **changes})


def remembered(rows: pd.DataFrame) -> str:
    """Tokens until two states agree to cosine 0.99, mean over the runs that measured it.

    A run that never got there within STEPS tokens has no number, and then there is no mean: "> 8".
    Rows without ``iterations`` (windows, end to end, count models) measured nothing: "".
    """
    measured = rows.loc[rows["iterations"].notna(), "memory_tokens"]
    if measured.empty:
        return ""
    return f"> {STEPS}" if measured.isna().any() else f"{measured.astype(float).mean():.2f}"


def check_causal(layers: int, tokens: int = 24, cut: int = 16, width: int = 16) -> None:
    """Raises CheckFailed if tokens from ``cut`` on change a context before it, in any layout."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=generator)
    changed = x.clone()
    changed[cut:] += 1.0
    for layout in BLOCK_LAYOUTS:
        block = ContextBlock(width, width, layers, layout)
        before, after = (layer_outputs(block, sequential(block, t), t) for t in (x, changed))
        moved = max(
            (a[:cut] - b[:cut]).abs().max().item() for a, b in zip(before, after, strict=True)
        )
        if moved > CLOSE:
            raise CheckFailed(f"{layout}: later tokens move earlier contexts by {moved:.2g}")
    print(f"contexts of all {len(BLOCK_LAYOUTS)} layouts are causal")


def check_ways(layers: int, tokens: int = 24, width: int = 16) -> None:
    """Raises CheckFailed unless documents, and as many sweeps as tokens, equal the recurrence."""
    # in double precision: the flat layout amplifies rounding from token to token
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    for layout in BLOCK_LAYOUTS:
        block = ContextBlock(width, width, layers, layout).double()
        exact = sequential(block, x)
        for name, other in {
            "documents": documents(block, x, [tokens]),
            "parallel": parallel(block, x, tokens)[0],
        }.items():
            gap = (exact - other).abs().max().item()
            if gap > CLOSE:
                raise CheckFailed(f"{layout}: {name} differ from the recurrence by {gap:.2g}")
    print("documents and complete sweeps equal the exact recurrence in all layouts")
