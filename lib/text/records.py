"""An instruction record, and the two templates that turn it into text."""

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
