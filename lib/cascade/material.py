"""The token windows and base features that the CASCADE experiments share.

Two named configurations: ``stream`` (seeds 000 and 002: headed template, shuffled records, one
stream in windows of 128) and ``chunks`` (seed 001: plain template, stored order, every record cut
from its start). Records are split into train, valid and test before anything is cut, so no record
lies in two parts. ``wikitext`` gives windows of WikiText-2 for the question of generalisation.
"""

from __future__ import annotations

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from lib.cascade.features import Features, collect, feature_key
from lib.models.pretrained import Base, load_base
from lib.text.instructions import CorpusUnavailable, load_instructions, render, split_records
from lib.text.token_stream import (
    TokenWindows,
    encode,
    joined_windows,
    record_chunks,
    stream_windows,
)

LENGTH = 128
SHARES = (0.6, 0.2, 0.2)
PACKINGS = ("stream", "chunks")


@dataclass(frozen=True)
class Material:
    """Windows and features of the three parts, keyed train / valid / test (and wikitext)."""

    base: Base
    windows: dict[str, TokenWindows]
    features: dict[str, Features]
    corpus: str
    corpus_sha256: str


def instruction_windows(
    base: Base, packing: str, counts: dict[str, int], source: str = "auto", data_dir: str = ""
) -> tuple[dict[str, TokenWindows], str, str]:
    """``counts`` windows of 128 tokens per part; also the corpus' name and SHA-256.

    Raises ``ValueError`` for an unknown packing or when the corpus is too small.
    """
    if packing not in PACKINGS:
        raise ValueError(f"packing {packing!r} is not known; allowed: {PACKINGS}")
    corpus = load_instructions(source, data_dir)
    stream = packing == "stream"
    parts = split_records(corpus, SHARES, seed=42 if stream else None)
    template, cut = ("response", joined_windows) if stream else ("plain", record_chunks)
    windows = {}
    for part, records in parts.items():
        # a window of 128 needs at most a few records: rendering 2 per window leaves some to spare
        enough = records[: 2 * counts[part] + 40] if stream else records
        texts = (render(record, template) for record in enough)
        windows[part] = cut(texts, base.tokenizer, LENGTH, f"{corpus.name} {packing} {part}").first(
            counts[part]
        )
    return windows, corpus.name, corpus.sha256


@dataclass(frozen=True)
class MaterialHandle:
    """What a run needs to find its material: small enough to be sent to another process.

    ``name`` and ``sha256`` (of base, windows and feature code) identify it in a run's id; the
    other fields only say where it is.
    """

    name: str
    sha256: str
    base: str
    packing: str
    counts: tuple[tuple[str, int], ...]
    source: str
    data_dir: str

    def open(self) -> Material:
        """The material itself; read once a process. Raises ``ValueError`` if it has changed."""
        material, digest = _opened(self.base, self.packing, self.counts, self.source, self.data_dir)
        if digest != self.sha256:
            raise ValueError("the material is not the one this run was planned for")
        return material


def material_handle(
    base: str, packing: str, counts: dict[str, int], source: str = "auto", data_dir: str = ""
) -> MaterialHandle:
    """Collect the features of the asked material (or find them) and say how to open them.

    ``counts``: windows of train, valid and test, and optionally of wikitext.
    """
    key = tuple(sorted(counts.items()))
    material, digest = _opened(base, packing, key, source, data_dir)
    return MaterialHandle(material.corpus, digest, base, packing, key, source, data_dir)


@functools.lru_cache(maxsize=4)
def _opened(
    base: str, packing: str, counts: tuple[tuple[str, int], ...], source: str, data_dir: str
) -> tuple[Material, str]:
    loaded = _base(base)
    wanted = dict(counts)
    wikitext = wanted.pop("wikitext", 0)
    windows, name, corpus = instruction_windows(loaded, packing, wanted, source, data_dir)
    if wikitext:
        windows["wikitext"] = wikitext_windows(loaded, wikitext, data_dir)
    features = {part: collect(loaded, table) for part, table in windows.items()}
    keys = " ".join(f"{part} {feature_key(loaded, windows[part])}" for part in sorted(windows))
    digest = hashlib.sha256(keys.encode()).hexdigest()
    return Material(loaded, windows, features, name, corpus), digest


@functools.lru_cache(maxsize=1)
def _base(source: str) -> Base:
    return load_base(source)


def wikitext_windows(base: Base, windows: int, data_dir: str = "") -> TokenWindows:
    """The first ``windows`` windows of WikiText-2's test file, in the base's tokens.

    Raises ``CorpusUnavailable`` when the file is not there: no other text stands in for it.
    """
    root = data_dir or os.environ.get("DEPTH_DATA", "")
    path = Path(root) / "wikitext-2" / "test.txt"
    if not root or not path.is_file():
        raise CorpusUnavailable(
            "WikiText-2 needs a folder with wikitext-2/test.txt (DEPTH_DATA or data_dir)."
        )
    # 8 characters a window-token are plenty in English; only so much is tokenised
    text = path.read_text(encoding="utf-8")[: windows * LENGTH * 8 + 1000]
    return stream_windows(encode(text, base.tokenizer), LENGTH, "wikitext-2 test").first(windows)
