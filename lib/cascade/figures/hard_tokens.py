"""Figures of one stage: hard tokens and all tokens, every variant beside the base."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from lib.figures import training
from lib.figures.rows import own_values
from lib.results import tables
from lib.results.statistics import interval
from lib.results.store import Results
from lib.results.tables import one

COLUMNS = {
    "test_ppl": ("base_ppl", "hard test tokens"),
    "inner_ppl": ("base_inner_ppl", "hard test tokens without EOS"),
    "cascade_all_ppl": ("base_all_ppl", "all test tokens"),
    "cascade_all_inner_ppl": ("base_all_inner_ppl", "all test tokens without EOS"),
}


def against_base(metric: str, without: tuple[str, ...] = (), told: Mapping[str, str] | None = None):
    """Draw a column of COLUMNS over the base's on the same tokens, a row a variant.

    Variants in ``without`` are left out; ``told`` gives some a longer name. The heading counts the
    variants whose interval lies below the base.
    """
    base, words = COLUMNS[metric]

    def draw(results: Results) -> Figure:
        own = one(results)
        frame = own()
        frame = frame.assign(ratio=frame[metric] / frame[base])
        frame = frame[frame["ratio"].notna() & ~frame["variant"].isin(without)]
        known = {name: (told or {}).get(name, label) for name, label in own.labels.items()}
        frame = frame.assign(variant=frame["variant"].map(known))
        names = list(dict.fromkeys(frame["variant"]))
        found = [interval(own_values(frame, name, "ratio")) for name in names]
        better = sum(each.n > 1 and each.high < 1 for each in found)
        return training.intervals(
            frame,
            names,
            f"{better} of {len(names)} are better than the base on {words}\n"
            f"({tables.corpora(frame)})",
            metric="ratio",
            label="perplexity over the base's",
            logarithmic=True,
            floors={"base": 1.0},
        )

    return draw
