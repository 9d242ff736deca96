"""The token windows and base features that the CASCADE experiments share.

Two packings: ``stream`` (R0 and R2: headed template, shuffled records, one stream in windows of
128) and ``chunks`` (R1: plain template, stored order, every record cut from its start). Records are
split into train, valid and test before anything is cut, so no record lies in two parts. WikiText-2
stands beside them for the question of generalisation: ``wikitext`` is scored (from its test file),
``wikitext_train`` and ``wikitext_valid`` are the beginning and the end of its validation file, so
that no article lies in two of them either.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from lib.base.pretrained import Base, load_base
from lib.cascade.features import FEATURES_VERSION, TokenFeatures, token_features
from lib.runs.fetch import Unfit
from lib.text.corpus import FILES, CorpusUnavailable, data_folder, read_text
from lib.text.instructions import load_instructions, split_records
from lib.text.records import render
from lib.text.token_stream import (
    TokenWindows,
    encode,
    joined_windows,
    record_chunks,
    stream_windows,
)
from lib.text.wikipedia import BETWEEN, splits

LENGTH = 128
SHARES = (0.6, 0.2, 0.2)
PACKINGS = ("stream", "chunks")
PARTS = ("train", "valid", "test")
CPU = torch.device("cpu")
# part -> split of WikiText-2 and whether it is taken from its end
WIKITEXT = {
    "wikitext": ("test", False),
    "wikitext_train": ("valid", False),
    "wikitext_valid": ("valid", True),
}


@dataclass(frozen=True)
class OpenDataset:
    """Base and windows of the parts train, valid, test (and ``WIKITEXT``); features on demand."""

    base: Base
    windows: dict[str, TokenWindows]
    corpus: str
    corpus_sha256: str
    held: dict[str, TokenFeatures] = field(default_factory=dict, compare=False)

    def features(self, part: str) -> TokenFeatures:
        """The base's features of a part: collected at the first call, or read from the cache."""
        if part not in self.held:
            self.held[part] = token_features(self.base, self.windows[part])
        return self.held[part]

    def identity(self) -> dict[str, str]:
        """The columns that say which corpus and which base a row stands on."""
        return {
            "corpus": self.corpus,
            "corpus_sha256": self.corpus_sha256,
            "base": self.base.name,
            "base_source": self.base.source,
            "base_sha256": self.base.sha256,
        }


@dataclass(frozen=True)
class TokenDataset:
    """What a run needs to find its tokens: small enough to be sent to another process.

    ``name`` and ``sha256`` (of base, windows and FEATURES_VERSION) identify it in a run's key; the
    other fields only say where it is.
    """

    name: str
    sha256: str
    base: str
    packing: str
    counts: tuple[tuple[str, int], ...]
    source: str
    data_dir: str
    LIBRARIES: ClassVar[tuple[str, ...]] = ("transformers",)

    def open(self, device: torch.device = CPU) -> OpenDataset:
        """The dataset itself, its base on ``device``; read once a process.

        Raises ValueError if base or text have changed since.
        """
        opened, digest = _opened(self.base, self.packing, self.counts, self.source, self.data_dir)
        if digest != self.sha256:
            raise ValueError("the dataset is not the one this run was planned for")
        opened.base.model.to(device)
        return opened


def token_dataset(
    base: str, packing: str, counts: dict[str, int], source: str = "auto", data_dir: str = ""
) -> TokenDataset:
    """Name the asked tokens and say how to open them. No feature is collected.

    ``counts``: windows of train, valid and test, and optionally of the parts of WIKITEXT.
    """
    key = tuple(sorted(counts.items()))
    opened, digest = _opened(base, packing, key, source, data_dir)
    return TokenDataset(opened.corpus, digest, base, packing, key, source, data_dir)


@functools.lru_cache(maxsize=4)
def _opened(
    base: str, packing: str, counts: tuple[tuple[str, int], ...], source: str, data_dir: str
) -> tuple[OpenDataset, str]:
    loaded = _base(base)
    wanted = dict(counts)
    further = {part: wanted.pop(part) for part in WIKITEXT if part in wanted}
    windows, name, corpus = instruction_windows(loaded, packing, wanted, source, data_dir)
    for part, count in further.items():
        windows[part] = wikitext_windows(loaded, count, data_dir, *WIKITEXT[part])
    lines = [f"{part} {windows[part].sha256}" for part in sorted(windows)]
    digest = hashlib.sha256("\n".join([loaded.sha256, str(FEATURES_VERSION), *lines]).encode())
    return OpenDataset(loaded, windows, name, corpus), digest.hexdigest()


@functools.lru_cache(maxsize=1)
def _base(source: str) -> Base:
    return load_base(source)


def instruction_windows(
    base: Base, packing: str, counts: dict[str, int], source: str = "auto", data_dir: str = ""
) -> tuple[dict[str, TokenWindows], str, str]:
    """``counts`` windows of 128 tokens per part; also the corpus' name and SHA-256.

    Raises ``ValueError`` for an unknown packing or when the corpus is too small.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing {packing!r} is not known; allowed: {PACKINGS}")
    stream = packing == "stream"
    parts, corpus, sha256 = texts_by_part(source, data_dir, stream)
    cut = joined_windows if stream else record_chunks
    windows = {}
    for part, texts in parts.items():
        name = f"{corpus} {packing} {part}"
        found = cut(texts, base.tokenizer, LENGTH, name, at_most=counts[part])
        windows[part] = found.first(counts[part])
    return windows, corpus, sha256


def texts_by_part(
    source: str, data_dir: str, stream: bool
) -> tuple[dict[str, Iterable[str]], str, str]:
    """Texts of train, valid and test, the corpus' name and SHA-256.

    ``auto``: Alpaca from a folder or the hub; where neither is there, Wikipedia's articles, and
    where those cannot be had either the embedded records, both said aloud.
    """
    if source == "wikipedia":
        found = splits()
        text = "\x1e".join(found.values())
        return (
            {part: whole.split(BETWEEN) for part, whole in found.items()},
            "wikipedia",
            hashlib.sha256(text.encode()).hexdigest(),
        )
    try:
        corpus = load_instructions(source, data_dir)
    except CorpusUnavailable as missing:
        if source != "auto":
            raise
        print(f"Alpaca is not at hand ({missing}); wikipedia is used instead.", flush=True)
        try:
            return texts_by_part("wikipedia", data_dir, stream)
        except CorpusUnavailable as further:
            print(f"{further}; the small embedded records are used instead.", flush=True)
            corpus = load_instructions("embedded")
    parts = split_records(corpus, SHARES, seed=42 if stream else None)
    template = "response" if stream else "plain"
    texts = {part: (render(r, template) for r in records) for part, records in parts.items()}
    return texts, corpus.name, corpus.sha256


def wikitext_windows(
    base: Base, windows: int, data_dir: str = "", split: str = "test", last: bool = False
) -> TokenWindows:
    """The first (or ``last``) windows of a split of WikiText-2, in the base's tokens.

    Raises ``CorpusUnavailable`` when its file is not there: no other text stands in for it; and
    ``Unfit`` when first and last windows of so many would meet.
    """
    folder = data_folder(data_dir, "wikitext-2")
    names = FILES[split]
    paths = [folder / name for name in names if (folder / name).is_file()] if folder else []
    if not paths:
        raise CorpusUnavailable(
            f"WikiText-2 needs a folder with wikitext-2/{names[0]} (DEPTH_DATA or data_dir)."
        )
    text = read_text(paths[0])
    # 8 characters a window-token are plenty in English; only so much is tokenised
    enough = windows * LENGTH * 8 + 1000
    # of valid the first and the last windows are taken, which must not meet
    if enough * (1 if split == "test" else 2) > len(text):
        raise Unfit(f"{windows} windows are too many for the {split} split of WikiText-2")
    stream = encode(text[-enough:] if last else text[:enough], base.tokenizer)
    if last:
        stream = stream[-(windows * LENGTH + 1) :]
    return stream_windows(stream, LENGTH, f"wikitext-2 {split}").first(windows)
