"""What the cleaning takes out and keeps, and that no text but the pinned one is ever used."""

import bz2
import hashlib
import subprocess

import pytest

from lib.runs import fetch
from lib.text import wikipedia
from lib.text.corpus import CorpusUnavailable, load_corpus
from lib.text.wikipedia import clean, pages

# of the 106 titles, a line end between them; none is a title of WikiText-2's validation or test
TITLES_SHA256 = "f4fc7ccae1b748a42665ac963402164ac0a598cd31836161eda42e99acf8032f"
LEFT = ("[[", "]]", "{{", "}}", "{|", "|", "'''", "==", "<", "( ", "()", "\n\n", "  ")

WIKITEXT = """{{Infobox river|name=Aa|length={{convert|5|km}}|map=[[File:Map.png|thumb|A [[map]]]]}}
<!-- a comment with [[markup]] -->
[[File:Aa.jpg|thumb|right|The Aa near [[Bern]], seen from ''[[Rigi|the Rigi]]''.<ref>x</ref>]]
The '''Aa''' ({{IPAc-en|ɑː}}; {{lang-de|Aa}}) is a [[river (water)|river]] of [[Switzerland]]
about {{convert|12000|to|13000|sqmi}} long,<ref name="a">{{cite book|title=A {{nowrap|b}}}}</ref>
and rises&nbsp;in the Alps.<ref name="a" /> It is {{citation needed|date=May 2014}} , it is said,
the ''{{lang|la|Alpha}}''&ndash;river [http://example.org of legend].

{| class="wikitable"
! Town !! People
|-
| Bern || {{formatnum:100}}
{| class="inner"
| nested
|}
|}
<gallery>
Image:Two.jpg|Another
</gallery>

== History ==
=== Table only ===
{|
| one
|}
=== Middle Ages ===
{{Main|History of the Aa}}
* First [[bridge]]
** Second bridge
:; indented
*
# <br />
Its flow is <math>q = v|A|</math> everywhere.

A stray {{ bracket is not kept.

A rule of thumb is <small>kept</small>.
<blockquote>A ''quoted'' line.</blockquote>

==See also==
* [[Elsewhere]]
=== Nested ===
Nothing of this.

== Course ==
Short [[ending]].

== References ==
{{Reflist}}
[[Category:Rivers]]
[[de:Aa]]
"""
PROSE = """The Aa (Aa) is a river of Switzerland
about 12,000 to 13,000 sq mi long, and rises in the Alps. It is, it is said,
the Alpha–river of legend.
History
Middle Ages
First bridge
Second bridge
indented
A rule of thumb is kept.
A quoted line.
Course
Short ending."""


def export(*articles: tuple[str, str, str]) -> bytes:
    """A bz2 MediaWiki export of (title, what stands between title and revision, wikitext)."""
    body = "".join(
        f"<page><title>{title}</title>{middle}<revision><text>{text}</text></revision></page>"
        for title, middle, text in articles
    )
    space = "http://www.mediawiki.org/xml/export-0.10/"
    return bz2.compress(f'<mediawiki xmlns="{space}">{body}</mediawiki>'.encode())


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty cache, and a small text that is the pinned one: ten articles of wikitext."""
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    sent = export(*((f"T{i}", "<ns>0</ns>", f"'''Article''' {i} ends.") for i in range(10)))
    text = "\n\n".join(f"Article {i} ends." for i in range(10))
    monkeypatch.setattr(wikipedia, "_fetch", lambda: sent)
    monkeypatch.setattr(wikipedia, "TEXT_SHA256", hashlib.sha256(text.encode()).hexdigest())
    return tmp_path / "text" / "wikipedia.txt"


def test_wikitext_becomes_prose():
    joined = PROSE.replace("Switzerland\nabout", "Switzerland about").replace(
        "said,\nthe", "said, the"
    )
    assert clean(WIKITEXT) == joined.replace("long,\nand", "long, and")


@pytest.mark.parametrize(
    ("template", "prose"),
    [
        ("the 1990{{'s}}{{snd}}a decade", "the 1990's – a decade"),
        ("{{lang-de|Aa}}", "Aa"),
        ("{{transl|ar|DIN|al-jabr}}", "al-jabr"),
        ("{{nihongo|Tokyo|東京|Tōkyō}}", "Tokyo"),
        ("{{quote|A saying.|author=Someone}}", "A saying."),
        ("water is {{chem|H|2|O}}", "water is H2O"),
        ("{{convert|5|to|10|km|mi}} long", "5 to 10 km long"),
        ("{{cvt|12000|sqft}} large", "12,000 sq ft large"),
        ("about {{convert|-3.5|C}} cold", "about -3.5 °C cold"),
        ("{{frac|3}} and {{frac|2|3}} and {{sfrac|1|2|3}} of it", "1/3 and 2/3 and 1 2/3 of it"),
        ("{{OldStyleDate|4 May|1700|23 April}}", "4 May 1700"),
        ("{{as of|2010}}, and {{as of|2010|lc=on}}", "As of 2010, and as of 2010"),
        ("seen {{unknown template|with|words}} here", "seen here"),
        ("seen {{nowrap}} here", "seen here"),
    ],
)
def test_templates_that_stand_in_sentences(template, prose):
    assert clean(template) == prose


def test_only_articles_are_read():
    sent = export(
        ("One", "<ns>0</ns>", "first"),
        ("Two", '<ns>0</ns><redirect title="One" />', "#REDIRECT [[One]]"),
        ("Wikipedia:Three", "<ns>4</ns>", "third"),
        ("Four", "<ns>0</ns>", "a &lt; b"),
    )
    assert list(pages(sent)) == [("One", "first"), ("Four", "a < b")]


def test_splits_are_by_article_and_cached(shelf, monkeypatch):
    corpus = load_corpus("wikipedia", "", 40, 10, 10, train_offset=16)
    assert corpus.train.startswith("\nArticle 2 ends.\n\nArticle 3")
    assert (corpus.valid, corpus.test) == ("Article 1 ", "Article 8 ")
    assert corpus.name == "wikipedia" and "CC BY-SA" in corpus.source
    monkeypatch.setattr(wikipedia, "_fetch", lambda: pytest.fail("the cache was not read"))
    assert load_corpus("auto", "", 40, 10, 10, 16) == corpus
    assert [path.name for path in shelf.parent.iterdir()] == ["wikipedia.txt"]


def test_a_damaged_cache_is_put_aside_and_made_again(shelf, capsys):
    whole = wikipedia.articles()
    shelf.write_bytes(shelf.read_bytes()[:-3])
    assert wikipedia.articles() == whole
    assert "the cached wikipedia.txt is damaged; it is kept as" in capsys.readouterr().out
    assert sorted(p.name for p in shelf.parent.iterdir()) == [
        "wikipedia.txt", "wikipedia.txt.damaged-1",
    ]  # fmt: skip


def test_another_text_is_refused_and_not_kept(shelf, monkeypatch):
    made = wikipedia.TEXT_SHA256
    monkeypatch.setattr(wikipedia, "TEXT_SHA256", "0" * 64)
    with pytest.raises(fetch.Refused, match=f"{made}, expected {'0' * 64}"):
        load_corpus("auto")
    assert not shelf.exists()


@pytest.mark.parametrize("slow", [False, True])
def test_no_index_is_said_in_one_sentence(tmp_path, monkeypatch, slow):
    def pip(command, **bounds):
        assert bounds["timeout"] == fetch.DOWNLOAD
        assert "--no-deps" in command and "--only-binary" in command  # nothing is built
        if slow:
            raise subprocess.TimeoutExpired(command, bounds["timeout"])
        return subprocess.CompletedProcess(command, 1, "", "first\nERROR: no distribution\n")

    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch.subprocess, "run", pip)
    said = "took over 600 s for gensim" if slow else "did not give gensim 4.4.0 .*: ERROR: no d"
    with pytest.raises(CorpusUnavailable, match=said):
        load_corpus("wikipedia")


def test_the_real_text_is_the_pinned_one():
    """The only test that needs the package index (28 MB)."""
    try:
        sent = wikipedia._fetch()
    except CorpusUnavailable as refusal:
        pytest.skip(str(refusal))
    titles, texts = zip(*pages(sent), strict=True)
    assert hashlib.sha256("\n".join(titles).encode()).hexdigest() == TITLES_SHA256
    cleaned = [clean(text) for text in texts]
    whole = wikipedia.BETWEEN.join(cleaned)
    assert hashlib.sha256(whole.encode()).hexdigest() == wikipedia.TEXT_SHA256
    assert [(mark, i) for mark in LEFT for i, text in enumerate(cleaned) if mark in text] == []
    words = [text.count("thumb") for text in cleaned]
    assert sum(words) == 5  # Northumbria, thumbs, the aardvark's thumb and two rules of thumb
