"""Which windows an adaptation learns from, stops on and is scored on.

Learning from instructions and being scored on WikiText-2, and the reverse, keep apart what helps
the model from what merely teaches it a format. Both directions are scored on the same windows.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib.cascade.dataset import OpenDataset
from lib.cascade.features import TokenFeatures
from lib.text.token_stream import TokenWindows

SOURCES = ("instructions", "wikitext")


@dataclass(frozen=True)
class TextPlan:
    """Numbers of windows: ``train``; ``valid``, of which early stopping looks at the first
    ``look``; ``scored`` of every held-out corpus. ``learnt_from``: instructions or wikitext."""

    train: int
    valid: int
    look: int
    scored: int
    learnt_from: str = "instructions"

    def __post_init__(self):
        if self.learnt_from not in SOURCES or self.look > self.valid:
            raise ValueError(
                f"learnt from {self.learnt_from!r}, looking at {self.look} of {self.valid} "
                f"windows; allowed: {SOURCES}, and no more looked at than are valid"
            )

    def spans(self) -> dict[str, tuple[str, int, int]]:
        """Part -> (part of the dataset, first window, windows)."""
        held_out = {"test": ("test", 0, self.scored), "wikitext": ("wikitext", 0, self.scored)}
        if self.learnt_from == "instructions":
            return {"train": ("train", 0, self.train), "valid": ("valid", 0, self.valid)} | held_out
        own = {
            "train": ("wikitext_train", 0, self.train),
            "valid": ("wikitext_valid", 0, self.valid),
        }
        return own | held_out


@dataclass(frozen=True)
class TextPart:
    """Windows and the base's features of the same tokens."""

    features: TokenFeatures
    windows: TokenWindows


def text_parts(data: OpenDataset, plan: TextPlan) -> dict[str, TextPart]:
    """The parts of a plan: train, valid, test and, where the dataset has it, wikitext.

    Raises ``ValueError`` if a part is absent or has too few windows.
    """
    found = {}
    for part, (source, first, count) in plan.spans().items():
        if source not in data.windows:
            if part == source == "wikitext":
                continue  # scored only where it is there
            raise ValueError(f"the dataset has no {source!r} to take {part} from")
        windows = data.windows[source]
        if first + count > len(windows):
            raise ValueError(
                f"{part} needs windows {first} to {first + count} of {source}, which has "
                f"{len(windows)}"
            )
        rows = slice(first, first + count)
        found[part] = TextPart(
            data.features(source).windows(first, count),
            TokenWindows(windows.inputs[rows], windows.labels[rows], windows.name),
        )
    return found
