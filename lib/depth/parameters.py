"""Parameters of the study: the base, tokens of text, random seeds."""

from __future__ import annotations

from functools import cached_property

from lib.depth import texts
from lib.depth.texts import SOURCES, BaseName, DepthText
from lib.parameters import Parameters, choice, folder, real, whole, words

TINY = {
    "base": "tiny",
    "corpus": "embedded",
    "train_tokens": 2_048,
    "gate_tokens": 512,
    "valid_tokens": 512,
    "test_tokens": 512,
    "seeds": 1,
    "workers": 1,
}
LADDER = {
    "third": {
        "train_tokens": 33_000,
        "gate_tokens": 5_000,
        "valid_tokens": 10_000,
        "test_tokens": 10_000,
    },
    "tenth": {
        "train_tokens": 10_000,
        "gate_tokens": 3_000,
        "valid_tokens": 5_000,
        "test_tokens": 5_000,
    },
}


class DepthParameters(Parameters):
    """Tokens are counted over both texts, but for ``test_tokens``: so many of each."""

    base: str = words("auto")
    corpus: str = choice("auto", SOURCES)
    data_dir: str = folder()
    train_tokens: int = whole(100_000, 512, 400_000)
    gate_tokens: int = whole(10_000, 256, 100_000)
    valid_tokens: int = whole(20_000, 256, 80_000)
    test_tokens: int = whole(20_000, 128, 40_000)
    seeds: int = whole(5, 1, 1_000)
    rank: int = whole(8, 1, 64)
    batch_size: int = whole(4, 1, 64)
    rate_factor: float = real(1.0, 0.0, 100.0, above=True)

    # Eighteen networks of the real base take a quarter of an hour even on four windows of text: the
    # quick size shows the plumbing on the random tiny base; ``tenth`` is the first on the real one.
    QUICK = {**TINY, "seeds": 2}
    TINY = TINY
    LADDER = LADDER

    @cached_property
    def base_name(self) -> BaseName:
        """The base that ``base`` names, loaded once. Raises BaseUnavailable."""
        found = texts.loaded(self.base)
        return BaseName(self.base, found.name, found.sha256)

    @cached_property
    def layers(self) -> int:
        """Layers of the base."""
        return self.base_name.load().model.config.num_hidden_layers

    def texts(self) -> list[DepthText]:
        """The one text of the study, printed as a line."""
        tokens = {
            "train": self.train_tokens,
            "gate": self.gate_tokens,
            "valid": self.valid_tokens,
            "test": 2 * self.test_tokens,
        }
        text = texts.load(self.base_name, self.corpus, self.data_dir, tokens)
        counts = ", ".join(
            f"{split} {sum(parts[split].tokens for parts in text.parts.values()):,}"
            for split in texts.SPLITS
        )
        print(f"base {self.base_name.name}; text {text.name}, tokens: {counts}", flush=True)
        if self.base == "tiny":
            print("The base is random and tiny: the numbers of this run mean nothing.", flush=True)
        return [text]
