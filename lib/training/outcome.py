"""What a task hands back to the sweep."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """One row of the experiment's table, and rows of further tables by name (``curve``, ...)."""

    row: dict[str, Any]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
