"""A claim as one small picture: seeds, mean, interval, decision line and the report's value.

The picture is SVG text without a library, drawn in the colours of the page that holds it
(``currentColor`` and CSS classes), so that it is legible on a dark page too. Percent changes stand
on a logarithmic axis of ratios, as their intervals do.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lib.results.statistics import sensible

WIDTH, LEFT, RIGHT = 560, 14, 14  # units of the view box
TOP, ROW, BOTTOM = 26, 58, 34  # a row has its label on top, its strip below
LABEL, STRIP = 15, 36  # where in a row
SPREAD = (0, -6, 6, -3, 3, -9, 9)  # vertical places of seeds, so that equal values do not hide
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Row:
    """One strip: ``values`` one a seed (empty if unknown), ``low`` and ``high`` of the interval."""

    label: str
    mean: float
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    reported: float | None = None
    look: str = ""  # CSS class: the verdict in one word


def draw(rows: Sequence[Row], unit: str, expect: str, threshold: float, title: str) -> str:
    """The rows as strips over one axis, as an ``<svg>`` element.

    ``expect`` is ``below``, ``above`` or ``within``: the side of the decision line on which the
    claim holds is shaded. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("a picture of no rows")
    lines = [-threshold, threshold] if expect == "within" else [threshold]
    seen = [v for row in rows for v in _of(row)] + lines
    axis = _Axis(seen, unit)
    height = TOP + ROW * len(rows) + BOTTOM
    bottom = height - BOTTOM
    parts = [
        f'<svg class="strip" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{html.escape(title)}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{html.escape(title)}</title>",
        _shade(axis, expect, lines, bottom),
    ]
    for tick in axis.ticks():
        x = axis.x(tick)
        parts.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 14}">{_number(tick)}</text>')
    for value in lines:
        x = axis.x(value)
        parts.append(f'<line class="line" x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{bottom}"/>')
    middle = axis.x(lines[-1])
    anchor = "end" if middle > WIDTH - 70 else "start" if middle < LEFT + 60 else "middle"
    parts.append(
        f'<text class="note" x="{middle}" y="{TOP - 12}" text-anchor="{anchor}">'
        f"decision line {_number(lines[-1]) if len(lines) == 1 else '±' + _number(threshold)}"
        "</text>"
    )
    for place, row in enumerate(rows):
        parts += _strip(row, axis, TOP + ROW * place)
    parts.append(
        f'<text class="note" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 4}" '
        f'text-anchor="middle">{html.escape(unit)}</text></svg>'
    )
    return "\n".join(parts)


def _of(row: Row) -> list[float]:
    found = [row.mean, row.low, row.high, row.reported, *row.values]
    return [float(v) for v in found if v is not None and not math.isnan(v)]


def _strip(row: Row, axis: "_Axis", top: float) -> list[str]:
    parts = [
        f'<text class="label" x="{LEFT + 4}" y="{top + LABEL}">{html.escape(row.label)}</text>'
    ]
    parts.append(f'<g class="{html.escape(row.look)}">')
    y = top + STRIP
    if row.low is not None and row.high is not None:
        parts.append(
            f'<line class="bar" x1="{axis.x(row.low)}" y1="{y}" x2="{axis.x(row.high)}" y2="{y}"/>'
        )
    for order, value in enumerate(row.values):
        parts.append(
            f'<circle class="seed" cx="{axis.x(value)}" cy="{y + SPREAD[order % len(SPREAD)]}" '
            f'r="3"><title>seed {order}: {sensible(value)}</title></circle>'
        )
    x = axis.x(row.mean)
    parts.append(f'<line class="mean" x1="{x}" y1="{y - 12}" x2="{x}" y2="{y + 12}"/></g>')
    if row.reported is not None:
        x = axis.x(row.reported)
        parts.append(
            f'<path class="reported" d="M{x} {y - 7}l6 7l-6 7l-6 -7z">'
            f"<title>report: {sensible(row.reported)}</title></path>"
        )
    return parts


def _shade(axis: "_Axis", expect: str, lines: list[float], bottom: float) -> str:
    """The side on which the claim holds."""
    left, right = LEFT, WIDTH - RIGHT
    if expect == "below":
        right = axis.x(lines[0])
    elif expect == "above":
        left = axis.x(lines[0])
    else:
        left, right = axis.x(lines[0]), axis.x(lines[1])
    width = round(max(right - left, 0), 1)
    return f'<rect class="holds" x="{left}" y="{TOP}" width="{width}" height="{bottom - TOP}"/>'


class _Axis:
    """Where a value stands: linear, or by the logarithm of the ratio for percent changes."""

    def __init__(self, values: Sequence[float], unit: str):
        self.ratios = unit.startswith("% change") and min(values) > -100
        places = [self.place(v) for v in values]
        low, high = min(places), max(places)
        room = (high - low or abs(high) or 1.0) * 0.06
        self.low, self.high = low - room, high + room

    def place(self, value: float) -> float:
        return math.log1p(value / 100) if self.ratios else value

    def x(self, value: float) -> float:
        share = (self.place(value) - self.low) / (self.high - self.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self) -> list[float]:
        """At most seven round values, evenly spaced or as round percent changes."""
        if self.ratios and self.high - self.low > math.log(3):
            known = (-99, -95, -90, -80, -65, -50, -25, 0, 50, 100, 200, 400, 900, 1900, 4900,
                     9900, 49_900, 99_900, 499_900)  # fmt: skip
            found = [float(v) for v in known if self.low <= self.place(v) <= self.high]
            return self._thinned(found)
        ends = [self._value(self.low), self._value(self.high)]
        step = self._step((ends[1] - ends[0]) / 6)
        first = math.ceil(ends[0] / step)
        return [k * step for k in range(first, math.floor(ends[1] / step) + 1)]

    def _thinned(self, ticks: list[float]) -> list[float]:
        kept: list[float] = [0.0] if 0.0 in ticks else []
        for tick in ticks:  # none nearer than 46 units to another
            if all(abs(self.x(tick) - self.x(other)) >= 46 for other in kept):
                kept.append(tick)
        return sorted(kept)

    def _value(self, place: float) -> float:
        return 100 * math.expm1(place) if self.ratios else place

    @staticmethod
    def _step(rough: float) -> float:
        power = 10.0 ** math.floor(math.log10(rough))
        return next(power * step for step in STEPS if power * step >= rough * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{round(value, 10):,.6g}".replace("-", "−")
