"""The numbers of the front page, from committed tables: counts of verdicts, a table of questions.

``docs/readme/README.*.md`` are the texts with names in double braces; ``front.toml`` lists the
questions. ``fill`` puts the two together with the numbers.
"""

import re
import tomllib
from typing import Any

import pandas as pd

from lib import registry
from lib.figures import forest
from lib.parameters import FULL, SIZES
from lib.results import scoreboard, store, verified
from lib.results.beside_reported import PATH as BESIDE
from lib.results.claims import (
    NOT_MEASURABLE,
    OWN_TEXT,
    REPLICATED,
    REPORTED,
    REVERSED,
    TRANSFER,
    UNDECIDED,
    Claim,
)
from lib.results.schema import REAL
from lib.results.statistics import sensible
from lib.runs.places import ROOT

FOLDER = ROOT / "docs" / "readme"
LANGUAGES = {"en": "README.md", "ja": "README.ja.md"}
REPOSITORY = "depth-adaptive-lm/depth-adaptive-lm"
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
COLAB = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks"
CLAIM = "claim "  # before an id, in a name in braces
SENTENCE = "repeated"  # the corpus that is the very text of a report
HEADS = {
    "en": "question|report|ours, on its text|on Wikipedia|what explains it|notebook, core-minutes",
    "ja": "問い|報告|追試(報告のテキストかその代わり)|Wikipedia|何による結果か|ノートブック、分",
}


def numbers(claims: pd.DataFrame) -> dict[str, str]:
    """Every number that the text of the front page names."""
    measured = claims[claims["verdict"] != NOT_MEASURABLE]
    reported = measured[measured["kind"] == REPORTED]
    real = measured[(measured["kind"] == TRANSFER) & (measured["corpus"] == REAL)]
    found = {"reported": len(reported), "transfer": len(real), "rows": len(claims)}
    for name, frame in (("reported", reported), ("transfer", real)):
        for verdict in (REPLICATED, REVERSED, UNDECIDED):
            found[f"{name}_{verdict}"] = int((frame["verdict"] == verdict).sum())
    found["sentence"] = int((reported["corpus"] == SENTENCE).sum())
    known = set(reported["id"])
    claimed = claims[claims["kind"].isin((REPORTED, TRANSFER))]["id"]
    found["waiting"] = len(set(claimed) - known)  # for a run on the report's text at its size
    held = reported[(reported["verdict"] == REPLICATED) & (reported["corpus"] == SENTENCE)]["id"]
    also = real.loc[real["id"].isin(held), "verdict"]
    found["sentence_replicated"] = len(also)  # of what could be measured there
    found["sentence_real"] = int((also == REPLICATED).sum())
    if BESIDE.is_file():
        beside = pd.read_csv(BESIDE)
        found |= {"beside": int(beside["ours"].notna().sum()), "numbers": len(beside)}
    drawn = forest.rows(claims, registry.stated())
    for place in ("own", "real"):
        by_verdict = forest.counted(drawn, place)
        found[f"drawn_{place}"] = sum(by_verdict.values())
        found |= {f"drawn_{place}_{verdict}": count for verdict, count in by_verdict.items()}
    runs = pd.concat(map(_trained, slugs()))
    # what two experiments share was trained once
    found["hours"] = round(runs.drop_duplicates("run_id")["seconds"].sum() / 3600)
    texts = {name: f"{value:,}" for name, value in found.items()}
    return texts | {"verified": verified.told()}


def slugs() -> list[str]:
    """Experiments with committed tables."""
    return sorted(filter(store.has_committed, _notebooks().values()))


def _notebooks() -> dict[str, str]:
    return {path.name[:2]: path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")}


def minutes(slug: str) -> float:
    """Core-minutes of training behind all committed rows of an experiment, and its tuning."""
    return float(_trained(slug)["seconds"].sum() / 60) if store.has_committed(slug) else 0.0


def _trained(slug: str) -> pd.DataFrame:
    """Ids and seconds of the committed runs of an experiment, those of its tuning included."""
    parts = [store.committed(slug)()]
    tuned = store.TABLES / f"{slug[:2]}_tuning.csv"
    if tuned.is_file():
        parts.append(pd.read_csv(tuned, dtype={"run_id": str}))
    return pd.concat(part[["run_id", "seconds"]] for part in parts)


def question_rows() -> list[dict[str, str]]:
    """The rows of ``front.toml``."""
    return tomllib.loads((FOLDER / "front.toml").read_text(encoding="utf-8"))["row"]


def table(claims: pd.DataFrame, language: str) -> str:
    """The questions with the report's value, ours, and the control that explains it."""
    known = {claim.id: claim for entry in registry.experiments().values() for claim in entry.claims}
    head = HEADS[language].split("|")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in question_rows():
        if name := row.get(f"group_{language}"):
            lines.append(f"| **{name}** |{' |' * (len(head) - 1)}")
        own = claims[claims["id"] == row["claim"]]
        claim = known.get(row["claim"])
        has = claim is not None and claim.reported is not None
        # a claim whose own size is outstanding shows the smaller one, and says so
        first = own[own["kind"] != TRANSFER]
        real = own[(own["kind"] == TRANSFER) & (own["corpus"] == REAL)]
        if claim is not None and claim.kind != REPORTED:  # of no report: each text where it belongs
            first, real = own[own["corpus"] != REAL], own[own["corpus"] == REAL]
        cells = [
            row[language],
            _valued(claim, row.get(f"reported_in_{language}", "")) if has else "–",
            _cell(first if (first["n"] > 0).any() else own[own["corpus"] != REAL], claim),
            _cell(real),
            _explained(claims[claims["id"] == row["because"]], row.get(f"because_{language}", "")),
            _link(row["notebook"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: pd.DataFrame, claim: Claim | None = None) -> str:
    """Mark, value, seeds and, below the full size, the size of the largest row; or a dash. Another
    text than the reported ``claim`` is about is named."""
    measured = _largest_first(rows)
    if measured.empty:
        return "–"
    row = next(measured.itertuples())
    n = str(row.n) if scoreboard.random(row) else ""
    other = claim is not None and claim.kind == REPORTED and not row.corpus.startswith(claim.texts)
    told = [n, row.size if row.size != FULL else "", row.corpus if other else ""]
    about = ", ".join(filter(None, told))
    value = f"{scoreboard.MARKS[row.verdict]} {scoreboard.measured(row)}"
    return f"{value} ({about})" if about else value


def _largest_first(rows: pd.DataFrame) -> pd.DataFrame:
    """The measured rows, those of the largest size first."""
    ranks = rows["size"].map({size: rank for rank, size in enumerate(SIZES)})
    ordered = rows.assign(_rank=ranks).sort_values("_rank", kind="stable", ignore_index=True)
    return ordered[ordered["n"] > 0]


def _explained(rows: pd.DataFrame, told: str) -> str:
    """The control in a few words, after its verdicts: on the report's text, then on Wikipedia."""
    measured = _largest_first(rows).drop_duplicates("corpus")
    own, real = measured[measured["corpus"] != REAL].head(1), measured[measured["corpus"] == REAL]
    marks = [scoreboard.MARKS[verdict] for verdict in pd.concat([own, real])["verdict"]]
    return f"{'/'.join(marks)} {told}" if marks and told else "–"


def _valued(claim: Claim, where: str) -> str:
    """What a report says, and ``where`` if that is not the report itself."""
    value = sensible(claim.reported)
    value = f"{value} %" if claim.unit.startswith("%") else value
    return f"{value} ({where})" if where else value


def _link(number: str) -> str:
    name = _notebooks()[number]
    spent = minutes(name)
    told = f" {spent:.0f}" if spent else ""
    return f"[{number}](notebooks/{name}.ipynb) [![Colab]({BADGE})]({COLAB}/{name}.ipynb){told}"


def fill(language: str) -> str:
    """The front page in a language: a name in braces becomes a number, ``claim`` and an id become
    what is measured of that claim. Raises KeyError for a name or a claim that has no number."""
    claims = scoreboard.saved()
    known = numbers(claims) | {"questions": table(claims, language)}

    def put(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name.startswith(CLAIM):
            return _cell(_claimed(claims, name.removeprefix(CLAIM)))
        return known[name]

    text = (FOLDER / f"README.{language}.md").read_text(encoding="utf-8")
    return re.sub(r"\{\{([^{}]+)\}\}", put, text)


def _claimed(claims: pd.DataFrame, name: str) -> pd.DataFrame:
    """The measured rows of a claim. Raises KeyError if there are none."""
    found = claims[(claims["id"] == name) & (claims["n"] > 0)]
    if found.empty:
        raise KeyError(f"claim {name!r} has no measured row in {scoreboard.PATH.name}")
    return found


def pages() -> dict[str, str]:
    """File name -> text of every front page."""
    return {LANGUAGES[language]: fill(language) for language in LANGUAGES}


def answer(
    number: str, question: str, ids: list[str], claims: pd.DataFrame, over: str = "random seeds"
) -> str:
    """The box under a notebook's title: asked, found, how sure; from the rows of claims.csv.

    ``ids``: the experiment's claims; ``over``: what its intervals are over. A notebook without any,
    or without committed ones, says so.
    """
    if not ids:
        found = "Nothing is claimed here: this notebook shows how the others are read."
        return f"> **Asked.** {question}\n>\n> **Found.** {found}"
    head = next((row for row in question_rows() if row["notebook"] == number), None)
    own = claims[claims["id"].isin(ids) & (claims["n"] > 0)]
    lines = [f"> **Asked.** {question}", ">"]
    main = own[own["id"] == head["claim"]] if head else own[:0]
    if main.empty:
        return "\n".join([*lines, "> **Found.** No committed results decide it yet."])
    said = " ".join(map(_found, main.itertuples()))
    lines += [f"> **Found.** {main['statement'].iloc[0]}: {said}", ">"]
    reason = claims[(claims["id"] == head["because"]) & (claims["n"] > 0)]
    if len(reason):
        said = " ".join(map(_found, reason.itertuples()))
        lines += [f"> **Why.** {reason['statement'].iloc[0]}: {said}", ">"]
    reported = own[own["kind"] == REPORTED]
    claimed = claims[claims["id"].isin(ids) & claims["kind"].isin((REPORTED, TRANSFER))]["id"]
    waiting = len(set(claimed) - set(reported["id"]))  # for a run on the report's text at its size
    counted = [
        _counted(reported, f"on {OWN_TEXT}", waiting),
        _counted(own[(own["kind"] == TRANSFER) & (own["corpus"] == REAL)], "on Wikipedia"),
    ]
    n = int(main["n"].max())
    sure = "; ".join(text for text in counted if text) or "no reported claim is decided"
    by = f"{n} {over}, 95 % intervals. "
    if n == 1:  # of what chance has no part in, nothing is said
        by = "One random seed, no interval. " * any(map(scoreboard.random, main.itertuples()))
    lines.append(f"> **How sure.** {by}{sure[0].upper()}{sure[1:]}.")
    return "\n".join(lines)


def _found(row: Any) -> str:
    reported = "" if pd.isna(row.reported) else f" (report: {sensible(row.reported)})"
    size = f" ({row.size} size)" if row.size != FULL else ""
    unit = f" {row.unit}" if isinstance(row.unit, str) else ""
    alone = " (one seed)" if row.n == 1 and scoreboard.random(row) else ""
    ours = f"{scoreboard.measured(row)}{unit}{alone}"
    return f"{scoreboard.MARKS[row.verdict]} {row.verdict} on {row.corpus}{size}, {ours}{reported}."


def _counted(rows: pd.DataFrame, where: str, waiting: int = 0) -> str:
    """How many of the measured ``rows`` are replicated, and how many claims are ``waiting``."""
    are = "is" if waiting == 1 else "are"
    if rows.empty:
        claims = f"{waiting} claim{'s' * (waiting > 1)} of the report {are} not measured"
        return f"{claims} at full size {where}" if waiting else ""
    held, number = int((rows["verdict"] == REPLICATED).sum()), len(rows) + waiting
    left = f", {waiting} {are} not measured at full size" if waiting else ""
    return f"{held} of {number} claims of the report are replicated {where}{left}"
