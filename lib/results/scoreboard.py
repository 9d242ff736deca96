"""All claims with their verdicts: ``results/claims.csv``, the notebooks' tables, the README's."""

import os
from collections.abc import Iterable

import pandas as pd

from lib.provenance import ROOT
from lib.results import store
from lib.results.claims import NOT_MEASURABLE, Claim, decide

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
    """Decide all claims from the committed results and save ``results/claims.csv``.

    The file holds all digits that count: rounded once, wherever a number is shown.
    """
    frame = score(claims)
    partial = PATH.with_suffix(".partial")
    frame.to_csv(partial, index=False, float_format="%.10g", lineterminator="\n")
    os.replace(partial, PATH)
    return frame


def markdown(frame: pd.DataFrame) -> str:
    """The README's scoreboard from the rows of ``claims.csv``: verdicts counted by experiment, then
    the claims of each experiment folded away."""
    counts = frame["verdict"].value_counts()
    kinds = list(counts.index)
    lines = [
        ", ".join(f"**{count}** {verdict}" for verdict, count in counts.items()) + ".",
        "",
        "| Experiment | " + " | ".join(kinds) + " |",
        "|---|" + "---|" * len(kinds),
    ]
    by_experiment = list(frame.groupby("experiment", sort=False))
    for name, own in by_experiment:
        found = own["verdict"].value_counts()
        lines.append(f"| {name} | " + " | ".join(str(found.get(kind, "")) for kind in kinds) + " |")
    for name, own in by_experiment:
        lines += ["", f"<details><summary><b>{name}</b>: {len(own)} rows</summary>", ""]
        lines += [
            "| claim | corpus | reported | ours [95 % CI] | n | verdict |",
            "|---|" + "---|" * 5,
        ]
        lines += [_row(row) for row in own.itertuples()]
        lines += ["", "</details>"]
    return "\n".join(lines)


def _row(row) -> str:
    unit = f" ({row.unit})" if isinstance(row.unit, str) and row.unit else ""
    return (
        f"| {row.statement}{unit} | {row.corpus} | {_number(row.reported)} | {_measured(row)} | "
        f"{row.n} | {row.verdict} |"
    )


def update_readme(frame: pd.DataFrame) -> None:
    """Replace the README's scoreboard. Raises ValueError if its two marks are not there."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError("README.md has lost the marks around its scoreboard")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    partial = path.with_suffix(".partial")
    partial.write_text(f"{head}{BEGIN}\n{markdown(frame)}\n{END}{tail}", encoding="utf-8")
    os.replace(partial, path)


def _number(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:,.4g}"


def _measured(row) -> str:
    """The measured value with its interval; a single value has none, and says what it is."""
    if pd.isna(row.ours):
        return ""
    if row.n == 1:
        sole = "one seed" if row.verdict == NOT_MEASURABLE else "one deterministic value"
        return f"{_number(row.ours)}, {sole}"
    return f"{_number(row.ours)} [{_number(row.ci_low)}, {_number(row.ci_high)}]"
