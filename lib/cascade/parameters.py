"""Parameters of the CASCADE experiments, and the dataset that they name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lib.base.pretrained import BaseUnavailable
from lib.cascade.cascade_stage import Cascade
from lib.cascade.dataset import LENGTH, PACKINGS, WIKITEXT, TokenDataset, token_dataset
from lib.cascade.difficulty import CRITERIA
from lib.cascade.packing import ARRANGEMENTS
from lib.parameters import ParameterError, Parameters, choice, folder, real, whole, words
from lib.text.corpus import CorpusUnavailable
from lib.text.instructions import SOURCES
from lib.training.loop import Training

QUICK_WINDOWS = {"train_windows": 16, "valid_windows": 2, "test_windows": 4, "seeds": 1}
TINY_BASE = {"base": "tiny", "corpus": "embedded", "seeds": 1, "workers": 1}
TINY_WINDOWS = {**TINY_BASE, "train_windows": 20, "valid_windows": 4, "test_windows": 8}


class CascadeParameters(Parameters):
    """Base, corpus and amounts of text in windows of 128 tokens.

    ``base``: auto, hub, wheel, tiny, a folder, or a Llama-family model as owner/name@revision.
    """

    base: str = words("auto")
    corpus: str = choice("auto", (*SOURCES, "wikipedia"))
    data_dir: str = folder()
    train_windows: int = whole(512, 4, 100_000)
    valid_windows: int = whole(64, 2, 100_000)
    test_windows: int = whole(120, 2, 100_000)
    seeds: int = whole(3, 1, 1_000)

    def check_pack(self, hard_ratio: float, count: int = 0) -> None:
        """Raises ParameterError if so many hard tokens, at most ``count``, fill no packed
        sequence."""
        found = round(hard_ratio * LENGTH * self.train_windows)
        if min(found, count or found) < LENGTH:
            limit = f" and 'train_tokens' {count}" if count else ""
            raise ParameterError(
                f"'hard_ratio' {hard_ratio:g} of 'train_windows' {self.train_windows}{limit} give "
                f"{min(found, count or found)} tokens; allowed: at least {LENGTH}, one sequence"
            )

    @property
    def cut(self) -> str:
        """How the text is cut: ``stream`` or ``chunks``."""
        return "stream"

    def counts(self) -> dict[str, int]:
        """Windows of every part."""
        return {"train": self.train_windows, "valid": self.valid_windows, "test": self.test_windows}

    def texts(self) -> list[TokenDataset]:
        """The one dataset, described in a line; no feature is collected yet.

        A run stops if its base cannot be had. Only the quick size, and only where no base was
        named, says so and shows the plumbing on the random tiny base instead.
        """
        try:
            dataset = self._dataset(self.base)
        except BaseUnavailable as refusal:
            if self.base != "auto" or self.size != "quick":
                raise
            print(
                f"{refusal} The quick run is made with the random tiny base instead: its "
                "numbers mean nothing.",
                flush=True,
            )
            dataset = self._dataset("tiny")
        opened = dataset.open()
        parts = (f"{part} {table.tokens:,} tokens" for part, table in opened.windows.items())
        print(
            f"base {opened.base.name} ({opened.base.source}, {opened.base.parameters:,} "
            f"parameters); {opened.corpus}: {', '.join(parts)}",
            flush=True,
        )
        return [dataset]

    def _dataset(self, base: str) -> TokenDataset:
        counts = self.counts()
        try:
            return token_dataset(base, self.cut, counts, self.corpus, self.data_dir)
        except CorpusUnavailable as refusal:
            further = [part for part in counts if part in WIKITEXT]
            if not further:
                raise
            counts = {part: n for part, n in counts.items() if part not in further}
            # raises again where it is the instructions that are not to be had
            found = token_dataset(base, self.cut, counts, self.corpus, self.data_dir)
            print(f"{refusal} WikiText columns stay empty.", flush=True)
            return found


class StagedParameters(CascadeParameters):
    """R1's own numbers: 128,000 training tokens of 1,000 chunks, five stages of eight layers on
    single tokens, at most ten epochs, ended by the first that is no better on validation.

    ``cuts``: how the text is cut. ``base_head_rate``: the rate of stages that start as the base.
    ``train_tokens``: at most so many tokens a stage (0: all that reach it).
    """

    seeds: int = whole(5, 1, 1_000)
    train_windows: int = whole(1000, 4, 100_000)
    valid_windows: int = whole(100, 2, 100_000)
    test_windows: int = whole(100, 2, 100_000)
    cuts: str = choice("chunks", PACKINGS)
    stages: int = whole(5, 1, 20)
    layers: int = whole(8, 1, 64)
    criterion: str = choice("embedding_to_final", CRITERIA)
    arrangement: str = choice("single", ARRANGEMENTS)
    train_tokens: int = whole(0, 0, 10_000_000)
    epochs: int = whole(10, 1, 1_000)
    patience: int = whole(1, 0, 1_000)
    batch: int = whole(32, 1, 10_000)
    learning_rate: float = real(1.0e-4, 0.0, 1.0, above=True)
    base_head_rate: float = real(1.0e-4, 0.0, 1.0, above=True)
    weight_decay: float = real(0.01, 0.0, 1.0)

    LADDER = {
        "third": {"train_windows": 333, "valid_windows": 33, "test_windows": 33},
        "tenth": {"train_windows": 100, "valid_windows": 10, "test_windows": 10},
    }

    def check(self) -> None:
        """Raises ParameterError for a criterion that the base has no value of."""
        self.refuse("criterion", CRITERIA, "input_to_output")

    def refuse(self, name: str, options: tuple[str, ...], *refused: str) -> None:
        """Raises ParameterError if a parameter is one of the options that are of no use here."""
        if getattr(self, name) in refused:
            others = ", ".join(option for option in options if option not in refused)
            raise ParameterError(
                f"parameter {name!r} is {getattr(self, name)!r}; allowed: {others}"
            )

    @property
    def cut(self) -> str:
        return self.cuts

    def cascade(self, dataset: TokenDataset, hard_ratio: float, **changes: Any) -> Cascade:
        """The report's cascade at a hard ratio, some of it changed. A stage that speaks through
        the base's head is trained at ``base_head_rate``; where the best weights answer, the
        untrained ones are among them."""
        training = Training(
            epochs=self.epochs,
            patience=self.patience,
            batch_size=self.batch,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip=0.0,
        )
        cascade = Cascade(
            dataset,
            training,
            layers=self.layers,
            hard_ratio=hard_ratio,
            criterion=self.criterion,
            arrangement=self.arrangement,
            train_tokens=self.train_tokens,
        )
        cascade = replace(cascade, **changes)
        if cascade.head == "shared":
            training = replace(training, learning_rate=self.base_head_rate)
        if cascade.weights == "best":
            training = replace(training, validate_first=True)
        return replace(cascade, training=training)


# A zero-initialised residual stage. It answers with its best weights: with the last ones, which R1
# took, training that stops an epoch too late would undo what it has gained over the base. If these
# are the untrained ones it hands on what it was given, and the cascade ends.
ZERO_START = {"head": "shared", "start": "identity", "weights": "best", "ends_untrained": True}
IMPLIED = ("head", "weights", "ends_untrained")  # of it: no factors beside the start
