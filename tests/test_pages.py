"""Pages of the web site from claims: words, links, lines of code, pictures, points."""

import re
import tomllib
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from lib.figures import strips
from lib.results import pages, scoreboard
from lib.results.claims import Claim
from lib.runs.places import ROOT


def a_claim(name: str, **own) -> Claim:
    fields = {"id": f"exp03-{name}", "experiment": "exp03", "source": "R4, Experiment 3"}
    fields |= {"statement": "Two beats one", "measure": lambda r: np.ones(5), "control": "all"}
    return Claim(**{**fields, **own})


def a_row(name: str, kind: str, **own) -> dict:
    row = {
        "id": f"exp03-{name}", "kind": kind, "parent": "", "experiment": "exp03",
        "source": "R4, Experiment 3", "statement": f"{name} <b>*beats* one", "reported": -5.3,
        "ours": -6.9, "ci_low": -7.8, "ci_high": -6.0, "n": 1, "unit": "% change of perplexity",
        "corpus": "wikitext-2-standin", "size": "full", "expect": "below", "threshold": 0.0,
        "p": 1e-6, "q": 2e-5, "verdict": "replicated", "reason": "the interval lies below 0",
        "run_ids": "", "commit": None,
    }  # fmt: skip
    return row | own


@pytest.fixture
def site() -> pages.Site:
    rows = [
        a_row("one", "transfer", corpus="wikipedia", verdict="reversed", reported=np.nan),
        a_row("one", "reported"),
        a_row("why", "explanation", parent="exp03-one", verdict="contradicted", reported=np.nan),
        a_row("ours", "own", verdict="undecided", reported=np.nan),
    ]
    frame = pd.DataFrame(rows, columns=list(scoreboard.COLUMNS))
    names = ("one", "why", "ours")
    homes = {
        f"exp03-{name}": pages.Home("03_iterative_refinement", a_claim(name), "lib/x.py", 7 + k)
        for k, name in enumerate(names)
    }
    said = {
        "where": "R4, Experiment 3",
        "language": "ja",
        "quote": "**有効**",
        "translation": "Works.",
    }
    return pages.Site(frame, homes, {"exp03-one": said}, "https://code")


def test_every_reported_claim_has_its_words():
    claims = pd.read_csv(scoreboard.PATH)
    said = tomllib.loads(pages.SENTENCES.read_text(encoding="utf-8"))
    made = claims.loc[claims["kind"].isin(("reported", "transfer")), "id"].unique()
    assert sorted(set(made) - said.keys()) == []
    for name, entry in said.items():
        assert entry.keys() <= {"where", "language", "quote", "row", "translation"}, name
        assert "quote" in entry or "row" in entry, f"{name}: neither a sentence nor a table row"
        assert len(entry.get("quote", "").split()) <= 25, f"{name}: the quotation is too long"
        assert re.match(r"R[0-4], ", entry["where"]), name
        if entry["language"] == "ja":
            assert entry.get("translation"), f"{name}: no translation"


def test_a_page_shows_the_reports_own_row_first_and_all_others(site):
    text = pages.claim_page(site, "exp03-one")
    assert text.index("wikitext-2-standin, full") < text.index("wikipedia, full")
    for wanted in ("✔ replicated", "✘ reversed", "✘ contradicted", "有効", "In English: Works",
                   "https://code/lib/x.py#L7", "https://code/lib/x.py#L8",
                   "make reproduce NB=03", "**-5.3 (% change of perplexity)**"):  # fmt: skip
        assert wanted in text, wanted
    assert "? undecided" not in text  # ours stands on another page
    assert "? undecided" in pages.own_page(site) and 'id="exp03-ours"' in pages.own_page(site)


def test_a_claim_without_a_row_on_its_own_text_still_tells_the_reports_value(site):
    frame = site.claims[site.claims["kind"] != "reported"]
    home = pages.Home("03_iterative_refinement", a_claim("one", reported=-4.5), "lib/x.py", 7)
    bare = pages.Site(frame, {**site.homes, "exp03-one": home}, {}, site.code)
    assert "**-4.5 (% change of perplexity)**" in pages.claim_page(bare, "exp03-one")


def test_words_of_a_claim_are_never_markup(site):
    text = pages.claim_page(site, "exp03-one")
    assert text.startswith("# one \\<b\\>\\*beats\\* one\n")
    assert "<b>" not in text.replace("\\<b\\>", "") and "<b>" not in pages.claims_table(site)


def test_rows_of_the_table_lead_to_where_they_stand(site):
    table = pages.claims_table(site)
    addresses = re.findall(r'href="\.\./([^"]+)"', table)
    assert addresses == [
        "claims/exp03-one.html",
        "claims/exp03-one.html",
        "claims/exp03-one.html#exp03-why",
        "claims/own.html#exp03-ours",
    ]
    assert table.count("<tr>") == 1 + len(site.claims)


def test_lines_of_code_are_found_also_for_names_put_together():
    module = ROOT / "lib" / "character" / "experiments" / "e03_iterative_refinement.py"
    path, line = pages.defined(a_claim("irt-beats-standard"), module)
    assert path == module
    assert '"irt-beats-standard"' in module.read_text("utf-8").splitlines()[line - 1]
    scale = module.with_name("e11_lpt_routing.py")
    path, line = pages.defined(a_claim("scale-lpt-20k"), scale)
    assert 'f"scale-{' in path.read_text("utf-8").splitlines()[line - 1]
    with pytest.raises(LookupError, match="no-such-claim"):
        pages.defined(a_claim("no-such-claim"), module)


def test_values_that_do_not_fit_the_row_are_refused(monkeypatch):
    class Results:
        def on(self, *_):
            return self

    monkeypatch.setattr(pages.store, "committed", lambda _: Results())
    home = pages.Home("03", a_claim("x", measure=lambda _: np.array([1.0, 2.0, 3.0])), "", 1)
    row = pd.Series({"id": "x", "corpus": "c", "size": "full", "n": 3, "ours": 2.0})
    assert pages.values(home, row) == (1.0, 2.0, 3.0)
    for wrong in ({"n": 4}, {"ours": 3.1}):
        with pytest.raises(ValueError, match="make claims"):
            pages.values(home, pd.Series({**row, **wrong}))
    assert pages.values(home, pd.Series({**row, "n": 0})) == ()


def drawn(rows, unit="points", expect="below", threshold=0.0) -> ElementTree.Element:
    return ElementTree.fromstring(strips.draw(rows, unit, expect, threshold, "a < b"))


def of(svg: ElementTree.Element, look: str) -> list[ElementTree.Element]:
    return [e for e in svg.iter() if e.get("class") == look]


def test_a_strip_puts_everything_in_its_order():
    svg = drawn([strips.Row("text", 2.0, 1.0, 3.0, (1.0, 3.0), reported=4.0)])
    (bar,), (mean,), (line,) = of(svg, "bar"), of(svg, "mean"), of(svg, "line")
    seeds = [float(e.get("cx")) for e in of(svg, "seed")]
    assert seeds == [float(bar.get("x1")), float(bar.get("x2"))]
    assert float(line.get("x1")) < seeds[0] < float(mean.get("x1")) < seeds[1]
    report = float(re.match(r"M([\d.]+)", of(svg, "reported")[0].get("d"))[1])
    assert report > seeds[1]
    (holds,) = of(svg, "holds")
    assert float(holds.get("x")) + float(holds.get("width")) == float(line.get("x1"))


def test_percent_changes_stand_on_an_axis_of_ratios():
    svg = drawn([strips.Row("t", 300.0, values=(-75.0, 300.0))], "% change of perplexity")
    left, right = (float(e.get("cx")) for e in of(svg, "seed"))
    zero = float(of(svg, "line")[0].get("x1"))
    assert zero - left == pytest.approx(right - zero, abs=0.2)  # a quarter and four times


@pytest.mark.parametrize("value", [0.0, 1e-7, -99.9, 3.3, 2e5])
@pytest.mark.parametrize("unit", ["% change of perplexity", "points"])
def test_any_value_can_be_drawn_with_ticks_inside(value, unit):
    svg = drawn([strips.Row("t", value)], unit, "within", 1.0)
    ticks = [float(e.get("x")) for e in of(svg, "tick")]
    assert 2 <= len(ticks) <= 9
    assert all(strips.LEFT <= x <= strips.WIDTH for x in ticks)
    assert len(of(svg, "line")) == 2  # both sides of zero


def test_no_rows_make_no_picture():
    with pytest.raises(ValueError, match="no rows"):
        drawn([])


def test_points_of_the_cascade_take_the_costs_of_their_text():
    routes = pd.DataFrame(
        {"variant": ["all_1"], "corpus": ["alpaca"], "seed": [0], "rule": ["gate"],
         "wanted_rate": [0.1], "test_rate": [0.11], "test_ppl": [11.9], "test_chance_ppl": [12.2],
         "val_rate": [0.12], "val_ppl": [15.1], "wikitext_rate": [0.4], "wikitext_ppl": [58.1],
         "flops": [1.03], "val_flops": [1.04]}
    )  # fmt: skip
    main = pd.DataFrame({"variant": ["all_1"], "label": ["Stage"], "base_test_ppl": [12.5]})
    made = pages.route_points(routes, main)
    assert made["texts"] == ["test", "val", "wikitext"] and made["base"] == {"test": 12.5}
    assert [p["cost"] for p in made["points"]] == [1.03, 1.04, None]
    assert [p["chance"] for p in made["points"]] == [12.2, None, None]
    assert {p["network"] for p in made["points"]} == {"Stage"}
    older = pages.route_points(routes, main.drop(columns="label"))
    assert {p["network"] for p in older["points"]} == {"all_1"}
