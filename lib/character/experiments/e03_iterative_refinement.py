"""Experiment 3: does refining the same window twice help, and is it the refining that helps?"""

from dataclasses import dataclass
from functools import partial

import pandas as pd

from lib.character.experiments.character import (
    CharacterParameters,
    Variant,
    curves_figure,
    perplexity_figure,
    train_variants,
)
from lib.character.models.hrm import HRMConfig
from lib.character.models.transformer import TransformerConfig
from lib.results.claims import change, claim_maker
from lib.text.corpus import Corpus
from lib.character.objectives import Segments, Standard

EXPERIMENT, SLUG = "exp03", "03_iterative_refinement"


@dataclass(frozen=True)
class Exp03(CharacterParameters):
    """Nothing beyond the shared parameters."""


PARAMETERS = Exp03


def variants(vocabulary: int) -> dict[str, Variant]:
    """The seed's three rows and the controls that decide what makes the difference.

    The loop on batches of 8 windows instead of 16 steps about as often in an epoch as IRT does.
    """
    plain = TransformerConfig(vocabulary)
    stateful = TransformerConfig(vocabulary, initial_state=True)
    looped = Segments(2, joint=True)
    return {
        "Standard": Variant(plain, Standard()),
        "IRT": Variant(stateful, Segments(2)),
        "HRM": Variant(HRMConfig(vocabulary, width=48), Segments(2)),
        "HRM, trained L-module": Variant(
            HRMConfig(vocabulary, width=48, update="original"), Segments(2)
        ),
        "Standard, 2 updates a batch": Variant(plain, Standard(updates=2)),
        "Standard, 2 layers": Variant(TransformerConfig(vocabulary, layers=2), Standard()),
        "Looped twice, 1 loss": Variant(stateful, looped),
        "Looped twice, 1 loss, batches of 8": Variant(stateful, looped, {"batch_size": 8}),
        "IRT, 1 segment": Variant(stateful, Segments(1)),
    }


def run(corpus: Corpus, parameters: Exp03) -> pd.DataFrame:
    """Train all variants; one row a variant and seed."""
    return train_variants(EXPERIMENT, SLUG, variants, corpus, parameters)


NAMES = list(variants(97))
FIGURES = {
    "perplexity": partial(
        perplexity_figure,
        EXPERIMENT,
        SLUG,
        NAMES,
        "Refinement and its controls",
        counted=("bigram",),
    ),
    "curves": partial(curves_figure, SLUG, NAMES, highest=20),
}


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 3")


CLAIMS = (
    _claim(
        "irt-beats-standard",
        "Refinement training beats standard training in one layer",
        change("IRT", "Standard"),
        "same data order, width and stopping; IRT steps twice a batch and is twice as deep",
        reported=-5.3,
    ),
    _claim(
        "irt-not-updates",
        "The gain of refinement training is not its second update a batch",
        change("IRT", "Standard, 2 updates a batch"),
        "equal updates a batch: standard training steps twice on every batch too",
    ),
    _claim(
        "irt-not-depth",
        "Refinement training gains more than its doubled forward depth does",
        change("IRT", "Looped twice, 1 loss"),
        "equal parameters and forward depth: the same block looped twice under one loss; IRT also"
        " steps twice a batch and cuts the gradient between segments",
    ),
    _claim(
        "irt-not-depth-and-updates",
        "Refinement training gains more than depth and number of updates together do",
        change("IRT", "Looped twice, 1 loss, batches of 8"),
        "the loop on batches of 8 gives about as many updates (39 and 40 an epoch); a loss for"
        " each segment and the cut gradient still differ",
    ),
    _claim(
        "hrm-beats-standard",
        "HRM of about equal size beats standard training",
        change("HRM", "Standard"),
        "89,472 parameters, of which 49,344 are trained (the refactored HRM never trains its"
        " L-module), against 78,080",
        reported=-4.0,
    ),
    _claim(
        "hierarchy-adds-little",
        "Hierarchy adds nothing to refinement training (HRM is worse than IRT)",
        change("HRM", "IRT"),
        "two updates a batch each; of HRM's 89,472 parameters 49,344 are trained (L-module"
        " untrained as in the seed), of IRT's all 82,176",
        expect="above",
        reported=1.4,
    ),
    _claim(
        "trained-hierarchy-adds-little",
        "Hierarchy adds nothing either when the L-module is trained",
        change("HRM, trained L-module", "IRT"),
        "HRM with the original update, in which the L-module does get a gradient",
        expect="above",
    ),
    _claim(
        "hrm-slower",
        "HRM needs more epochs than IRT to reach its best",
        change("HRM", "IRT", "best_epoch"),
        "both step twice a batch and stop on the same validation text",
        expect="above",
        reported=100 * (14 / 6 - 1),
        unit="% change of best epoch",
    ),
)
