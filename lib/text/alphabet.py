"""Characters to indices and back.

The alphabet of R4 is fixed: the 95 printable ASCII characters, newline and tab, 97 symbols
in that order. Every other character maps to index 0, the space -- a property of the data of R4,
kept and counted (``unknown``). A corpus may instead bring an alphabet of its own characters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PRINTABLE = "".join(chr(code) for code in range(32, 127)) + "\n\t"


@dataclass(frozen=True)
class Alphabet:
    """An ordered set of characters; index = position."""

    characters: str = PRINTABLE

    @classmethod
    def of(cls, *texts: str) -> "Alphabet":
        """The sorted characters that occur in the texts (Experiments 5-11 of R4)."""
        return cls("".join(sorted(set("".join(texts)))))

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """Indices (len(text),) as int64; unknown characters become 0."""
        index = {character: i for i, character in enumerate(self.characters)}
        return torch.tensor([index.get(character, 0) for character in text], dtype=torch.long)

    def decode(self, indices: Tensor) -> str:
        """The text of indices (n,)."""
        return "".join(self.characters[i] for i in indices.tolist())

    def unknown(self, text: str) -> int:
        """How many characters of the text are not in the alphabet."""
        known = set(self.characters)
        return sum(character not in known for character in text)
