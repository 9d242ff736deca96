"""The toys of the notebooks: each shows what it says, in words that are read easily, in no time."""

import functools
import importlib
import re
import time

import nbformat
import pandas as pd
import pytest
import torch
from test_words import faults

from lib.figures import alternative, style
from lib.results import legible
from lib.runs.places import ROOT
from lib.toy import SPACE, Toy, aligned, bar, drawn

TOYS = {
    "00": "character.toys.next_symbol",
    "01": "character.toys.shaping",
    "02": "character.toys.memory",
    "03": "character.toys.passes",
    "04": "character.toys.layer_losses",
    "05": "character.toys.new_layer",
    "06": "character.toys.frozen_below",
    "07": "character.toys.growing",
    "08": "character.toys.hard_symbols",
    "09": "character.toys.first_layer_exit",
    "10": "character.toys.routed_symbols",
    "11": "character.toys.exit_weights",
    "12": "cascade.toys.last_layers",
    "13": "cascade.toys.chosen_tokens",
    "14": "cascade.toys.stage_by_stage",
    "15": "cascade.toys.answered_by",
    "16": "context.toys.rolling_state",
    "17": "context.toys.sweep_by_sweep",
    "18": "context.toys.laws",
    "19": "cascade.toys.gated_tokens",
    "20": "depth.toys.cost_of_exits",
    "21": "depth.toys.drafts",
    "22": "character.toys.search",
    "23": "character.toys.stretches",
    "24": "character.toys.visited_blocks",
}
SLOW = 5.0  # seconds of the processor, many times what a toy takes


@functools.cache
def made(number: str) -> Toy:
    """The toy of a notebook, made once."""
    module = importlib.import_module(f"lib.{TOYS[number]}")
    before, started = torch.random.get_rng_state(), time.process_time()
    found = module.toy()
    assert time.process_time() - started < SLOW
    assert torch.equal(before, torch.random.get_rng_state()), "it uses up random numbers"
    return found


def column(toy: Toy, name: str) -> list[float]:
    """The numbers of a column of a toy's table, units left out."""
    return [float(re.sub(r"[ %,]", "", str(value))) for value in toy.table[name]]


def columns(lines: str, name: str) -> list[tuple[str, ...]]:
    """The characters that stand above each other in the lines that begin with a name."""
    return list(zip(*(line for line in lines.splitlines() if line.startswith(name)), strict=False))


@pytest.mark.parametrize("number", TOYS)
def test_a_toy_is_read_easily_and_fits_a_page(number):
    toy = made(number)
    assert faults(toy.look) == []
    assert toy.shapes and not toy.table.empty
    page = legible.page(toy.table)
    assert max(row.count("</t") - 1 for row in page.split("</tr>")) <= legible.WIDEST
    assert not re.search(r">(nan|none)<", page.lower())
    assert "_" not in re.sub(r"<[^>]*>", "", page.split("</tr>")[0])
    assert max(map(len, toy.lines.splitlines()), default=0) <= 110
    if toy.picture:
        style.use()
        assert len(alternative.text(toy.picture())) > 40


@pytest.mark.parametrize("number", TOYS)
def test_its_notebook_shows_it_before_the_run(number):
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    tags = [cell.metadata.get("tags", []) for cell in cells]
    (place,) = (k for k, own in enumerate(tags) if "toy" in own)
    assert "mechanism" in tags[place - 1]
    package, name = TOYS[number].rsplit(".", 1)
    assert f"from lib.{package} import {name}" in cells[place].source
    assert f"notebook.toy({name}.toy())" in cells[place].source
    run = next(k for k, cell in enumerate(cells) if "experiment.run(" in cell.source
               and cell.cell_type == "code")  # fmt: skip
    assert place < run


# What a reader is told to see; ``c`` reads a column of the toy ``t``. Bounds are wide: other
# machines round otherwise.
LESSONS = {
    "passes at random leave a network usable with fewer": (
        "24",
        lambda c, t: c("trained with 1 to 4 at random")[0] < c("trained with 4")[0] / 3,
    ),
    "fitting raises every probability": (
        "00",
        lambda c, t: min(c("probability fitted")) > max(c("probability at random")),
    ),
    "the task loss reads far more than a head on shaped blocks": (
        "01",
        lambda c, t: c("task loss, nats")[2] < 0.5 * min(c("task loss, nats")[:2]),
    ),
    "shaping lowers the label-free loss": (
        "01",
        lambda c, t: (
            c("label-free loss of its contexts")[0] < min(c("label-free loss of its contexts")[1:])
        ),
    ),
    "an empty memory gives nothing, a full one later symbols too": (
        "02",
        lambda c, t: set(c("found before writing")) == {0.0} and c("later symbols")[0] > 30,
    ),
    "both passes learn": (
        "03",
        lambda c, t: max(c("pass 1")[-1], c("pass 2")[-1]) < c("pass 1")[0] / 3,
    ),
    "with a loss at every layer inner layers predict": (
        "04",
        lambda c, t: c("loss after every one (LPT)")[1] < c("loss after the last")[1] / 3,
    ),
    "an identity moves nothing, a random layer much": (
        "05",
        lambda c, t: (
            c("largest change of a logit")[2] < 0.001 and c("largest change of a logit")[1] > 1
        ),
    ),
    "what is frozen stays": ("06", lambda c, t: set(c("frozen ones moved by")) == {0.0}),
    "under LPT the first layer still predicts": (
        "07",
        lambda c, t: c("layer 1 alone, then")[5] < c("layer 1 alone, then")[2],
    ),
    "the first change has the size of the norm": (
        "08",
        lambda c, t: all(5 < c(f"change, {g}")[0] < 6 for g in ("easy", "medium", "hard")),
    ),
    "a higher threshold lets fewer stop": (
        "09",
        lambda c, t: c("symbols that stop") == sorted(c("symbols that stop"))[::-1],
    ),
    "recomputing is exact": ("10", lambda c, t: c("loss, recompute") == c("loss, by definition")),
    "all weightings are surer than right on another sentence": (
        "11",
        lambda c, t: all(
            (
                sure > right
                for sure, right in zip(
                    c("confidence, another"), c("accuracy, another"), strict=True
                )
            )
        ),
    ),
    "hard tokens have the lower cosine": (
        "12",
        lambda c, t: c("mean cosine")[0] < c("mean cosine")[1],
    ),
    "every rule takes as many tokens, all takes more": (
        "13",
        lambda c, t: len(set(c("tokens")[:-1])) == 1 and c("tokens")[-1] > c("tokens")[0],
    ),
    "every stage gets fewer tokens": (
        "14",
        lambda c, t: c("tokens") == sorted(set(c("tokens")))[::-1],
    ),
    "a stage that starts as the base changes no loss": (
        "15",
        lambda c, t: c("loss of all tokens, nats")[0] == c("loss of all tokens, nats")[1],
    ),
    "the every-layer block forgets the first word sooner": (
        "16",
        lambda c, t: c("token at every layer")[-1] < c("token at the first layer")[-1],
    ),
    "as many sweeps as words are exact": (
        "17",
        lambda c, t: c("error, token at every layer")[-1] == 0,
    ),
    "the floor is found where there is one": ("18", lambda c, t: c("floor") == [0, 50]),
    "the gate beats chance": (
        "19",
        lambda c, t: c("loss of all tokens, nats")[1] < c("loss of all tokens, nats")[2],
    ),
    "reading at every exit costs more than the base from the third on": (
        "20",
        lambda c, t: c("head reads once")[-1] == 1 and c("head reads at every exit")[2] > 1,
    ),
    "drafts are kept and the text is that without them": (
        "21",
        lambda c, t: sum(c("kept")) > 0 and "the same as" in t.look and "NOT" not in t.look,
    ),
    "of a later number the value chosen so far is not run again": (
        "22",
        lambda c, t: c("of these new")[1] < c("runs")[1],
    ),
    "slices do not overlap": (
        "23",
        lambda c, t: (
            len(t.table) == 5
            and max("".join(column).count("█") for column in columns(t.lines, "slice")) == 1
        ),
    ),
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_toy_shows_what_it_says(lesson):
    number, holds = LESSONS[lesson]
    toy = made(number)
    assert holds(functools.partial(column, toy), toy), toy.table.to_string()


def test_every_toy_has_a_lesson_and_a_notebook():
    assert {number for number, _ in LESSONS.values()} == set(TOYS)
    files = [p for p in (ROOT / "lib").glob("*/toys/*.py") if "def toy()" in p.read_text("utf-8")]
    assert sorted(f"{p.parent.parent.name}.toys.{p.stem}" for p in files) == sorted(TOYS.values())


def test_marks_stand_under_their_tokens():
    assert aligned([" a", "b", "\n"], {"stops": [1, 22, ""]}) == (
        f"       {SPACE}a b  ↵\nstops  1  22"
    )
    assert aligned("ab", {"x": "-="}) == "   ab\nx  -="  # single marks need no gap
    with pytest.raises(ValueError, match="1 marks in 'x' for 2 tokens"):
        aligned("ab", {"x": "-"})


def test_bars_and_random_numbers():
    assert (bar(1, 2, 4), bar(0, 2), bar(0, 0)) == ("██", "", "")
    with drawn():
        first = torch.rand(2)
    with drawn():
        assert torch.equal(first, torch.rand(2))
    assert isinstance(Toy("", {"x": (1, 2)}).table, pd.DataFrame)
    assert Toy("", {"x": (1, 2), "loss": ()}).spoken_shapes() == "x (1, 2); loss ()"
