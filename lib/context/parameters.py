"""Parameters of the context experiments, the texts that they name, and R3's settings."""

from dataclasses import dataclass, field
from typing import Any

from lib.context.embedding import load_embedding
from lib.context.phase_one import PhaseOneSettings
from lib.context.phase_two import recipe
from lib.context.token_stream import SCORINGS, StreamChoice, tokenise
from lib.context.ultrachat import load_ultrachat
from lib.parameters import ParameterError, Parameters, choice, folder, real, whole, words
from lib.text.corpus import Corpus, CorpusUnavailable, load_corpus
from lib.text.wikipedia import splits
from lib.training.loop import Training

CORPORA = ("auto", "wikipedia", "wikitext-2", "python-docs", "embedded", "ultrachat")
CHARACTERS = 7  # asked for per token of a text that is not taken whole: English has about four
REPORT_WIDTH, REPORT_CHUNK, REPORT_RATE = 768, 8000, 0.002
REPORT_TOKENS = (56_602, 110_516, 216_119, 529_173)
LAYOUTS = {"every_layer": "token at every layer", "first_layer": "token at first layer"}
QUICK_TEXT = {
    "valid_tokens": 500,
    "test_tokens": 800,
    "vocabulary_tokens": 0,
    "patience": 0,
    "width": 48,
    "layers": 3,
}
SMALL_TEXT = {
    "valid_tokens": 3_000,
    "test_tokens": 6_000,
    "vocabulary_tokens": 0,
    "scoring": "held",
    "patience": 0,
    "seeds": 3,
}


class ContextParameters(Parameters):
    """Text, embedding and the budget of Phase 2, at the full size: R3's own.

    Cut against the report: the table of SmolLM2 is 576 wide, GPT-2's 768 (``width`` 0 keeps the
    table's own; the context is as wide, and the settings of Phase 1 are carried over, see
    ``report_phase_one``), and a number of tokens that the text does not hold becomes all it has.
    ``vocabulary_tokens``: the types of so many training tokens are those held (0: of the largest
    run). ``patience`` epochs without a new best end a Phase 2; the schedules of Experiment 18 have
    rules of their own.
    """

    corpus: str = choice("auto", CORPORA)
    data_dir: str = folder()
    base: str = words("auto")
    tokens: int = whole(56_602, 100, 10_000_000)
    valid_tokens: int = whole(20_000, 50, 100_000)
    test_tokens: int = whole(40_000, 50, 100_000)
    vocabulary_tokens: int = whole(529_173, 0, 10_000_000)
    scoring: str = choice("full", SCORINGS)
    width: int = whole(0, 0, 4_096)
    layers: int = whole(6, 1, 64)
    seeds: int = whole(5, 1, 1_000)
    batch: int = whole(512, 1, 100_000)
    epochs: int = whole(10, 1, 10_000)
    patience: int = whole(2, 0, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)

    TINY = {
        "base": "tiny",
        "tokens": 600,
        "valid_tokens": 200,
        "test_tokens": 200,
        "vocabulary_tokens": 0,
        "scoring": "held",
        "width": 16,
        "layers": 2,
        "seeds": 1,
        "batch": 128,
        "epochs": 1,
        "patience": 0,
        "workers": 1,
    }
    LADDER = {"third": {"tokens": 18_867}, "tenth": {"tokens": 5_660}}

    def check(self) -> None:
        """Raises ParameterError for a vocabulary of less text than is trained on, and for a width
        of 1, which has no directions."""
        if 0 < self.vocabulary_tokens < self.tokens:
            raise ParameterError(
                f"parameter 'vocabulary_tokens' is {self.vocabulary_tokens}; allowed: 0, or at "
                f"least 'tokens', {self.tokens}"
            )
        if self.width == 1:
            raise ParameterError("parameter 'width' is 1; allowed: 0 (the table's own), or above 1")

    @property
    def most_tokens(self) -> int:
        """Training tokens of the largest run of the experiment, where the text holds them."""
        return self.tokens

    def phase_two(self) -> Training:
        """Phase 2: best epoch on valid, among those that ``patience`` lets run (0: all)."""
        return recipe(self.batch, self.learning_rate, self.epochs, self.patience)

    def texts(self) -> list["ContextText"]:
        """What the variants are trained on."""
        return [self.load()]

    def load(self) -> "ContextText":
        """The text and the embedding these parameters name, printed as two lines."""
        corpus = self._corpus()
        print(corpus.describe(), flush=True)
        embedding = load_embedding(self.base)
        rows, columns = embedding.table.shape
        if self.width > columns:
            raise ParameterError(
                f"parameter 'width' is {self.width}; allowed: at most {columns}, as the table of "
                f"{embedding.name}"
            )
        parts = (corpus.train, corpus.valid, corpus.test)
        available, valid, test = (len(tokenise(part, embedding)) for part in parts)
        print(
            f"{available:,} tokens of training text, {valid:,} valid, {test:,} test; embedding "
            f"{embedding.name}: {rows:,} x {columns}, sha256 {embedding.sha256[:12]}; used at "
            f"width {self.width or columns}",
            flush=True,
        )
        return ContextText(
            corpus, self.base, embedding.sha256, columns, available, min(valid, test)
        )

    def _corpus(self) -> Corpus:
        asked = (max(self.most_tokens, self.vocabulary_tokens), self.valid_tokens, self.test_tokens)
        sizes = [CHARACTERS * tokens for tokens in asked]
        if self.corpus == "ultrachat":
            return load_ultrachat(*sizes)
        if self.corpus in ("auto", "wikipedia"):
            try:
                whole_text = splits()
            except CorpusUnavailable:
                if self.corpus != "auto":
                    raise
            else:  # taken whole, so that all experiments share it
                return load_corpus("wikipedia", "", *(len(text) for text in whole_text.values()))
        # characters are a guess: what counts are tokens, which are counted where they are taken
        return load_corpus(self.corpus, self.data_dir, *sizes, at_most=True)


@dataclass(frozen=True)
class ContextText:
    """A corpus and the embedding it is read through; `available` tokens of training text, at least
    `held_out` in valid and in test."""

    corpus: Corpus
    embedding: str = field(metadata={"place": True})
    embedding_sha256: str
    embedding_width: int
    available: int
    held_out: int

    @property
    def name(self) -> str:
        return self.corpus.name

    def width(self, parameters: ContextParameters) -> int:
        """Width of tokens and contexts."""
        return parameters.width or self.embedding_width

    def choose(self, parameters: ContextParameters, **changes: Any) -> StreamChoice:
        """The streams of one run; `changes` replaces fields of StreamChoice.

        Numbers of tokens that the text does not hold become all it has.
        """
        fields = {
            "corpus": self.corpus,
            "embedding": self.embedding,
            "embedding_sha256": self.embedding_sha256,
            "tokens": parameters.tokens,
            "valid_tokens": parameters.valid_tokens,
            "test_tokens": parameters.test_tokens,
            "vocabulary_tokens": parameters.vocabulary_tokens or parameters.most_tokens,
            "width": parameters.width,
            "scoring": parameters.scoring,
            **changes,
        }
        for name in ("tokens", "vocabulary_tokens"):
            fields[name] = min(fields[name], self.available)
        for name in ("valid_tokens", "test_tokens"):
            fields[name] = min(fields[name], self.held_out)
        return StreamChoice(**fields)


def report_phase_one(width: int, **changes: Any) -> PhaseOneSettings:
    """The report's Phase 1 carried from its width 768 to another.

    The chunk shrinks with the width, so that the dispersion term keeps its size (-sqrt(D / n)),
    and the rate grows as the initial weights do, so that a step moves them by the same share.
    """
    fields = {
        "chunk": max(1, REPORT_CHUNK * width // REPORT_WIDTH),
        "learning_rate": REPORT_RATE * (REPORT_WIDTH / width) ** 0.5,
    }
    return PhaseOneSettings(**{**fields, **changes})
