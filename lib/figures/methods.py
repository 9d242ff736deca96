"""A method has the same colour in every figure of every notebook.

A variant belongs to the first method whose pattern its name contains. Methods that never meet in
one notebook may share a colour; a name that belongs to no method takes a free one.
"""

import re
from collections.abc import Collection
from typing import Any

from lib.figures.style import COLOURS, LINES

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK = COLOURS
METHODS = (
    (r"Routing Aware", BLACK),  # a loss at several layers, less weight on those without an exit
    (r"LPT|[Ll]osses at", PURPLE),  # a loss at several layers
    (r"Infini-HRM", SKY),
    (r"HRM\+Memory", ORANGE),
    (r"HRM", GREEN),
    (r"IRT|LCT\+OACD", VERMILLION),
    (r"LCT", ORANGE),
    (r"Rout(ed|ing)\b", GREEN),  # exits chosen by confidence
    (r"^greedy", ORANGE),  # one layer at a time, those below frozen
    (r"frozen", VERMILLION),
    (r"^full,|4-layer full", GREEN),  # grown, all layers trained
    (r"^3-layer|[Ll]ooped", GREY),
    (r"[Ss]tarts as the base|zero start", GREEN),  # a stage that changes nothing at first
    (r"[Ss]cratch|Standard|standard", BLUE),
    (r"^token at every layer", BLUE),
    (r"^token at first layer", VERMILLION),
)


def method_of(variant: str) -> str | None:
    """The colour of the method a variant belongs to; None for a name of no known method."""
    return next((colour for pattern, colour in METHODS if re.search(pattern, variant)), None)


def colours(variants: list[str]) -> dict[str, str]:
    """A colour of its own for each variant: its method's for the first of a method, else a free
    one; raises ValueError for more variants than there are colours.
    """
    if len(variants) > len(COLOURS):
        raise ValueError(f"{len(variants)} variants for {len(COLOURS)} colours: split the figure")
    found: dict[str, str] = {}
    for variant in variants:
        colour = method_of(variant)
        if colour and colour not in found.values():
            found[variant] = colour
    free = iter([colour for colour in _spare(found) if colour not in found.values()])
    return {variant: found.get(variant) or next(free) for variant in variants}


def looks(variants: list[str]) -> dict[str, dict[str, Any]]:
    """Colour and line style for each variant: one colour a method, one style a variant of it.

    Names of no known method, and the sixth and further variants of one, take free colours; raises
    ValueError when these run out.
    """
    found: dict[str, dict[str, Any]] = {}
    used = {colour for colour in map(method_of, variants) if colour}
    free = iter([colour for colour in _spare(used) if colour not in used])
    counts: dict[str, int] = {}
    for variant in variants:
        colour = method_of(variant)
        if colour is None or counts.get(colour, 0) == len(LINES):
            colour = next(free, None)
            if colour is None:
                raise ValueError(f"no colour left for {variant!r}: split the figure")
        style = LINES[counts.get(colour, 0)]
        counts[colour] = counts.get(colour, 0) + 1
        found[variant] = {"color": colour, "linestyle": style}
    return found


def row_colours(variants: list[str]) -> dict[str, str]:
    """Colours of named rows: the method's; one colour for all names of no known method."""
    other = BLACK if any(map(method_of, variants)) else BLUE
    return {variant: method_of(variant) or other for variant in variants}


def _spare(known: Collection[str]) -> tuple[str, ...]:
    """Colours in the order to give away: beside methods, first those that stand for fewest."""
    return (BLACK, ORANGE, GREY, SKY, PURPLE, GREEN, VERMILLION, BLUE) if known else COLOURS
