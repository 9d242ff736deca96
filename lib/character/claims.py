"""What claims of the character experiments have in common: the texts that R4 really used."""

from collections.abc import Callable

import numpy as np

from lib.character.figures.common import metric
from lib.results.claims import Claim, Measure, change, claim_maker
from lib.results.store import Results

WIKITEXT = ("wikitext-2",)  # Experiments 1-4
REPEATED = ("repeated",)  # every figure that R4 reports for Experiments 5-11


def on_wikitext(experiment: str, source: str) -> Callable[..., Claim]:
    """Claims of Experiments 1-4, which R4 measured on WikiText-2."""
    return claim_maker(experiment, source, texts=WIKITEXT)


def on_repeated(experiment: str, source: str) -> Callable[..., Claim]:
    """Claims of Experiments 5-11, which R4 measured on one repeated sentence."""
    return claim_maker(experiment, source, texts=REPEATED)


def perplexity_change(treatment: str, baseline: str) -> Measure:
    """Percent change of the deciding perplexity between two variants, seed by seed."""

    def measure(results: Results) -> np.ndarray:
        return change(treatment, baseline, metric(results.corpus))(results)

    return measure
