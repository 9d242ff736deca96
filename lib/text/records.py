"""Instruction records, the two templates that turn one into text, and a small set of our own.

The set needs no file and no network. It stands in for Alpaca in tests and tiny runs, and is the
text of the golden numbers.
"""

from dataclasses import dataclass

TEMPLATES = ("response", "plain")


@dataclass(frozen=True)
class Record:
    """What is asked, what it is asked about (may be empty), and the answer."""

    instruction: str
    input: str
    output: str


def render(record: Record, template: str) -> str:
    """The text of one record.

    ``response``: headed sections (R0, R2); ``plain``: the three fields, one per line, an
    empty input leaving a blank line (R1). Raises ``ValueError`` for another template.
    """
    if template == "response":
        asked = f"### Input:\n{record.input}\n\n" if record.input else ""
        return f"### Instruction:\n{record.instruction}\n\n{asked}### Response:\n{record.output}"
    if template == "plain":
        return f"{record.instruction}\n{record.input}\n{record.output}"
    raise ValueError(f"template {template!r} is not known; allowed: {TEMPLATES}")


def embedded_texts() -> list[str]:
    """Every record as text, in the template with headed sections."""
    return [render(record, "response") for record in embedded_records()]


def embedded_records() -> tuple[Record, ...]:
    """108 records about everyday things, put together from small tables: short ones and 12 long."""
    things = {
        "bread": ("flour, water, yeast and salt", "an oven", "the crust sounds hollow"),
        "tea": ("dried leaves and hot water", "a pot", "the colour is a clear amber"),
        "a kite": ("paper, thin sticks and string", "a steady wind", "the line stays tight"),
        "a garden": ("soil, seeds and patience", "a spade", "the first green shoots appear"),
        "a map": ("measurements of many places", "a compass", "every road meets its neighbour"),
        "a song": ("a melody and a few honest words", "a quiet room", "people hum it later"),
        "a bridge": ("stone, steel and careful sums", "a crane", "it carries twice its load"),
        "soup": ("vegetables, water and herbs", "a large pan", "the carrots are soft"),
        "a letter": ("a greeting, some news and a wish", "a pen", "nothing is left to add"),
        "a clock": ("gears, a spring and two hands", "a steady bench", "it loses no minute a day"),
        "paper": ("wood fibre and a great deal of water", "a press", "it tears evenly"),
        "a boat": ("planks, pitch and a mast", "a dry dock", "it floats level when empty"),
    }
    kinds = (
        (
            "Explain how {a} is made.",
            "",
            "To make {a} you need {b}. Work slowly, use {c}, and do "
            "not hurry the last step. You know that it is ready when {d}. Most beginners stop too "
            "early, so wait a little longer than you think.",
        ),
        (
            "List three facts about {a}.",
            "",
            "1. It is made of {b}.\n2. The usual tool is {c}.\n"
            "3. A good one can be told from a bad one because {d}.",
        ),
        (
            "Rewrite the sentence in a friendlier tone.",
            "Do not touch {a} before {d}.",
            "Please wait until {d}; after that you are very welcome to try {a}.",
        ),
        (
            "Answer the question.",
            "Which tool helps most with {a}?",
            "The most helpful tool is {c}. With it, and with {b}, the work takes less than an hour.",  # noqa: E501
        ),
        (
            "Write a short story about {a}.",
            "",
            "Once a child wanted {a} more than anything else. "
            "She gathered {b}, borrowed {c} from her uncle, and worked for {n} days. On the last "
            "evening she saw that {d}, and she laughed aloud.",
        ),
        (
            "Classify the following item as a tool, a food or a thing.",
            "{a}",
            "The item belongs with other things that people make by hand from {b}.",
        ),
        (
            "How long does it take to make {a}?",
            "",
            "About {n} hours for the first try, and half of that later. You may stop when {d}.",
        ),
        (
            "Give one reason to learn this.",
            "making {a}",
            "It teaches patience: without {c} and a "
            "calm hand you will not see the moment when {d}.",
        ),
    )
    records = []
    for i, (a, (b, c, d)) in enumerate(things.items()):
        own = [
            Record(*(part.format(a=a, b=b, c=c, d=d, n=3 + (7 * i + 5 * j) % 24) for part in kind))
            for j, kind in enumerate(kinds)
        ]
        # one long record a thing, so that chunks of 129 tokens exist; its sentences are its own
        records += [
            *own,
            Record(f"Write an essay about {a}.", "", ESSAY.format(a=a, b=b, c=c, d=d)),
        ]
    return tuple(records)


ESSAY = (
    "Of all the ordinary things around us, few are as easy to overlook as {a}. Nobody remembers "
    "who first thought of putting {b} to such a use, and yet the idea has travelled through every "
    "country and has been handed from parents to children for longer than anyone can count.\n\n"
    "What strikes a visitor first is how little is needed. Someone brings {b}, somebody else lends "
    "{c}, and an afternoon is set aside. The work itself is slow, and that is part of its charm: "
    "while the hands are busy there is time to talk, to listen and to look out of the window.\n\n"
    "There are failures, of course. A beginner tends to trust the clock more than the senses, and "
    "stops before {d}. The experienced maker waits, tries again, and writes down what went wrong "
    "this time. After a dozen attempts the notes are no longer read, because the fingers know "
    "them.\n\nWhether a machine could do all of this better is a fair question. It would be "
    "faster, and every piece would look the same. But those who have once seen how {d}, in their "
    "own kitchen or yard and after their own labour, seldom wish to leave the pleasure of {a} to "
    "an engine."
)
