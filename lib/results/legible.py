"""How a table reads: names a reader knows, about four digits, empty cells empty, prose to the left.

Tables are computed with the names and numbers of the code; ``notebook.show`` passes them through
here. A name that is not listed loses its underscores and nothing else.
"""

import html
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from lib.results.statistics import sensible

WIDEST = 7  # columns that a page can show, those that name rows included; the gate holds us to it
NAMES = {
    "val_ppl": "valid PPL",
    "test_ppl": "test PPL",
    "ppl": "PPL",
    "exact_ppl": "PPL, recomputed",
    "base_ppl": "base, same tokens",
    "all_ppl": "all tokens",
    "easy_ppl": "easy tokens",
    "hard_ppl": "hard tokens",
    "all_accuracy": "accuracy, all tokens",
    "exit_0": "share that stops at the base",
    "test_hard": "test tokens",
    "reached": "share as served",
    "val_acc": "valid accuracy",
    "params": "parameters",
    "best_val_ppl": "best valid PPL",
    "best_epoch": "best epoch",
    "train_chars": "training characters",
    "speedup": "times faster, measured",
    "ideal_speedup": "times faster, by operations",
    "exit_pct": "exits %",
    "same_symbols_pct": "same symbols %",
    "keep": "keys and values",
    "state": "epoch",
    "corpus": "text",
    "group": "difficulty",
    "norm": "size of the change",
    "residual_norm": "size of the change",
    "loss_threshold": "limit of the loss",
    "chosen_threshold": "threshold",
    "chosen_exit_pct": "exits %",
    "chosen_ppl": "PPL with exits",
    "always_last_ppl": "PPL without",
    "exit_ece_raw": "calibration error",
    "exit_ece_tempered": "with temperature",
    "exit_overconfidence": "confidence minus accuracy",
    "chosen_exit_temperature": "temperature",
    "cos_mean": "cosine",
    "mse": "squared error",
    "relative_time": "time",
    "flops": "FLOPs",
    "learning_rate": "learning rate",
    "rate": "share routed",
}
NUMBER = re.compile(r"[<>±−-]?\s*\d[\d,.]*(\s*%|\s*\[.*\]( %)?)?")


def named(name: Any) -> str:
    """A name of the code in words; a number, such as a size in a heading, as it reads."""
    if isinstance(name, str):
        return NAMES.get(name, name.replace("_", " "))
    return cell(name)


def cell(value: Any) -> str:
    """What stands in a cell: text as it is, numbers in about four digits, nothing where there is
    none."""
    if isinstance(value, str):
        return value
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    return sensible(float(value)) if isinstance(value, (float, np.floating)) else str(value)


def legible(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text."""
    made = table.astype(object)  # ``apply`` would make a series of a table without columns
    for place in range(made.shape[1]):
        made.isetitem(place, _column(list(made.iloc[:, place])))
    made.index = _words(table.index, values=cell)
    made.columns = _words(table.columns, values=named)
    made.attrs = dict(table.attrs)
    return made


def _column(values: list[Any]) -> list[str]:
    """The cells of a column, its numbers with equally many decimal places where digits allow it."""
    texts = [cell(value) for value in values]
    real = {
        place: float(value)
        for place, (value, text) in enumerate(zip(values, texts, strict=True))
        if isinstance(value, (float, np.floating)) and text
    }
    written = (len(texts[place].partition(".")[2]) for place in real)
    most = _places(list(real.values()), max(written, default=0))
    for place, value in real.items():
        texts[place] = _digits(value, most)
    return texts


def _places(numbers: list[float], most: int) -> int:
    """Most decimal places of a column: two, or what gives its largest number about four digits, as
    long as its smallest keeps two; else ``most``."""
    sizes = [abs(number) for number in numbers if number and np.isfinite(number)]
    if not sizes:
        return most
    places = min(most, max(2, int(3 - np.floor(np.log10(max(sizes))))))
    return places if min(sizes) * 10**places >= 10 else most


def _digits(value: float, most: int) -> str:
    """About four digits, and no more than ``most`` of them after the point."""
    if value == 0 or not np.isfinite(value):
        return f"{value:.{most if np.isfinite(value) else 0}f}"
    places = int(np.clip(3 - np.floor(np.log10(abs(value))), 0, most))
    return f"{value:,.{places}f}"


def _words(index: pd.Index, values) -> pd.Index:
    """An index with its names and values in words."""
    names = [None if name is None else named(name) for name in index.names]
    if isinstance(index, pd.MultiIndex):
        return pd.MultiIndex.from_tuples([tuple(map(values, key)) for key in index], names=names)
    return pd.Index([values(key) for key in index], name=names[0])


def page(table: pd.DataFrame) -> str:
    """A table as plain HTML that stands where style sheets are stripped too.

    Columns of numbers are aligned to the right, all others to the left; line ends in cells are
    kept; the names of rows stand in the one heading.
    """
    made = legible(table)
    rows = made.index.nlevels
    right = [False] * rows + [_numbers(made.iloc[:, place]) for place in range(made.shape[1])]
    lines = ["<table>", "<thead>", *_heading(made, right), "</thead>", "<tbody>"]
    before: tuple[str, ...] = ()
    for key, values in zip(made.index, made.itertuples(index=False, name=None), strict=True):
        names = key if isinstance(key, tuple) else (key,)
        same = next((k for k, pair in enumerate(zip(names, before, strict=False))
                     if pair[0] != pair[1]), 0)  # fmt: skip
        shown = ["" if k < same else name for k, name in enumerate(names)]
        before = names
        cells = [_cell("th", text, False) for text in shown]
        cells += [_cell("td", text, side) for text, side in zip(values, right[rows:], strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def _heading(table: pd.DataFrame, right: list[bool]) -> list[str]:
    """One line of headings a level of the columns; the names of rows stand in the last."""
    levels = table.columns.nlevels
    found = []
    for level in range(levels):
        last = level == levels - 1
        own = [name or "" if last else "" for name in table.index.names]
        own += [str(name) for name in table.columns.get_level_values(level)]
        if not last:  # a name above several columns is written once
            own = ["" if k and text == own[k - 1] else text for k, text in enumerate(own)]
        cells = [_cell("th", text, side) for text, side in zip(own, right, strict=True)]
        found.append(f"<tr>{''.join(cells)}</tr>")
    return found


def _cell(tag: str, text: str, right: bool) -> str:
    side = "right" if right else "left"
    return f'<{tag} align="{side}">{html.escape(text).replace(chr(10), "<br>")}</{tag}>'


def _numbers(values: Iterable[str]) -> bool:
    """Whether a column holds numbers, with or without intervals, and nothing else."""
    filled = [text for text in values if text]
    return bool(filled) and all(NUMBER.fullmatch(text) for text in filled)
