"""The text of the study: instructions and articles in equal parts, in windows of 128 tokens.

Articles are windows spread evenly over a split, so that a small test stands for many of them;
instructions are shuffled, and the first of a split are taken. ``gate`` is training text that no
network is trained on: the exit gates are fitted there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lib.base.pretrained import Base, load_base
from lib.depth.llama import of_base
from lib.runs.fetch import Unfit
from lib.text import instructions, wikipedia
from lib.text.corpus import CorpusUnavailable
from lib.text.instructions import Instructions, load_instructions, split_records
from lib.text.records import render
from lib.text.token_stream import TokenWindows, encode, joined_windows, stream_windows

LENGTH = 128  # tokens a window
BATCH = 16  # windows that are measured at once
SHARES = (0.8, 0.1, 0.1)  # of records in train, valid, test
SOURCES = (*instructions.SOURCES, "wikipedia")
SPLITS = ("train", "gate", "valid", "test")


@dataclass(frozen=True)
class BaseName:
    """Which base model a run stands on: where it is loaded from, and what it must be."""

    source: str
    name: str
    sha256: str

    def load(self) -> Base:
        """The base itself, kept for the process. Raises ValueError if it is another one."""
        base = loaded(self.source)
        if base.sha256 != self.sha256:
            raise ValueError(f"the base {self.source!r} is not the one that this run was made for")
        return base


@cache
def loaded(source: str) -> Base:
    """A base, loaded once a process. Raises what ``load_base`` and ``of_base`` raise."""
    base = load_base(source)
    of_base(base.model)  # refused here, before anything is trained
    return base


@dataclass(frozen=True)
class Windows:
    """Token ids [windows, length + 1]: inputs are all but the last, labels all but the first."""

    ids: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def inputs(self) -> Tensor:
        return self.ids[:, :-1]

    @property
    def labels(self) -> Tensor:
        return self.ids[:, 1:]

    @property
    def tokens(self) -> int:
        return self.inputs.numel()

    def batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels [B, T] of BATCH windows at a time, for what is measured."""
        for ids in self.ids.split(BATCH):
            ids = ids.to(device)
            yield ids[:, :-1], ids[:, 1:]


@dataclass(frozen=True)
class DepthText:
    """Windows of every split of every text, as ``parts[text][split]``; ``sha256`` over all ids."""

    name: str
    sha256: str
    parts: dict[str, dict[str, Windows]]

    @property
    def texts(self) -> list[str]:
        return list(self.parts)

    def joined(self, split: str) -> Windows:
        """The windows of a split, both texts one after the other."""
        return Windows(torch.cat([self.parts[text][split].ids for text in self.parts]))


def load(base: BaseName, source: str, data_dir: str, tokens: dict[str, int]) -> DepthText:
    """Windows of both texts; ``tokens`` a split, rounded up to whole windows of each text.

    ``source`` is that of the instructions; ``embedded`` also takes the prose of the repository for
    the articles. ``wikipedia`` is articles alone, as many tokens as both texts together; ``auto``
    comes to that, and says so, where there are no instructions.
    Raises CorpusUnavailable for a text that is not there, Unfit for too little.
    """
    tokenizer = base.load().tokenizer
    records = _instructions(source, data_dir)
    each = LENGTH if records is None else 2 * LENGTH
    counts = {split: -(-tokens[split] // each) for split in SPLITS}
    found = {}
    if records is not None:
        name = "embedded" if records.name == "embedded" else "alpaca"
        found[name] = _from_records(records, tokenizer, counts)
    if "embedded" in found:
        found["embedded-prose"] = _from_prose(_embedded_prose(records), tokenizer, counts)
    else:
        found["wikipedia"] = _from_prose(wikipedia.splits(), tokenizer, counts)
    digest = hashlib.sha256("+".join(found).encode())
    for parts in found.values():
        for split in SPLITS:
            digest.update(parts[split].ids.numpy().tobytes())
    return DepthText("+".join(found), digest.hexdigest(), found)


def _instructions(source: str, data_dir: str) -> Instructions | None:
    """The instructions, or None for articles alone."""
    if source == "wikipedia":
        return None
    try:
        return load_instructions(source, data_dir)
    except CorpusUnavailable as missing:
        if source != "auto":
            raise
        print(f"Alpaca is not at hand ({missing}); wikipedia alone is used.", flush=True)
        return None


def _from_records(records: Instructions, tokenizer, counts: dict[str, int]) -> dict[str, Windows]:
    """One stream of records a split, an end-of-sequence token after each."""
    parts = split_records(records, SHARES)
    wanted = {**counts, "train": counts["train"] + counts["gate"]}
    found = {}
    for split, own in parts.items():
        texts = (render(record, "response") for record in own)
        windows = joined_windows(texts, tokenizer, LENGTH, f"instructions, {split}", wanted[split])
        _enough(f"instructions, {split}", windows, wanted[split], split)
        found[split] = _ids(windows.first(wanted[split]))
    return _parted(found, counts)


def _from_prose(splits: dict[str, str], tokenizer, counts: dict[str, int]) -> dict[str, Windows]:
    """Windows spread evenly over the text of each split."""
    wanted = {**counts, "train": counts["train"] + counts["gate"]}
    found = {}
    for split, text in splits.items():
        windows = stream_windows(encode(text, tokenizer), LENGTH, f"articles, {split}")
        _enough(f"articles, {split}", windows, wanted[split], split)
        found[split] = _ids(windows)[_spread(len(windows), wanted[split])]
    return _parted(found, counts)


def _enough(name: str, windows: TokenWindows, wanted: int, split: str) -> None:
    if len(windows) < wanted:
        raise Unfit(
            f"{name}: {len(windows)} windows of {LENGTH} tokens are there, {wanted} were asked for;"
            f" allowed: a smaller {split}_tokens{' or gate_tokens' * (split == 'train')}"
        )


def _ids(windows: TokenWindows) -> Tensor:
    """Inputs and the last label [windows, length + 1]."""
    return torch.cat([windows.inputs, windows.labels[:, -1:]], dim=1)


def _spread(there: int, wanted: int) -> Tensor:
    """Places [wanted] spread evenly over all."""
    return torch.linspace(0, there - 1, wanted).round().long()


def _parted(found: dict[str, Tensor], counts: dict[str, int]) -> dict[str, Windows]:
    """``gate``: windows of the training text, evenly spread, that training does not see."""
    train = found["train"]
    held = _spread(len(train), counts["gate"])
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[held] = False
    parts = {**found, "train": train[kept], "gate": train[held]}
    return {split: Windows(parts[split].contiguous()) for split in SPLITS}


def _embedded_prose(records: Instructions) -> dict[str, str]:
    """The answers of the embedded records as running text, in three parts."""
    text = " ".join(record.output for record in records.records)
    first, second = len(text) * 6 // 10, len(text) * 8 // 10
    return {"train": text[:first], "valid": text[first:second], "test": text[second:]}
