"""Instruction records (Alpaca) and the two templates of the CASCADE seeds.

A record has an instruction, an optional input and an output. Alpaca comes from a local JSON file
(``$DEPTH_DATA/alpaca/*.json`` or ``data_dir``) or from the hub at a pinned revision; a small
embedded set serves where neither exists, and is only used when it is asked for by name or when
``auto`` has said in one sentence that it falls to it (its name is in every result).
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass

from lib.text import hub
from lib.text.corpus import CorpusUnavailable, data_folder

HUB_NAME = "tatsu-lab/alpaca"
HUB_REVISION = "dce01c9b08f87459cf36a430d809084718273017"
SOURCES = ("auto", "local", "hub", "embedded")
TEMPLATES = ("response", "plain")


@dataclass(frozen=True)
class Record:
    """What is asked, what it is asked about (may be empty), and the answer."""

    instruction: str
    input: str
    output: str


@dataclass(frozen=True)
class Instructions:
    """Records in their stored order; ``sha256`` is of their canonical JSON."""

    records: tuple[Record, ...]
    name: str
    sha256: str


def load_instructions(source: str = "auto", data_dir: str = "") -> Instructions:
    """Load records. ``auto`` = local file, else hub, else the embedded set (said aloud).

    Raises ``ValueError`` for an unknown source, ``CorpusUnavailable`` when ``local`` or ``hub``
    was asked for and is not there.
    """
    if source not in SOURCES:
        raise ValueError(f"instruction source {source!r} is not known; allowed: {SOURCES}")
    if source == "embedded":
        return _named(_embedded(), "alpaca-form-embedded")
    refusals = []
    if source in ("auto", "local"):
        try:
            return _local(data_dir)
        except CorpusUnavailable as refusal:
            refusals.append(str(refusal))
    if source in ("auto", "hub"):
        try:
            return _hub()
        except CorpusUnavailable as refusal:
            refusals.append(str(refusal))
    if source == "auto":
        print(
            "Alpaca is not at hand (" + " ".join(refusals) + "); "
            "the small embedded instruction set is used instead."
        )
        return _named(_embedded(), "alpaca-form-embedded")
    raise CorpusUnavailable(" ".join(refusals))


def split_records(
    corpus: Instructions, shares: tuple[float, float, float], seed: int | None = 42
) -> dict[str, tuple[Record, ...]]:
    """Disjoint train / valid / test records by ``shares`` (sum 1).

    ``seed`` shuffles first, None keeps the stored order (seed 001). Seed 002 also shuffles with 42,
    but by another library's generator: its order is not this one. Raises ``ValueError`` for shares
    that are not three positive numbers of sum 1, or for too few records.
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
        raise ValueError(f"{len(records)} records are too few for shares {shares}")
    return dict(zip(("train", "valid", "test"), map(tuple, parts), strict=True))


def render(record: Record, template: str) -> str:
    """The text of one record.

    ``response``: headed sections (seeds 000, 002); ``plain``: the three fields, one per line, an
    empty input leaving a blank line (seed 001). Raises ``ValueError`` for another template.
    """
    if template == "response":
        asked = f"### Input:\n{record.input}\n\n" if record.input else ""
        return f"### Instruction:\n{record.instruction}\n\n{asked}### Response:\n{record.output}"
    if template == "plain":
        return f"{record.instruction}\n{record.input}\n{record.output}"
    raise ValueError(f"template {template!r} is not known; allowed: {TEMPLATES}")


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
        raise ValueError(f"{folder} holds {len(files)} JSON files; one is allowed")
    name = files[0].stem
    return _named(
        _records(json.loads(files[0].read_text(encoding="utf-8")), files[0].name),
        name if name.startswith("alpaca") else f"alpaca_{name}",
    )


def _records(rows: list[dict], name: str) -> list[Record]:
    """Rows of a JSON file or of the hub; ``ValueError`` names the first that is no record."""
    records = []
    for number, row in enumerate(rows):
        if not (isinstance(row, dict) and row.get("instruction") and "output" in row):
            raise ValueError(f"row {number} of {name} lacks an instruction or an output")
        records.append(Record(row["instruction"], row.get("input") or "", row["output"]))
    return records


def _hub() -> Instructions:
    if not hub.reachable():
        raise CorpusUnavailable("The hub did not answer within 3 s.")
    from datasets import load_dataset

    try:
        rows = load_dataset(HUB_NAME, revision=HUB_REVISION, split="train")
    except Exception as error:
        raise CorpusUnavailable(f"The hub refused {HUB_NAME}: {error}") from error
    return _named(_records(rows, HUB_NAME), "alpaca-hub")


def _embedded() -> list[Record]:
    """108 records about everyday things, put together from small tables: short ones and 12 long."""
    things = {
        "bread": ("flour, water, yeast and salt", "an oven", "the crust sounds hollow"),
        "tea": ("dried leaves and hot water", "a pot", "the colour is a clear amber"),
        "a kite": ("paper, thin sticks and string", "a steady wind", "the line stays tight"),
        "a garden": ("soil, seeds and patience", "a spade", "the first green shoots appear"),
        "a map": ("measurements of many places", "a compass", "every road meets its neighbour"),
        "a song": ("a melody and a few honest words", "a quiet room", "people hum it later"),
        "a bridge": ("stone, steel and careful sums", "a crane", "it carries twice its load"),
        "soup": ("vegetables, water and herbs", "a large pan", "the carrots are soft"),
        "a letter": ("a greeting, some news and a wish", "a pen", "nothing is left to add"),
        "a clock": ("gears, a spring and two hands", "a steady bench", "it loses no minute a day"),
        "paper": ("wood fibre and a great deal of water", "a press", "it tears evenly"),
        "a boat": ("planks, pitch and a mast", "a dry dock", "it floats level when empty"),
    }
    kinds = (
        (
            "Explain how {a} is made.",
            "",
            "To make {a} you need {b}. Work slowly, use {c}, and do "
            "not hurry the last step. You know that it is ready when {d}. Most beginners stop too "
            "early, so wait a little longer than you think.",
        ),
        (
            "List three facts about {a}.",
            "",
            "1. It is made of {b}.\n2. The usual tool is {c}.\n"
            "3. A good one can be told from a bad one because {d}.",
        ),
        (
            "Rewrite the sentence in a friendlier tone.",
            "Do not touch {a} before {d}.",
            "Please wait until {d}; after that you are very welcome to try {a}.",
        ),
        (
            "Answer the question.",
            "Which tool helps most with {a}?",
            "The most helpful tool is {c}. With it, and with {b}, the work takes less than an hour.",  # noqa: E501
        ),
        (
            "Write a short story about {a}.",
            "",
            "Once a child wanted {a} more than anything else. "
            "She gathered {b}, borrowed {c} from her uncle, and worked for {n} days. On the last "
            "evening she saw that {d}, and she laughed aloud.",
        ),
        (
            "Classify the following item as a tool, a food or a thing.",
            "{a}",
            "The item belongs with other things that people make by hand from {b}.",
        ),
        (
            "How long does it take to make {a}?",
            "",
            "About {n} hours for the first try, and half of that later. You may stop when {d}.",
        ),
        (
            "Give one reason to learn this.",
            "making {a}",
            "It teaches patience: without {c} and a "
            "calm hand you will not see the moment when {d}.",
        ),
    )
    records = []
    for i, (a, (b, c, d)) in enumerate(things.items()):
        own = [
            Record(*(part.format(a=a, b=b, c=c, d=d, n=3 + (7 * i + 5 * j) % 24) for part in kind))
            for j, kind in enumerate(kinds)
        ]
        # one long record a thing, so that chunks of 129 tokens exist; its sentences are its own
        records += [
            *own,
            Record(f"Write an essay about {a}.", "", ESSAY.format(a=a, b=b, c=c, d=d)),
        ]
    return records


ESSAY = (
    "Of all the ordinary things around us, few are as easy to overlook as {a}. Nobody remembers "
    "who first thought of putting {b} to such a use, and yet the idea has travelled through every "
    "country and has been handed from parents to children for longer than anyone can count.\n\n"
    "What strikes a visitor first is how little is needed. Someone brings {b}, somebody else lends "
    "{c}, and an afternoon is set aside. The work itself is slow, and that is part of its charm: "
    "while the hands are busy there is time to talk, to listen and to look out of the window.\n\n"
    "There are failures, of course. A beginner tends to trust the clock more than the senses, and "
    "stops before {d}. The experienced maker waits, tries again, and writes down what went wrong "
    "this time. After a dozen attempts the notes are no longer read, because the fingers know "
    "them.\n\nWhether a machine could do all of this better is a fair question. It would be "
    "faster, and every piece would look the same. But those who have once seen how {d}, in their "
    "own kitchen or yard and after their own labour, seldom wish to leave the pleasure of {a} to "
    "an engine."
)
