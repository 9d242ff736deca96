"""N-gram baselines: what counting alone predicts, and what every network is held against."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib.runs.key import run_function
from lib.runs.task import Outcome, Place
from lib.text.corpus import Corpus

ADD = 0.1  # to every count, so that what is unseen has a probability


def unigram_perplexity(train: Tensor, held_out: Tensor, symbols: int) -> float:
    """Perplexity of held-out indices (M,) under the symbol frequencies of train (N,)."""
    counts = torch.bincount(train, minlength=symbols).double() + ADD
    log_probability = (counts / counts.sum()).log()
    return math.exp(-log_probability[held_out].mean().item())


def bigram_perplexity(train: Tensor, held_out: Tensor, symbols: int) -> float:
    """The same under the frequencies of pairs; the first held-out symbol is not scored."""
    return math.exp(-pairs(train, symbols)[held_out[:-1], held_out[1:]].mean().item())


def pairs(train: Tensor, symbols: int) -> Tensor:
    """Log probability [symbols, symbols] of a symbol (column) after another one in train (N,)."""
    seen = torch.bincount(train[:-1] * symbols + train[1:], minlength=symbols * symbols)
    counts = seen.view(symbols, symbols).double() + ADD
    return (counts / counts.sum(1, keepdim=True)).log()


MODELS = {"unigram": unigram_perplexity, "bigram": bigram_perplexity}


@dataclass(frozen=True)
class NGramRun:
    """An n-gram model on a corpus: unigram or bigram."""

    corpus: Corpus
    model: str


@run_function("ngram")
def run_ngram(config: NGramRun, seed: int, place: Place) -> Outcome:
    """Perplexities of the model on the whole of valid and, where there is one, test; networks leave
    out what fills no window. No seed is used."""
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
