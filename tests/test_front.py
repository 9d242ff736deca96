"""The front pages: short, in step with the results and with each other, and ready for more rows."""

import re

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from lib import registry
from lib.results import front, scoreboard, store
from lib.results.claims import (
    DETERMINISTIC,
    NOT_MEASURABLE,
    REPLICATED,
    REPORTED,
    REVERSED,
    TRANSFER,
    UNDECIDED,
)
from lib.runs.places import ROOT

LIMIT = 1_300  # words of the rendered page; about 1,290 now, room for columns that fill up


def rendered(text: str) -> str:
    """What a reader sees of a page: no addresses, no code of tables and pictures."""
    text = re.sub(r"!?\[([^\[\]]*)\]\([^()]*\)", r"\1", text)  # pictures, then what links hold
    text = re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", text)
    return re.sub(r"^\|[-|]+$|[|#*`]", " ", text, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def claims() -> pd.DataFrame:
    return pd.read_csv(scoreboard.PATH)


@pytest.fixture(scope="module")
def filled() -> dict[str, str]:
    """The page in every language; made once, which takes a second each."""
    return {language: front.fill(language) for language in front.LANGUAGES}


@pytest.mark.parametrize("language", front.LANGUAGES)
def test_the_committed_page_is_what_the_results_give(language, filled):
    committed = (ROOT / front.LANGUAGES[language]).read_text(encoding="utf-8")
    assert committed == filled[language], "run `make claims`"


@pytest.mark.parametrize("language", front.LANGUAGES)
def test_the_page_leads_to_every_notebook(language, filled):
    paths = (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")
    books = [
        path.name
        for path in paths
        if not (registry.has(path.stem) and registry.experiment(path.stem).pending)
    ]
    assert [name for name in books if f"(notebooks/{name})" not in filled[language]] == []


def test_the_page_is_short(filled):
    words = rendered(filled["en"]).split()
    assert len(words) <= LIMIT, f"{len(words)} words"


def test_both_languages_tell_the_same_numbers(claims):
    names = [
        set(
            re.findall(
                r"\{\{([^{}]+)\}\}", (front.FOLDER / f"README.{language}.md").read_text("utf-8")
            )
        )
        for language in front.LANGUAGES
    ]
    assert names[0] == names[1]
    tables = [front.table(claims, language).splitlines()[2:] for language in front.LANGUAGES]
    for row, other in zip(*tables, strict=True):
        assert re.findall(r"[\d.,-]+", row.split("|")[3]) == re.findall(
            r"[\d.,-]+", other.split("|")[3]
        )


def test_every_picture_has_words(filled):
    for text in filled.values():
        for words in re.findall(r"!\[([^\[\]]*)\]\(figures", text):
            assert len(words) >= 40 and "nan" not in words.lower()


def test_the_sentence_counts_reported_claims_only(claims):
    found = front.numbers(claims)
    own = claims[(claims["kind"] == REPORTED) & (claims["verdict"] != NOT_MEASURABLE)]
    verdicts = [int(found[f"reported_{name}"]) for name in (REPLICATED, REVERSED, UNDECIDED)]
    assert int(found["reported"]) == len(own) == sum(verdicts), "claims with a number"
    assert verdicts[0] == (own["verdict"] == REPLICATED).sum()
    real = [int(found[f"transfer_{name}"]) for name in (REPLICATED, REVERSED, UNDECIDED)]
    assert int(found["transfer"]) == sum(real)
    assert int(found["drawn_own"]) <= len(own)


def row_of(**own) -> dict:
    row = {
        "id": "exp03-irt-beats-standard", "kind": TRANSFER, "corpus": front.REAL, "size": "full",
        "ours": -4.9, "ci_low": -6.1, "ci_high": -3.7, "n": 10, "verdict": REPLICATED,
        "reason": "the interval lies below 0; a control",
    }  # fmt: skip
    return row | own


def table_of(rows: list[dict]) -> list[str]:
    """The cells of notebook 03's row."""
    made = front.table(pd.DataFrame(rows), "en").splitlines()
    (line,) = [line for line in made if "[03](" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells_hold_mark_value_seeds_and_what_is_not_there_is_a_dash():
    own = row_of(kind=REPORTED, corpus="wikitext-2-standin", n=5)
    assert table_of([own, row_of()])[1:4] == ["-5.3 %", "✔ -4.9 [-6.1, -3.7] (5)",
                                              "✔ -4.9 [-6.1, -3.7] (10)"]  # fmt: skip
    absent = row_of(n=0, verdict=NOT_MEASURABLE, ours=None, ci_low=None, ci_high=None)
    assert table_of([own, absent])[3] == "–"
    assert table_of([row_of(id="another")])[2:4] == ["–", "–"]


def test_the_largest_size_is_shown_and_a_smaller_one_says_so():
    rows = [row_of(size="small", ours=1.0), row_of(size="third", ours=2.0)]
    assert table_of(rows)[3] == "✔ 2.0 [-6.1, -3.7] (10, third)"
    assert table_of([*rows, row_of()])[3] == "✔ -4.9 [-6.1, -3.7] (10)"


def test_a_size_that_is_outstanding_does_not_hide_a_smaller_one():
    absent = {"n": 0, "verdict": NOT_MEASURABLE, "ours": None, "ci_low": None, "ci_high": None}
    own = row_of(kind=REPORTED, corpus="wikitext-2-standin", **absent)
    small = row_of(corpus="wikitext-2-standin", size="small", n=5)
    assert table_of([own, small])[2] == "✔ -4.9 [-6.1, -3.7] (5, small)"


def test_hours_count_every_committed_training_once():
    runs = {}
    for path in sorted(store.TABLES.glob("[0-9][0-9]_*.csv")):
        frame = pd.read_csv(path, dtype={"run_id": str})
        if "seconds" in frame and (
            path.stem in registry.module_names() or "tuning.csv" in path.name
        ):
            runs = {**dict(zip(frame["run_id"], frame["seconds"], strict=True)), **runs}
    assert int(front.numbers(scoreboard.saved())["hours"]) == round(sum(runs.values()) / 3600)
    tuning = pd.read_csv(store.TABLES / "22_tuning.csv")["seconds"].sum() / 60
    assert front.minutes("22_tuned_baselines") > tuning > 60


def test_every_cause_of_an_undecided_row_is_explained_to_the_reader(claims):
    """In both front pages, the guide of the pages and the scoreboard."""
    causes = {
        " needed": ("five seeds", "too few seeds", "5シード未満"),
        "the sign changes": (
            "slices disagree",
            "slices of a text disagree",
            "区間により符号が変わる",
        ),
    }
    readers = [front.FOLDER / f"README.{language}.md" for language in front.LANGUAGES]
    readers += [ROOT / "docs" / "site" / "how.md", ROOT / "notebooks" / "90_scoreboard.ipynb"]
    undecided = claims.loc[claims["verdict"] == UNDECIDED, "reason"]
    for cause, words in causes.items():
        assert undecided.str.contains(cause).any(), f"no row is undecided because of {cause!r}"
        for path in readers:
            text = " ".join(path.read_text(encoding="utf-8").replace("\\n", " ").split())
            assert any(word in text for word in words), f"{path.name} does not explain {cause!r}"


def test_a_new_question_stands_in_the_table_before_it_has_rows(monkeypatch, claims):
    rows = front.question_rows()
    new = {"notebook": "90", "claim": "exp21-new", "because": "", "en": "A new one?", "ja": "新?"}
    monkeypatch.setattr(front, "question_rows", lambda: [*rows, new])
    line = front.table(claims, "en").splitlines()[-1]
    assert line.startswith("| A new one? | – | – | – | – | [90](notebooks/90_")
    assert line.endswith("90_scoreboard.ipynb) |")  # and no minutes


def test_what_explains_it_has_its_verdict_on_both_texts():
    why = {"id": "exp03-irt-not-depth-and-updates", "kind": "explanation"}
    own = row_of(**why, corpus="wikitext-2-standin", verdict=UNDECIDED)
    assert table_of([own])[4] == "? beyond depth and updates"
    assert table_of([own, row_of(**why)])[4] == "?/✔ beyond depth and updates"
    assert table_of([own, row_of(**why, verdict=UNDECIDED)])[4].startswith("?/? beyond")
    third = row_of(**why, corpus="repeated")  # a third text has no mark
    assert table_of([own, row_of(**why), third])[4].startswith("?/✔ beyond")
    assert table_of([row_of()])[4] == "–"


@pytest.mark.parametrize("language", front.LANGUAGES)
def test_the_page_is_the_markdown_it_means_to_be(language, filled):
    """No star is left over, and what looks like a link leads somewhere."""
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = [t for block in markdown.parse(filled[language]) for t in block.children or ()]
    assert [t.content for t in tokens if t.type == "text" and "**" in t.content] == []
    targets = [t.attrGet("href") for t in tokens if t.type == "link_open"]
    inside = [target for target in targets if not target.startswith("https://")]
    assert [target for target in inside if not (ROOT / target).exists()] == []


def test_every_claim_that_is_named_exists(claims):
    known = set(claims["id"])
    for row in front.question_rows():
        assert {row["claim"], row["because"] or row["claim"]} <= known
        assert bool(row["because"]) == ("because_en" in row) == ("because_ja" in row)
        assert ("group_en" in row) == ("group_ja" in row)


@pytest.mark.parametrize("language", front.LANGUAGES)
def test_a_group_stands_in_a_row_of_its_own_before_its_first_question(language, claims):
    lines = front.table(claims, language).splitlines()
    for row in front.question_rows():
        if name := row.get(f"group_{language}"):
            (place,) = [i for i, line in enumerate(lines) if line.startswith(f"| **{name}** |")]
            assert lines[place].count("|") == lines[0].count("|")
            assert lines[place + 1].startswith(f"| {row[language]} |")


def test_one_seed_is_told_and_what_chance_has_no_part_in_has_none():
    lone = {"ci_low": None, "ci_high": None, "n": 1, "verdict": UNDECIDED, "statement": "IRT helps",
            "unit": "%", "reported": None}  # fmt: skip
    rows = [row_of(**lone, reason="1 seed, 5 needed; a control")]
    assert table_of(rows)[3] == "? -4.9 (1)"
    box = front.answer("03", "Does it?", [rows[0]["id"]], pd.DataFrame(rows))
    assert "-4.9 % (one seed)." in box and "One random seed, no interval. " in box
    certain = [row_of(**lone, reason=f"the interval lies below 0 {DETERMINISTIC}; a control")]
    assert table_of(certain)[3] == "? -4.9"
    box = front.answer("03", "?", [rows[0]["id"]], pd.DataFrame(certain))
    assert "(one seed)" not in box and "**How sure.** 1 claim of the report is not" in box


def test_a_box_names_the_claims_that_wait_for_the_reports_text():
    """Those without a measured row on it at full size: a smaller or another text's is none."""
    shared = {"statement": "IRT helps", "unit": "%", "reported": None}
    own = row_of(**shared, kind=REPORTED, corpus="wikitext-2-standin")
    unmeasured = {"n": 0, "verdict": NOT_MEASURABLE}
    absent = row_of(**shared | unmeasured, id="exp03-b", kind=REPORTED, corpus=own["corpus"])
    small = row_of(**shared, id="exp03-c", corpus=own["corpus"], size="small")
    real = row_of(**shared)
    control = row_of(**shared | unmeasured, id="exp03-d", kind="explanation")

    def sure(*rows: dict) -> str:
        frame = pd.DataFrame(rows)
        box = front.answer("03", "Does it?", list(frame["id"].unique()), frame)
        return box.rpartition("95 % intervals. ")[2]

    where = "on the report's text or its stand-in"
    one = f"1 of 1 claims of the report are replicated {where}"
    assert sure(own, control) == f"{one}.", "nothing is outstanding"
    some = f"claims of the report are replicated {where}"
    assert sure(own, absent) == f"1 of 2 {some}, 1 is not measured at full size."
    assert sure(own, absent, small) == f"1 of 3 {some}, 2 are not measured at full size."
    alone = "1 of 1 claims of the report are replicated on Wikipedia."
    assert sure(real) == f"1 claim of the report is not measured at full size {where}; {alone}"


def test_a_notebook_that_claims_nothing_says_so_and_small_rows_say_their_size(claims):
    assert "Nothing is claimed here" in front.answer("00", "How?", [], claims)
    box = front.answer("03", "Does it?", ["exp03-irt-beats-standard"], claims.assign(size="small"))
    assert "(small size)" in box


def test_the_reason_in_a_box_names_its_text_and_hides_no_other():
    why = {"id": "exp03-irt-not-depth-and-updates", "kind": "explanation", "unit": "%",
           "statement": "More than depth", "reported": None}  # fmt: skip
    found = row_of(statement="IRT helps", unit="%", reported=None)
    own = row_of(**why, corpus="wikitext-2-standin", verdict=UNDECIDED, ours=1.0)
    frame = pd.DataFrame([found, row_of(**why), own])
    box = front.answer("03", "Does it?", list(frame["id"].unique()), frame)
    assert "> **Why.** More than depth: ✔ replicated on wikipedia, -4.9 [-6.1, -3.7] %." in box
    assert "? undecided on wikitext-2-standin, 1.0 [-6.1, -3.7] %." in box
