"""Instruction records (Alpaca) and the two templates of the CASCADE reports.

A record has an instruction, an optional input and an output. Alpaca comes from a local JSON file
(``$DEPTH_DATA/alpaca/*.json`` or ``data_dir``) or from the hub at a pinned revision; a small
embedded set is used where it is asked for by name (its name is in every result).
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from lib.runs import fetch
from lib.text.corpus import CorpusUnavailable, data_folder, read_text
from lib.text.records import Record, embedded_records

HUB_NAME = "tatsu-lab/alpaca"
HUB_REVISION = "dce01c9b08f87459cf36a430d809084718273017"
SOURCES = ("auto", "local", "hub", "embedded")


@dataclass(frozen=True)
class Instructions:
    """Records in their stored order; ``sha256`` is of their canonical JSON."""

    records: tuple[Record, ...]
    name: str
    sha256: str


def load_instructions(source: str = "auto", data_dir: str = "") -> Instructions:
    """Load records. ``auto`` = local file, else hub.

    Raises ``ValueError`` for an unknown source, ``CorpusUnavailable`` when what was asked for is
    not there.
    """
    if source not in SOURCES:
        raise ValueError(f"instruction source {source!r} is not known; allowed: {SOURCES}")
    if source == "embedded":
        return _named(list(embedded_records()), "embedded")
    refusals = []
    for name, load in (("local", lambda: _local(data_dir)), ("hub", _hub)):
        if source in ("auto", name):
            try:
                return load()
            except CorpusUnavailable as refusal:
                refusals.append(str(refusal))
    raise CorpusUnavailable("; ".join(refusals))


def split_records(
    corpus: Instructions, shares: tuple[float, float, float], seed: int | None = 42
) -> dict[str, tuple[Record, ...]]:
    """Disjoint train / valid / test records by ``shares`` (sum 1).

    ``seed`` shuffles first, None keeps the stored order (R1). R2 also shuffles with 42,
    but by another library's generator: its order is not this one. Raises ``ValueError`` for shares
    that are not three positive numbers of sum 1, ``Unfit`` for too few records.
    """
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares must be three positive numbers with sum 1, not {shares}")
    records = list(corpus.records)
    if seed is not None:
        random.Random(seed).shuffle(records)
    first = round(len(records) * shares[0])
    second = first + round(len(records) * shares[1])
    parts = records[:first], records[first:second], records[second:]
    if not all(parts):
        raise fetch.Unfit(f"{len(records)} records are too few for shares {shares}")
    return dict(zip(("train", "valid", "test"), map(tuple, parts), strict=True))


def _named(records: list[Record], name: str) -> Instructions:
    canonical = json.dumps([[r.instruction, r.input, r.output] for r in records])
    return Instructions(tuple(records), name, hashlib.sha256(canonical.encode()).hexdigest())


def _local(data_dir: str) -> Instructions:
    folder = data_folder(data_dir, "alpaca")
    if folder is None:
        raise CorpusUnavailable("No data folder is named (DEPTH_DATA or data_dir).")
    files = sorted(folder.glob("*.json" if folder.name == "alpaca" else "alpaca*.json"))
    if not files:
        raise CorpusUnavailable(f"{folder} holds no records (alpaca/*.json).")
    if len(files) > 1:
        raise fetch.Unfit(f"{folder} holds {len(files)} JSON files; one is allowed")
    try:
        rows = json.loads(read_text(files[0]))
    except CorpusUnavailable as refusal:  # a file that is there and damaged: no hub instead of it
        raise fetch.Unfit(str(refusal)) from None
    except json.JSONDecodeError as error:
        raise fetch.Unfit(f"{files[0].name} is no JSON: {error}") from None
    if not isinstance(rows, list):
        kind = type(rows).__name__
        raise fetch.Unfit(f"{files[0].name} holds no list of records but a {kind}")
    name = files[0].stem
    records = _records(rows, files[0].name)
    return _named(records, name if name.startswith("alpaca") else f"alpaca_{name}")


def _records(rows: list[dict], name: str) -> list[Record]:
    """Rows of a JSON file or of the hub; ``Unfit`` names the first that is no record."""
    records = []
    for number, row in enumerate(rows):
        fields = row.get if isinstance(row, dict) else {}.get
        said = [fields("instruction"), fields("output"), fields("input") or ""]
        if not all(isinstance(text, str) for text in said) or not said[0]:
            raise fetch.Unfit(f"row {number} of {name} lacks an instruction or an output")
        instruction, output, given = said
        records.append(Record(instruction, given, output))
    return records


def _hub() -> Instructions:
    try:
        rows = fetch.hub_rows(HUB_NAME, HUB_REVISION, "train")
    except fetch.Unavailable as missing:
        raise CorpusUnavailable(str(missing)) from missing
    return _named(_records(rows, HUB_NAME), "alpaca-hub")
