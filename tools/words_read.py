"""Whether the words of a notebook were read beside the verdicts that now stand.

Its tables and figures are made from the results; what was found is told by hand. So the cell that
tells it keeps, in its metadata, the verdicts of the day on which somebody read it beside them:
those of its own claims, with their value to two digits, and those of notebooks that it cites.
"""

import re

import nbformat
import pandas as pd
from notebook_files import tagged

from lib import registry
from lib.results import scoreboard

KEY = "read_beside"
TELLING = ("## In detail", "## What was not tested")
CITED = re.compile(r"notebook\s+(\d\d)")


def standing(book: nbformat.NotebookNode, slug: str, claims: pd.DataFrame) -> dict[str, str]:
    """The verdicts that the words of a notebook rest on, by claim, text and size.

    ``claims`` has the columns of claims.csv. A claim of the notebook itself has its value, to two
    digits; one of a notebook that its words cite has not: they say how that came out, not by how
    much.
    """
    found = {}
    for other, own in [(slug, True), *((name, False) for name in cited(book, slug))]:
        ids = {claim.id for claim in registry.experiment(other).claims}
        for row in claims[claims["id"].isin(ids)].itertuples():
            value = f" {row.ours:.2g}" if own and pd.notna(row.ours) else ""
            found[f"{row.id}, {row.corpus}, {row.size}"] = row.verdict + value
    return found


def cited(book: nbformat.NotebookNode, slug: str) -> list[str]:
    """The other experiments whose notebooks are named where this one says what was found, and what
    was not tested."""
    told = [cell.source for cell in book.cells if cell.source.startswith(TELLING)]
    words = " ".join(told)
    numbers = set(CITED.findall(words))
    return [name for name in registry.experiments() if name[:2] in numbers and name != slug]


def mark(book: nbformat.NotebookNode, slug: str) -> None:
    """Note the verdicts that now stand as those beside which the words were read.

    Raises ValueError if no one cell tells what was found.
    """
    tagged(book, "detail").metadata[KEY] = standing(book, slug, scoreboard.saved())


def moved(book: nbformat.NotebookNode, slug: str, claims: pd.DataFrame) -> list[str]:
    """Which verdicts have come, gone or changed since the words of a notebook were read; none of a
    notebook without such words."""
    cells = [cell for cell in book.cells if "detail" in cell.metadata.get("tags", [])]
    if not cells:
        return []
    before = dict(cells[0].metadata.get(KEY, {}))
    now = standing(book, slug, claims)
    return [
        f"{name}: {before.get(name, 'no row')} -> {now.get(name, 'no row')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
