"""All claims with their verdicts: ``results/claims.csv``, and the tables of notebooks."""

from collections.abc import Iterable

import pandas as pd

from lib.results.claims import (
    CONTRADICTED,
    DETERMINISTIC,
    NOT_MEASURABLE,
    REPLICATED,
    REVERSED,
    SEEDS,
    SUPPORTED,
    UNDECIDED,
    Claim,
    corrected,
    decide,
    overruled,
)
from lib.results.statistics import Interval, sensible
from lib.results.store import Results, whole_table
from lib.runs import files
from lib.runs.places import ROOT

COLUMNS = (
    "id", "kind", "parent", "experiment", "source", "statement", "reported", "ours", "ci_low",
    "ci_high", "n", "unit", "corpus", "size", "expect", "threshold", "p", "q", "verdict",
    "reason", "run_ids", "commit"
)  # fmt: skip
MARKS = {  # legible without colour
    REPLICATED: "✔",
    SUPPORTED: "✔",
    REVERSED: "✘",
    CONTRADICTED: "✘",
    UNDECIDED: "?",
    NOT_MEASURABLE: "–",
}
PATH = ROOT / "results" / "claims.csv"
FILLED = ("id", "kind", "experiment", "source", "statement", "corpus", "size", "verdict", "reason")
NUMBERS = ("reported", "ours", "ci_low", "ci_high", "n", "threshold", "p", "q")
DECIDES = "claim (kind), and what decides it"  # heads a column of the table of verdicts


def score(decided: Iterable[tuple[Claim, Results | None]], least: int = SEEDS) -> pd.DataFrame:
    """One row a claim, text and size, in the columns of ``claims.csv``."""
    made = [(claim, decide(claim, results, least)) for claim, results in decided]
    rows = [row for _, own in made for row in own]
    for claim, own in made:
        if claim.judges:
            overruled(rows, claim, own)
    frame = pd.DataFrame(rows, columns=["tested", *(c for c in COLUMNS if c != "q")])
    return corrected(frame.astype({"p": float, "tested": bool}))[list(COLUMNS)]


def saved() -> pd.DataFrame:
    """The rows of claims.csv. Raises SchemaError for a table that is not whole."""
    return whole_table(PATH, FILLED, numbers=NUMBERS)


def write(decided: Iterable[tuple[Claim, Results | None]]) -> pd.DataFrame:
    """Decide all claims from the committed results and save ``results/claims.csv``."""
    frame = score(decided)
    files.write_text(PATH, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return frame


def verdicts(claims: Iterable[Claim], results: Results, least: int = SEEDS) -> pd.DataFrame:
    """The table a notebook ends with: the claims decided on its own results."""
    return shown(score([(claim, results) for claim in claims], least))


def shown(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``score`` as a reader sees them: the claim, and under it what decides it."""
    rows = list(frame.itertuples())
    return pd.DataFrame(
        {
            "verdict": [f"{MARKS[row.verdict]} {row.verdict}" for row in rows],
            DECIDES: [f"{row.statement} ({row.kind})\n{row.reason}" for row in rows],
            "ours": [f"{measured(row)}\n{row.unit}" if row.n else "" for row in rows],
            "n": frame["n"].to_list(),
            "line": [line(row) for row in rows],
            "report": ["" if pd.isna(row.reported) else sensible(row.reported) for row in rows],
            "text, size": [_text(row) for row in rows],
        }
    ).set_index("verdict")


def _text(row) -> str:
    """Text and size of a row; empty where nothing was run."""
    return f"{row.corpus}\n{row.size}" if isinstance(row.corpus, str) and row.corpus else ""


def measured(row) -> str:
    """The measured value with its interval; a single value has none."""
    if pd.isna(row.ours):
        return ""
    if pd.isna(row.ci_low):
        return sensible(row.ours)
    return str(Interval(row.ours, row.ci_low, row.ci_high, row.n))


def random(row) -> bool:
    """Whether chance had a part in a row, so that its number of seeds must be told."""
    return DETERMINISTIC not in str(row.reason)


def line(row) -> str:
    """Where the decision line lies, and on which side of it the claim wants the value."""
    if row.expect == "within":
        return f"within ±{row.threshold:g}"
    return f"{'<' if row.expect == 'below' else '>'} {row.threshold:g}"
