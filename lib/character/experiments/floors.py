"""Count models as rows of an experiment: the floor lines that every network is held against."""

from dataclasses import dataclass
from pathlib import Path

from lib.character.analysis.ngrams import bigram_perplexity, unigram_perplexity
from lib.text.corpus import Corpus
from lib.runs.task import Outcome

MODELS = {"unigram": unigram_perplexity, "bigram": bigram_perplexity}


@dataclass(frozen=True)
class CountRun:
    """A count model on a corpus: unigram or bigram."""

    corpus: Corpus
    model: str


def run(config: CountRun, seed: int, folder: Path) -> Outcome:
    """Perplexities of the count model on valid and, where there is one, test."""
    corpus = config.corpus
    encode, size = corpus.alphabet.encode, len(corpus.alphabet)
    train = encode(corpus.train)

    def measure(text: str) -> float | None:
        return MODELS[config.model](train, encode(text), size) if text else None

    row = {
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "params": None,
        "symbols": len(train),
        "val_ppl": measure(corpus.valid),
        "test_ppl": measure(corpus.test),
    }
    return Outcome(row)
