"""Texts for readers whose first language is not English: short sentences, few numbers."""

import re

import nbformat
import pytest

from lib import registry
from lib.parameters import FULL
from lib.results import store
from lib.runs.places import ROOT

BOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
WORDS, NUMBERS, CELL = 25, 3, 125
NUMBER = re.compile(r"(?<![\w-])(?<!Phase )[+−-]?\d[\d,.]*")  # not those of names


def detail(path) -> list[str]:
    """The cells of a notebook that say in words what was found, without their heading."""
    cells = nbformat.read(path, as_version=4).cells
    own = [cell.source for cell in cells if "detail" in cell.metadata.get("tags", [])]
    return [source.removeprefix("## In detail").strip() for source in own]


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!])\s+", text)


def faults(text: str) -> list[str]:
    """What makes a text hard to read."""
    found = [f"{len(text.split())} words"] if len(text.split()) > CELL else []
    for sentence in sentences(text):
        if len(sentence.split()) > WORDS:
            found.append(f"too long: {sentence}")
        if len(NUMBER.findall(sentence)) > NUMBERS:
            found.append(f"too many numbers: {sentence}")
    return found


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_what_was_found_is_said_in_short_sentences_with_few_numbers(path):
    cells = detail(path)
    summary = not registry.has(path.stem)  # of other notebooks: it finds nothing of its own
    outstanding = summary or registry.experiment(path.stem).pending
    assert len(cells) == (0 if outstanding else 1)
    assert [fault for cell in cells for fault in faults(cell)] == []


def below_their_reports_size() -> list:
    """Notebooks of R0 to R3 none of whose committed rows is as large as the report's."""
    own = [path for path in BOOKS if path.stem[:2] in "12 13 14 15 16 17 18".split()]
    return [path for path in own if not (store.committed(path.stem)()["size"] == FULL).any()]


@pytest.mark.parametrize("path", below_their_reports_size(), ids=lambda path: path.stem)
def test_notebooks_whose_rows_are_outstanding_hold_no_number_in_words(path):
    assert NUMBER.findall(" ".join(detail(path))) == []


def test_the_limits_see_what_they_forbid():
    assert faults("WikiText-2 gains 3.5 % [1.2, 4], R2 and Experiment 5.") == [
        "too many numbers: WikiText-2 gains 3.5 % [1.2, 4], R2 and Experiment 5."
    ]
    assert faults("word " * 25 + "end.")[0].startswith("too long")
    assert faults("A sentence. " * 70) == ["140 words"]


def test_no_notebook_calls_a_report_a_seed():
    for path in BOOKS:
        cells = nbformat.read(path, as_version=4).cells
        text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
        assert not re.search(r"\(the \*seeds\*\)|the seed's|[;(] ?seed [+−\d]", text), path.name


def test_notebooks_say_on_which_text_a_number_stands_and_not_in_which_table():
    """Tables change their order as texts come in."""
    for path in BOOKS:
        cells = nbformat.read(path, as_version=4).cells
        text = " ".join(" ".join(c.source.split()) for c in cells if c.cell_type == "markdown")
        assert not re.search(r"second table (is|only)|claim on both corpora", text), path.name
