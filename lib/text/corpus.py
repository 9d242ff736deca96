"""Character corpora: where the text comes from, which slice is used, and its hash.

``wikipedia``    106 English Wikipedia articles, cleaned, out of a package of the Python package
                 index (``lib.text.wikipedia``): the default text. Splits share no article.
``wikitext-2``   WikiText-2 in its tokenised form (with ``<unk>``). From a local folder, else from
                 the Hugging Face hub at a pinned revision. If the folder holds no train file its
                 *test* file stands in for training and the name says so: ``wikitext-2-standin``.
``python-docs``  English prose that every Python ships (``pydoc_data.topics``): nothing to fetch.
``repeated``     The text that Experiments 5-11 of R4 really saw: one sentence repeated for
                 training, another repeated for validation, 30 symbols.
``embedded``     Instruction records that this repository wrote itself: the text of golden numbers.
``auto``         wikipedia; python-docs if the package index cannot be reached, saying so.

Three splits: ``train`` is trained on, ``valid`` selects the epoch, ``test`` selects nothing. On
WikiText-2 both ``valid`` and ``test`` are cut from the validation file, ``test`` from character
100,000 on, ``valid`` before it.
"""

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from lib.runs import fetch
from lib.runs.places import at_home
from lib.text.alphabet import PRINTABLE, Alphabet
from lib.text.records import embedded_texts
from lib.text.wikipedia import PACKAGE, VERSION, CorpusUnavailable, splits

NAMES = ("auto", "wikipedia", "wikitext-2", "python-docs", "repeated", "embedded")
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"  # Salesforce/wikitext
FILES = {
    "train": ("train.txt", "wiki.train.tokens"),
    "valid": ("validation.txt", "valid.txt", "wiki.valid.tokens"),
    "test": ("test.txt", "wiki.test.tokens"),
}
TEST_OFFSET = 100_000  # the test slice begins here in the validation file, far from ``valid``
# of the first 5,000 characters of validation, the slice the seeds selected on
VALID_SHA256 = "d232822092ff6e4fc35e8a1532e093b293b77e465a3e54794afe311198dc41e6"
KNOWN = {  # of whole files; none is known of train
    "valid": "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    "test": "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
}
TRAIN_SENTENCE = "The quick brown fox jumps over the lazy dog. "
VALID_SENTENCE = "A quick brown dog runs in the park. "


class TooShort(CorpusUnavailable, ValueError):
    """A text that is shorter than asked for."""


@dataclass(frozen=True)
class Corpus:
    """Three slices of text and where they came from; ``test`` is empty where none exists."""

    name: str
    source: str
    train: str
    valid: str
    test: str
    alphabet: Alphabet

    @property
    def sha256(self) -> str:
        """Hash of the exact slices, order train, valid, test."""
        text = "\x1e".join((self.train, self.valid, self.test))
        return hashlib.sha256(text.encode()).hexdigest()

    def describe(self) -> str:
        """One line: name, source, sizes, unknown characters, hash."""
        sizes = ", ".join(f"{len(getattr(self, s)):,} {s}" for s in ("train", "valid", "test"))
        unknown = self.alphabet.unknown(self.train + self.valid + self.test)
        return (
            f"corpus {self.name} ({self.source}): {sizes} characters, {len(self.alphabet)} "
            f"symbols, {unknown} characters outside them, sha256 {self.sha256[:12]}"
        )


@dataclass(frozen=True)
class Cut:
    """The slices that are taken of a text's three parts, in characters; ``at_most``: so many or
    what a part has."""

    train_offset: int
    train_chars: int
    valid_chars: int
    test_chars: int
    at_most: bool = False

    def of(self, name: str, source: str, train: str, valid: str, test: str) -> Corpus:
        """The slices as a corpus in the alphabet of R4. Raises TooShort."""
        return Corpus(
            name,
            source,
            self._slice(train, self.train_offset, self.train_chars, "train"),
            self._slice(valid, 0, self.valid_chars, "valid"),
            self._slice(test, 0, self.test_chars, "test"),
            Alphabet(),
        )

    def _slice(self, text: str, start: int, length: int, split: str) -> str:
        if start + length > len(text) and not self.at_most:
            raise TooShort(
                f"{split}_chars is {length:,}; at most {max(len(text) - start, 0):,} are there"
            )
        return text[start : start + length]


def load_corpus(
    name: str = "auto",
    data_dir: str = "",
    train_chars: int = 20_000,
    valid_chars: int = 5_000,
    test_chars: int = 20_000,
    train_offset: int = 0,
    at_most: bool = False,
) -> Corpus:
    """The named corpus cut to size, in characters; ``at_most``: or what there is of it.

    ``data_dir`` (or the environment variable DEPTH_DATA) is a folder that holds ``wikitext-2/``,
    or that folder itself, and only ``wikitext-2`` reads it; ``auto`` prints why it falls back.
    The training slice begins ``train_offset`` characters into the training text, so that offsets
    0, n, 2n ... with ``train_chars`` n are disjoint. Raises ValueError for an unknown name or a
    text shorter than asked for, CorpusUnavailable if a demanded corpus cannot be had,
    Refused if the Wikipedia text is not the pinned one.
    """
    cut = Cut(train_offset, train_chars, valid_chars, test_chars, at_most)
    if name not in NAMES:
        raise ValueError(f"corpus is {name!r}; allowed: {', '.join(NAMES)}")
    if train_offset < 0:
        raise ValueError(f"train_offset is {train_offset:,}; it must be at least 0")
    if name == "repeated":
        if train_offset:
            raise ValueError("repeated text is the same everywhere and takes no train_offset")
        return _repeated(train_chars, valid_chars)
    if name == "python-docs":
        return _python_docs("asked for", cut)
    if name == "embedded":
        text, source = "\n\n".join(embedded_texts()), "written for this repository"
        return cut.of("embedded", source, *_parts(text, 70, 85))
    if name == "wikitext-2":
        return _wikitext(data_dir, cut)
    try:
        source = f"{PACKAGE} {VERSION} of the package index, CC BY-SA 3.0"
        return cut.of("wikipedia", source, **splits())
    except TooShort:  # the text is there: the number is what is wrong
        raise
    except CorpusUnavailable as missing:
        if name == "wikipedia":
            raise
        print(f"Wikipedia is not to be had ({missing}); using python-docs instead.", flush=True)
        return _python_docs("the embedded fallback", cut)


def data_folder(data_dir: str, corpus: str) -> Path | None:
    """The folder of a corpus under ``data_dir`` or DEPTH_DATA; None if neither is set.

    Raises CorpusUnavailable if one is set and does not exist: a typo must not pass for absence.
    Raises NoHome for one in a home that is not known.
    """
    given = data_dir or os.environ.get("DEPTH_DATA", "")
    if not given:
        return None
    folder = at_home(given)
    if not folder.is_dir():
        raise CorpusUnavailable(f"the data folder {given!r} does not exist")
    return folder / corpus if (folder / corpus).is_dir() else folder


def _wikitext(data_dir: str, cut: Cut) -> Corpus:
    folder = data_folder(data_dir, "wikitext-2")
    found = {} if folder is None else _files(folder)
    if "valid" in found and ("train" in found or "test" in found):
        standin = "train" not in found
        name = "wikitext-2-standin" if standin else "wikitext-2"
        source = "local folder, its test file in place of train" if standin else "local folder"
        train = found["test"] if standin else found["train"]
        valid = found["valid"]
    elif folder is not None and data_dir:
        raise CorpusUnavailable("the given data folder holds no validation and train or test file")
    else:
        name, source = "wikitext-2", f"hub, revision {REVISION[:8]}"
        train, valid = _from_hub("train"), _from_hub("validation")
    seen = hashlib.sha256(valid[:5_000].encode()).hexdigest()
    if seen != VALID_SHA256:
        raise CorpusUnavailable(
            f"this is not WikiText-2: the first 5,000 characters of validation have the hash "
            f"{seen[:12]}, expected {VALID_SHA256[:12]}"
        )
    corpus = cut.of(name, source, train, valid[:TEST_OFFSET], valid[TEST_OFFSET:])
    unknown = corpus.alphabet.unknown(corpus.train)
    if 2 * unknown > len(corpus.train):
        raise CorpusUnavailable(
            f"{unknown:,} of the {len(corpus.train):,} training characters of {name} are outside "
            f"the alphabet of {len(PRINTABLE)} printable ones; allowed: at most half of them"
        )
    return corpus


def _files(folder: Path) -> dict[str, str]:
    found = {}
    for split, names in FILES.items():
        for path in (folder / name for name in names):
            if path.is_file():
                found[split] = read_text(path)
                seen = hashlib.sha256(found[split].encode()).hexdigest()
                if split in KNOWN and seen != KNOWN[split]:
                    print(
                        f"{path.name} is not the known {split} file of WikiText-2: its hash is "
                        f"{seen[:12]}, not {KNOWN[split][:12]}; tables hold that of what is used",
                        flush=True,
                    )
                break
    return found


MARKS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"\x1f\x8b": "a gzip archive",
    b"PK": "a zip archive",
}


def read_text(path: Path) -> str:
    """The text of a file, line ends as they are; what is unusual about it is said aloud.

    Raises CorpusUnavailable, in a sentence that names the file and what was found in it, for one
    that is empty, not UTF-8, binary, or holds one symbol only.
    """
    content = path.read_bytes()
    refused = f"{path.name} is no text in UTF-8: found"
    for mark, kind in MARKS.items():
        if content.startswith(mark):
            raise CorpusUnavailable(f"{refused} {kind}")
    if not content.strip():
        raise CorpusUnavailable(f"{path.name} is empty; expected text in UTF-8")
    if b"\0" in content:
        raise CorpusUnavailable(f"{refused} a zero byte at {content.index(0):,}, as in binary data")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise CorpusUnavailable(
            f"{refused} the byte 0x{byte:02x} at {error.start:,}, as in Latin-1"
        ) from None
    if text.startswith("\ufeff"):
        print(f"{path.name} begins with a byte order mark, which is left out", flush=True)
        text = text[1:]
    if "\r\n" in text:
        print(f"{path.name} has Windows line ends, which are kept as two characters", flush=True)
    if len(set(text)) < 2:
        raise CorpusUnavailable(f"{path.name} holds one symbol only; expected text in UTF-8")
    return text


def _from_hub(split: str) -> str:
    try:
        rows = fetch.hub_rows("Salesforce/wikitext", REVISION, split, "wikitext-2-v1")
    except fetch.Unavailable as missing:
        folder = data_folder("", "wikitext-2")
        here = "no data folder is set" if folder is None else "DEPTH_DATA holds no such text"
        raise CorpusUnavailable(f"{here}, and {missing}") from missing
    return "".join(row or " \n" for row in rows["text"])  # the hub strips blank lines


def _python_docs(why: str, cut: Cut) -> Corpus:
    from pydoc_data.topics import topics

    text = "\n".join(topics[key] for key in sorted(topics))
    version = ".".join(platform.python_version_tuple()[:2])
    return cut.of("python-docs", f"{why}, Python {version}", *_parts(text, 80, 90))


def _parts(text: str, valid_from: int, test_from: int) -> tuple[str, str, str]:
    """A text in three, parted at two hundredths of its length."""
    one, other = len(text) * valid_from // 100, len(text) * test_from // 100
    return text[:one], text[one:other], text[other:]


def _repeated(train_chars: int, valid_chars: int) -> Corpus:
    # 20,000 // 45 = 444 and 5,000 // 35 = 142 copies: the seed divides by 35, the sentence has 36
    train = TRAIN_SENTENCE * (train_chars // len(TRAIN_SENTENCE))
    valid = VALID_SENTENCE * (valid_chars // (len(VALID_SENTENCE) - 1))
    if not train or not valid:
        raise TooShort("repeated text needs at least 45 train and 35 valid characters")
    return Corpus("repeated", "built in", train, valid, "", Alphabet.of(train, valid))
