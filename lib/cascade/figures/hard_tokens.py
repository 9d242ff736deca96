"""Figures of one stage: hard tokens and all tokens, every variant beside the base."""

from __future__ import annotations

from matplotlib.figure import Figure

from lib.cascade.tables import one
from lib.figures import training
from lib.results import tables
from lib.results.store import Results

COLUMNS = {
    "test_ppl": ("base_ppl", "perplexity of the hard test tokens"),
    "inner_ppl": ("base_inner_ppl", "perplexity of the hard test tokens without record ends"),
    "cascade_all_ppl": ("base_all_ppl", "perplexity of all test tokens"),
    "cascade_all_inner_ppl": ("base_all_inner_ppl", "perplexity of all tokens without ends"),
}


def against_base(metric: str, title: str, without: tuple[str, ...] = ()):
    """Draw a column of COLUMNS for every variant but those in ``without``, a line for the base."""
    base, words = COLUMNS[metric]

    def draw(results: Results) -> Figure:
        own = one(results)
        frame = own.named()
        frame = frame[frame[metric].notna()]
        names = own.names([variant for variant in own.labels if variant not in without])
        names = [name for name in names if (frame["variant"] == name).any()]
        return training.intervals(
            frame,
            names,
            f"{title} ({tables.corpora(frame)})",
            metric=metric,
            label=words,
            logarithmic=True,
            floors={"base, one pass": frame[base].dropna().iloc[0]},
        )

    return draw
