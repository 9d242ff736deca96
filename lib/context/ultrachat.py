"""UltraChat from the hub at a pinned revision, joined as R3 did.

Row by row in stored order, all messages of a conversation joined with line ends, no role tags and
no end marks; conversations follow each other without a separator. Unlike the report, whose
validation text was the last tenth of each training stream (another text for every size), validation
and test are fixed: the first rows of ``test_sft``, one after the other.
"""

from collections.abc import Iterable, Iterator

from lib.runs import fetch
from lib.text.alphabet import Alphabet
from lib.text.corpus import Corpus, CorpusUnavailable

DATASET = "HuggingFaceH4/ultrachat_200k"
REVISION = "8049631c405ae6576f93f445c6b8166f76f5505a"
SPLITS = {"train": "train_sft", "held_out": "test_sft"}


def load_ultrachat(train_chars: int, valid_chars: int, test_chars: int) -> Corpus:
    """Train from ``train_sft``; valid and test one after the other from ``test_sft``.

    Raises CorpusUnavailable when the hub does not answer or refuses, and ValueError when the
    rows hold fewer characters than asked for.
    """
    train = join_rows(_rows(SPLITS["train"]), train_chars)
    held_out = join_rows(_rows(SPLITS["held_out"]), valid_chars + test_chars)
    return Corpus(
        "ultrachat",
        f"hub, revision {REVISION[:8]}",
        train,
        held_out[:valid_chars],
        held_out[valid_chars:],
        Alphabet(),
    )


def join_rows(rows: Iterable[dict], characters: int) -> str:
    """The first `characters` of the conversations; messages joined by line ends."""
    pieces, length = [], 0
    for row in rows:
        pieces.append("\n".join(message["content"] for message in row["messages"]))
        length += len(pieces[-1])
        if length >= characters:
            return "".join(pieces)[:characters]
    raise fetch.Unfit(f"{characters:,} characters were asked for, the rows hold {length:,}")


def _rows(split: str) -> Iterator[dict]:
    """Rows of a split one by one; CorpusUnavailable when the hub refuses or breaks off."""
    try:
        rows = fetch.hub_rows(DATASET, REVISION, split, streaming=True)
        yield from fetch.streamed(rows, DATASET)
    except fetch.Unavailable as missing:
        raise CorpusUnavailable(
            f"{missing}; allowed without the hub: corpus 'auto', 'wikipedia' or 'wikitext-2'"
        ) from missing
