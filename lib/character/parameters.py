"""Parameters of the character experiments, and the texts that they name."""

import functools
from typing import Any

from lib.parameters import ParameterError, Parameters, choice, folder, real, whole
from lib.text.corpus import NAMES, TRAIN_SENTENCE, Corpus, TooShort, load_corpus
from lib.training.loop import Training

WINDOW = 64  # symbols


class CharacterParameters(Parameters):
    """Parameters of every character experiment, at the full size of the report's own setting."""

    corpus: str = choice("auto", NAMES)
    data_dir: str = folder()
    train_chars: int = whole(20_000, 100, 10_000_000)
    valid_chars: int = whole(5_000, 100, 100_000)
    test_chars: int = whole(20_000, 100, 900_000)
    seeds: int = whole(10, 1, 1_000)
    epochs: int = whole(30, 1, 10_000)
    patience: int = whole(5, 1, 10_000)
    learning_rate: float = real(1.0e-3, 0.0, 1.0, above=True)

    QUICK = {
        "train_chars": 3_000,
        "valid_chars": 1_500,
        "test_chars": 2_000,
        "seeds": 2,
        "epochs": 3,
    }
    TINY = {
        "train_chars": 2_000,
        "valid_chars": 1_000,
        "test_chars": 1_000,
        "seeds": 1,
        "epochs": 1,
        "workers": 1,
    }

    def load(self) -> Corpus:
        """The corpus these parameters name, printed as one line."""
        corpus = load_corpus(
            self.corpus, self.data_dir, self.train_chars, self.valid_chars, self.test_chars
        )
        print(corpus.describe(), flush=True)
        return corpus

    def longer(self, train_chars: int) -> Corpus | None:
        """The same text with more training characters; None, said aloud, where it is shorter."""
        numbers = (train_chars, self.valid_chars, self.test_chars)
        return _longer(self.corpus, self.data_dir, *numbers)

    def texts(self) -> list[Corpus]:
        """What the variants are trained on."""
        return [self.load()]

    def training(self, **changes: Any) -> Training:
        """The numbers of the training loop, some changed."""
        numbers = {
            "epochs": self.epochs,
            "patience": self.patience,
            "learning_rate": self.learning_rate,
        }
        return Training(**{**numbers, **changes})


@functools.cache
def _longer(name: str, data_dir: str, train: int, valid: int, test: int) -> Corpus | None:
    try:
        return load_corpus(name, data_dir, train, valid, test)
    except TooShort as short:
        print(f"left out are {train:,} characters: {short}", flush=True)
        return None


class TwoTexts(CharacterParameters):
    """Experiments 5-11: on real text and on the repeated sentence that R4 really used.

    Batches keep their order and only whole ones of 16 windows count.
    """

    seeds: int = whole(5, 1, 1_000)

    QUICK = {
        "train_chars": 3_300,
        "valid_chars": 1_100,
        "test_chars": 1_100,
        "seeds": 1,
        "epochs": 2,
    }
    TINY = {
        "train_chars": 1_100,
        "valid_chars": 1_100,
        "test_chars": 1_100,
        "seeds": 1,
        "epochs": 1,
        "workers": 1,
    }

    def check(self) -> None:
        batch, sentence = 16 * WINDOW + 1, len(TRAIN_SENTENCE)
        copies = -(-batch // sentence) * sentence  # the repeated text is whole sentences
        for name, least in (("train_chars", copies), ("valid_chars", batch), ("test_chars", batch)):
            if getattr(self, name) < least:
                raise ParameterError(
                    f"parameter {name!r} is {getattr(self, name)}; allowed: at least {least}, "
                    "one batch of 16 windows of 64 characters"
                )

    def texts(self) -> list[Corpus]:
        """The named corpus and ``repeated``, each described in a line (once if they are one)."""
        found = [self.load()]
        if found[0].name != "repeated":
            found.append(load_corpus("repeated", "", self.train_chars, self.valid_chars))
            print(found[1].describe(), flush=True)
        return found

    def named(self, text: Corpus) -> bool:
        """Whether a text is the one that ``corpus`` names, not the repeated one beside it."""
        return text.name != "repeated" or self.corpus == "repeated"

    def training(self, **changes: Any) -> Training:
        """The loop with batches in the same order every epoch, unless ``changes`` say otherwise."""
        return super().training(**{"shuffle": False, **changes})
