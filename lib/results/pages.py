"""Pages of the web site that are made from ``claims.csv``: one a reported claim, and lists of them.

A page is MyST Markdown. What claims.csv leaves out (values of single seeds, hashes of texts, the
line of code that computes a claim) is looked up in the results tables and in the source.
"""

import html
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import registry
from lib.figures import strips
from lib.results import scoreboard, store
from lib.results.claims import EXPLANATION, OWN, REPORTED, TRANSFER, Claim
from lib.results.statistics import sensible
from lib.runs.places import ROOT

SENTENCES = ROOT / "docs" / "readme" / "sentences.toml"
KINDS = {REPORTED: "the report's text, or its stand-in, and size", TRANSFER: "another text or size"}
STUDIES = {
    "character": "Models of characters",
    "cascade": "CASCADE: further stages for hard tokens",
    "context": "Context vectors",
}
READERS = {"ja": "Japanese", "en": "English"}


@dataclass(frozen=True)
class Home:
    """Where a claim is defined: the experiment's slug, the claim, its file and line."""

    slug: str
    claim: Claim
    path: str
    line: int


@dataclass(frozen=True)
class Site:
    """What the pages need: the table of claims, where each is defined, what the reports say.

    ``code`` is the address under which a file of the repository is read, without its path.
    """

    claims: pd.DataFrame
    homes: Mapping[str, Home]
    sentences: Mapping[str, Mapping[str, str]]
    code: str

    def rows(self, name: str) -> pd.DataFrame:
        """The rows of a claim: its own text first."""
        own = self.claims[self.claims["id"] == name]
        return own.assign(_own=own["kind"] == TRANSFER).sort_values("_own", kind="stable")

    def reported(self) -> list[str]:
        """Ids of the claims that a report makes, in the order of the table."""
        made = self.claims["kind"].isin((REPORTED, TRANSFER))
        return list(dict.fromkeys(self.claims.loc[made, "id"]))

    def explaining(self, name: str) -> list[str]:
        """Ids of the controls that explain a claim."""
        own = (self.claims["kind"] == EXPLANATION) & (self.claims["parent"] == name)
        return list(dict.fromkeys(self.claims.loc[own, "id"]))

    def page(self, row: Any) -> str:
        """The page on which a row stands, relative to the root, without its ending."""
        if row.kind == EXPLANATION:
            return f"claims/{row.parent}.html#{row.id}"
        return f"claims/own.html#{row.id}" if row.kind == OWN else f"claims/{row.id}.html"


def site(code: str) -> Site:
    """The committed claims, with where each is defined."""
    claims = scoreboard.saved()
    sentences = tomllib.loads(SENTENCES.read_text(encoding="utf-8"))
    return Site(claims, homes(claims), sentences, code)


def homes(claims: pd.DataFrame) -> dict[str, Home]:
    """Where every claim of the table is defined, by id.

    Raises KeyError for a claim that no experiment defines: the table is older than the code.
    """
    found: dict[str, Home] = {}
    for slug, experiment in registry.experiments().items():
        module = ROOT / (registry.module_names()[slug].replace(".", "/") + ".py")
        for claim in experiment.claims:
            path, line = defined(claim, module)
            found[claim.id] = Home(slug, claim, str(path.relative_to(ROOT)), line)
    if lost := sorted(set(claims["id"]) - found.keys()):
        raise KeyError(f"claims.csv names claims that no experiment defines: {', '.join(lost)}")
    return found


def defined(claim: Claim, module: Path) -> tuple[Path, int]:
    """File and line of the name of a claim, in its experiment's module or else in its study.

    Names that are put together, ``f"scale-{method}-20k"``, are matched by their fixed parts.
    Raises LookupError if no line has it.
    """
    name = claim.id.removeprefix(f"{claim.experiment}-")
    others = sorted(module.parent.parent.rglob("*.py"))
    for path in dict.fromkeys((module, *others)):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if f'"{name}"' in line:
                return path, number
        for number, line in enumerate(lines, 1):
            for text in re.findall(r'f"([^"]*\{[^"]*)"', line):
                fixed = [re.escape(part) for part in re.split(r"\{[^}]*\}", text)]
                if any(fixed) and re.fullmatch(".+".join(fixed), name):
                    return path, number
    raise LookupError(f"no line of {module.parent.parent.name} names the claim {name!r}")


def values(home: Home, row: Any) -> tuple[float, ...]:
    """What a claim measures for each seed of one text and size; empty where nothing was measured.

    Raises ValueError if the tables say something else than the row of claims.csv does.
    """
    if not row.n:
        return ()
    results = store.committed(home.slug).on(row.corpus, row.size)
    found = np.asarray(home.claim.measure(results), dtype=float)
    near = 1e-4 * max(1.0, abs(row.ours))
    if len(found) != row.n or not found.min() - near <= row.ours <= found.max() + near:
        raise ValueError(
            f"claims.csv is older than the tables ({row.id} on {row.corpus}): run `make claims`"
        )
    return tuple(found)


# --------------------------------------------------------------------------- words


def plain(text: str) -> str:
    """Text that Markdown and HTML leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", text)


def badge(verdict: str) -> str:
    """A verdict as HTML: a mark, the word, and a class for its colour."""
    return f'<span class="verdict {look(verdict)}">{scoreboard.MARKS[verdict]} {verdict}</span>'


def look(verdict: str) -> str:
    """The CSS class of a verdict: its first word."""
    return verdict.split()[0]


def number(value: float) -> str:
    """A p or a q."""
    return "" if pd.isna(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def value(amount: float, unit: str) -> str:
    """A reported value with its unit."""
    return "–" if pd.isna(amount) else f"{sensible(amount)} ({plain(unit)})"


# --------------------------------------------------------------------------- a claim


def claim_page(site: Site, name: str) -> str:
    """The page of a reported claim."""
    rows, home = site.rows(name), site.homes[name]
    first = next(rows.itertuples())
    parts = [
        f"# {plain(first.statement)}",
        f"*Report {plain(first.source)}. Claim `{name}`, of {_notebook(home.slug)}.*",
        _sentence(site.sentences.get(name)),
        "## The verdict",
        f"The report's value: **{value(_reported(site, name), first.unit)}**. The claim holds "
        f"where the value is {_line(first)}.",
        _table(rows),
        _picture(site, name, f"{first.statement}, decided seed by seed"),
        "Filled dots are single random seeds, the upright bar is their mean, the thick line the "
        "95 % interval, the diamond the report's value. The claim holds on the shaded side of the "
        "decision line. [How to read this page](../how.md).",
        "### What is compared",
        _reasons(rows),
    ]
    parts += _explanations(site, name)
    parts += ["## Where it comes from", _facts(site, home, rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notebook(slug: str) -> str:
    """A link to a notebook, where there is one."""
    words = f"notebook {slug[:2]}"
    made = (ROOT / "notebooks" / f"{slug}.ipynb").is_file()
    return f"[{words}](../notebooks/{slug}.ipynb)" if made else words


def _reported(site: Site, name: str) -> float:
    """The report's value: of the row on its own text, or where there is none, of the claim."""
    known = site.rows(name)["reported"].dropna()
    defined_as = site.homes[name].claim.reported
    return known.iloc[0] if len(known) else float("nan") if defined_as is None else defined_as


def _line(row: Any) -> str:
    if row.expect == "within":
        return f"within ±{row.threshold:g} of zero"
    return f"{row.expect} {row.threshold:g}"


def _sentence(said: Mapping[str, str] | None) -> str:
    """What the report says, as a block of quotation."""
    if said is None:
        return ""
    language, lines = said["language"], []
    if "quote" in said:
        words = html.escape(said["quote"].replace("**", ""))
        lines.append(f'> <span lang="{language}">“{words}”</span>')
    if "row" in said:
        for row in said["row"].replace("**", "").split("; "):
            lines.append(f'> Table row: <span lang="{language}">{html.escape(row)}</span>')
    if "translation" in said:
        lead = "In English: " if language != "en" and "quote" in said else ""
        lines.append(f"> *{lead}{plain(said['translation'])}*")
    lines.append(f"> — {plain(said['where'])}, {READERS[language]}")
    return "\n>\n".join(lines)


def _table(rows: pd.DataFrame) -> str:
    lines = [
        "| text, size | verdict | ours [95 % interval] | n | p | q |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows.itertuples():
        where = f"<br>*{KINDS[row.kind]}*" if row.kind in (REPORTED, TRANSFER) else ""
        cells = (
            f"{_where(row)}{where}",
            badge(row.verdict),
            plain(scoreboard.measured(row)),
            str(row.n),
            plain(number(row.p)),
            plain(number(row.q)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _picture(site: Site, name: str, title: str) -> str:
    drawn = []
    for row in site.rows(name).itertuples():
        if row.n:
            low, high = (None if pd.isna(end) else end for end in (row.ci_low, row.ci_high))
            reported = None if pd.isna(row.reported) else row.reported
            own = values(site.homes[name], row) if row.n > 1 else ()
            label = f"{row.corpus}, {row.size}, n = {row.n}"
            drawn.append(strips.Row(label, row.ours, low, high, own, reported, look(row.verdict)))
    if not drawn:
        return ""
    row = next(site.rows(name).itertuples())
    return strips.draw(drawn, row.unit, row.expect, row.threshold, title)


def _reasons(rows: pd.DataFrame) -> str:
    """What decides each row, with what is held equal."""
    return "\n".join(f"* {_where(row)}: {plain(row.reason)}." for row in rows.itertuples())


def _where(row: Any) -> str:
    return f"{plain(row.corpus)}, {row.size}" if isinstance(row.corpus, str) else "no text"


def _explanations(site: Site, name: str) -> list[str]:
    """The controls of a claim with their verdicts."""
    controls = site.explaining(name)
    if not controls:
        return []
    parts = ["## What explains it", "Controls that tell what the effect is due to:"]
    for control in controls:
        rows = site.rows(control)
        first, home = next(rows.itertuples()), site.homes[control]
        parts += [
            f'<a id="{control}"></a>',
            f"### {plain(first.statement)}",
            f"Supported where the value is {_line(first)}. `{control}`, "
            f"[code]({site.code}/{home.path}#L{home.line}).",
            _table(rows),
            _picture(site, control, first.statement),
            _reasons(rows),
        ]
    return parts


def _facts(site: Site, home: Home, rows: pd.DataFrame) -> str:
    """Texts, runs, devices and the code behind the rows."""
    code = f"[{home.path}, line {home.line}]({site.code}/{home.path}#L{home.line})"
    lines = [
        f"* Code that computes it: {code}",
        f"* Run it again: `make reproduce NB={home.slug[:2]}`",
    ]
    if not store.has_committed(home.slug):
        return "\n".join([*lines, "* No results are committed yet."])
    table = f"[results/{home.slug}.csv]({site.code}/results/{home.slug}.csv)"
    lines.append(f"* Table: {table}")
    frame = store.committed(home.slug)()
    for row in rows[rows["n"] > 0].itertuples():
        runs = str(row.run_ids).split() if isinstance(row.run_ids, str) else []
        here = frame[(frame["corpus"] == row.corpus) & (frame["size"] == row.size)]
        used = here[here["run_id"].isin(runs)] if runs else here
        used = here if used.empty else used
        text = ", ".join(f"`{digest}`" for digest in used["corpus_sha256"].unique())
        lines.append(
            f"* {plain(row.corpus)}, {row.size}: SHA-256 of the text {text}; device "
            f"{_all(used, 'device')}; torch {_all(used, 'torch')}; "
            + (f"{len(runs)} runs: {' '.join(f'`{run}`' for run in runs)}" if runs else "its rows")
        )
    return "\n".join(lines)


def _all(frame: pd.DataFrame, column: str) -> str:
    return plain(", ".join(sorted(frame[column].dropna().astype(str).unique())) or "not recorded")


# --------------------------------------------------------------------------- lists


def experiment_pages(site: Site) -> dict[str, str]:
    """File name -> page: the reported claims of every experiment, with a table of contents."""
    found = {}
    for slug, names in _by_slug(site, site.reported()).items():
        entry = registry.experiment(slug)
        lines = [
            f"# {slug[:2]}: {plain(entry.question)}",
            f"{len(names)} claim{'s' * (len(names) > 1)} of the report; {_notebook(slug)}.",
            "| claim | report | ours, by text | verdict |\n|---|---|---|---|\n"
            + "\n".join(_listed(site, name) for name in names),
            "```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```",
        ]
        found[f"{slug}.md"] = "\n\n".join(lines) + "\n"
    return found


def _listed(site: Site, name: str) -> str:
    rows = site.rows(name)
    first = next(rows.itertuples())
    ours = [f"{plain(r.corpus)}: {plain(scoreboard.measured(r))}" for r in rows.itertuples()]
    verdicts = [badge(r.verdict) for r in rows.itertuples()]
    link = f"[{plain(first.statement)}]({name}.md)"
    report = value(_reported(site, name), first.unit)
    return f"| {link} | {report} | {'<br>'.join(ours)} | {'<br>'.join(verdicts)} |"


def own_page(site: Site) -> str:
    """The findings that no report states, by experiment."""
    names = list(dict.fromkeys(site.claims.loc[site.claims["kind"] == OWN, "id"]))
    parts = [
        "# Own findings",
        "What no report states and the experiments here were made to decide. "
        "[How to read the verdicts](../how.md).",
    ]
    for slug, own in _by_slug(site, names).items():
        parts.append(f"## {slug[:2]}: {plain(registry.experiment(slug).question)}")
        for name in own:
            rows, home = site.rows(name), site.homes[name]
            first = next(rows.itertuples())
            parts += [
                f'<a id="{name}"></a>',
                f"### {plain(first.statement)}",
                f"Supported where the value ({plain(first.unit)}) is {_line(first)}. `{name}`, "
                f"[code]({site.code}/{home.path}#L{home.line}), "
                f"{_notebook(slug)}.",
                _table(rows),
                _reasons(rows),
            ]
    return "\n\n".join(parts) + "\n"


def _by_slug(site: Site, names: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(site.homes[name].slug, []).append(name)
    return dict(sorted(found.items()))


COLUMNS = ("claim", "kind", "experiment", "text", "size", "verdict", "report", "ours", "n", "q")


def claims_table(site: Site) -> str:
    """Every row of ``claims.csv`` as an HTML table that ``claims.js`` makes filterable."""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    lines = [f'<table id="claims-table"><thead><tr>{head}</tr></thead><tbody>']
    for row in site.claims.itertuples():
        unit = html.escape(row.unit)
        link = f'<a href="../{site.page(row)}">{html.escape(row.statement)}</a>'
        cells = {
            "claim": f"{link}<br><code>{row.id}</code>",
            "kind": row.kind,
            "experiment": site.homes[row.id].slug[:2],
            "text": html.escape(row.corpus) if isinstance(row.corpus, str) else "",
            "size": row.size if isinstance(row.size, str) else "",
            "verdict": badge(row.verdict),
            "report": "" if pd.isna(row.reported) else sensible(row.reported),
            "ours": f"<span>{html.escape(scoreboard.measured(row))}<br><small>{unit}</small></span>"
            if row.n
            else "",
            "n": str(row.n),
            "q": html.escape(number(row.q)),
        }
        order = {"report": row.reported, "ours": row.ours, "q": row.q}
        made = []
        for name, cell in cells.items():
            sort = order.get(name)
            key = "" if sort is None or pd.isna(sort) else f' data-sort="{sort:.6g}"'
            made.append(f'<td data-label="{name}"{key}>{cell}</td>')
        lines.append(f"<tr>{''.join(made)}</tr>")
    lines.append("</tbody></table>")
    return "\n".join(lines)


# --------------------------------------------------------------------------- the cascade's routes


def route_points(routes: pd.DataFrame, main: pd.DataFrame) -> dict[str, Any]:
    """What the interactive page of the cascade draws: points by network, rule, text and seed.

    A text is one for which ``routes`` has both ``TEXT_rate`` and ``TEXT_ppl``. ``cost`` is None
    where the FLOPs on a text were not counted. ``base`` is the perplexity of the base alone.
    """
    routes = routes.merge(
        main.assign(label=main.get("label", main["variant"]))[["variant", "label"]]
        .drop_duplicates("variant"),
        on="variant",
        how="left",
    )  # fmt: skip
    texts = [c.removesuffix("_rate") for c in routes if c.endswith("_rate") and c != "wanted_rate"]
    texts = sorted((t for t in texts if f"{t}_ppl" in routes), key=_reading_order)
    points = []
    for row in routes.to_dict("records"):
        for text in texts:
            cost = row.get("flops") if text == "test" else row.get(f"{text}_flops")
            points.append(
                {
                    "network": row["label"] if isinstance(row["label"], str) else row["variant"],
                    "corpus": row["corpus"],
                    "rule": row["rule"],
                    "text": text,
                    "seed": int(row["seed"]),
                    "wanted": _short(row["wanted_rate"]),
                    "rate": _short(row[f"{text}_rate"]),
                    "ppl": _short(row[f"{text}_ppl"]),
                    "chance": _short(row.get(f"{text}_chance_ppl")),
                    "cost": _short(cost),
                }
            )
    base = {
        text: _short(main[f"base_{text}_ppl"].dropna().mean())
        for text in texts
        if f"base_{text}_ppl" in main
    }
    return {"points": points, "base": base, "texts": texts}


def _reading_order(text: str) -> int:
    return ("test", "val", "wikitext").index(text) if text in ("test", "val", "wikitext") else 9


def _short(amount: Any) -> float | None:
    return None if amount is None or pd.isna(amount) else float(f"{amount:.5g}")
