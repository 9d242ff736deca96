"""N-gram baselines as runs: what every network is held against."""

from dataclasses import dataclass

from lib.character.analysis.ngrams import bigram_perplexity, unigram_perplexity
from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.corpus import Corpus

MODELS = {"unigram": unigram_perplexity, "bigram": bigram_perplexity}


@dataclass(frozen=True)
class NGramRun:
    """An n-gram model on a corpus: unigram or bigram."""

    corpus: Corpus
    model: str


@run_function("ngram")
def run(config: NGramRun, seed: int, place: Place) -> Outcome:
    """Perplexities of the model on valid and, where there is one, test. No seed is used."""
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
