"""All claims with their verdicts: ``results/claims.csv``, the notebooks' tables, the README's."""

import os
from collections.abc import Iterable

import pandas as pd

from lib.provenance import ROOT
from lib.results import store
from lib.results.claims import Claim, decide

COLUMNS = (
    "id",
    "experiment",
    "source",
    "statement",
    "reported",
    "ours",
    "ci_low",
    "ci_high",
    "n",
    "corpus",
    "verdict",
    "reason",
    "unit",
)
PATH = ROOT / "results" / "claims.csv"
BEGIN, END = "<!-- scoreboard: begin (made by `make claims`) -->", "<!-- scoreboard: end -->"


def score(claims: Iterable[Claim], size: str = store.FULL) -> pd.DataFrame:
    """One row a claim and corpus, in the columns of ``claims.csv``."""
    rows = [row for claim in claims for row in decide(claim, size)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def verdicts(claims: Iterable[Claim], size: str = store.FULL) -> pd.DataFrame:
    """The table a notebook ends with."""
    frame = score(claims, size)
    return pd.DataFrame(
        {
            "claim": frame["statement"],
            "corpus": frame["corpus"],
            "unit": frame["unit"],
            "reported": frame["reported"].map(_number),
            "ours": [_measured(row) for row in frame.itertuples()],
            "n": frame["n"],
            "verdict": frame["verdict"],
            "decided by": frame["reason"],
        }
    ).set_index("claim")


def write(claims: Iterable[Claim]) -> pd.DataFrame:
    """Decide all claims from the committed results and save ``results/claims.csv``."""
    frame = score(claims)
    partial = PATH.with_suffix(".partial")
    frame.to_csv(partial, index=False, float_format="%.5g", lineterminator="\n")
    os.replace(partial, PATH)
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """The README's scoreboard from the rows of ``claims.csv``."""
    counts = frame["verdict"].value_counts()
    lines = [
        ", ".join(f"**{count}** {verdict}" for verdict, count in counts.items()) + ".",
        "",
        "| Exp. | claim | corpus | reported | ours [95 % CI] | n | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in frame.itertuples():
        unit = f" {row.unit}" if isinstance(row.unit, str) else ""
        lines.append(
            f"| {row.experiment} | {row.statement} ({unit.strip()}) | {row.corpus} | "
            f"{_number(row.reported)} | {_measured(row)} | {row.n} | {row.verdict} |"
        )
    return "\n".join(lines)


def update_readme(frame: pd.DataFrame) -> None:
    """Replace the README's scoreboard. Raises ValueError if its two marks are not there."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError("README.md has lost the marks around its scoreboard")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n{markdown(frame)}\n{END}{tail}", encoding="utf-8")


def _number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:,.4g}"


def _measured(row) -> str:
    if pd.isna(row.ours):
        return ""
    return f"{_number(row.ours)} [{_number(row.ci_low)}, {_number(row.ci_high)}]"
