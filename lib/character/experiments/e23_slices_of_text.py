"""Experiment 23: does the verdict depend on which 20,000 characters were trained on?"""

from lib.character.experiments.e01_hrm_against_lct import E01
from lib.character.experiments.e02_infini_hrm import E02
from lib.character.experiments.e03_iterative_refinement import E03
from lib.character.experiments.e04_layerwise_progressive import E04
from lib.character.experiments.e07_progressive_growing import E07
from lib.character.experiments.e10_confidence_routing import E10
from lib.character.figures import slices as figures
from lib.character.slices import SLICES, Headline, Sliced, SliceParameters
from lib.experiment import Experiment
from lib.parameters import whole
from lib.results.claims import OWN, Claim


class Exp23(SliceParameters):
    """``shaping_epochs`` as in Experiment 1; patience and rates are each experiment's own."""

    shaping_epochs: int = whole(10, 1, 1_000)

    QUICK = {**SliceParameters.QUICK, "shaping_epochs": 1}
    TINY = {**SliceParameters.TINY, "shaping_epochs": 1}


# The claim that each experiment is about, the cheap ones first: they are trained in turns.
HEADLINES = {
    "exp03": (E03, 0, "irt-beats-standard", "IRT against standard, 1 layer", "irt", "standard"),
    "exp04": (E04, 0, "lpt-beats-standard", "LPT against standard, 4 layers", "lpt", "standard"),
    "exp10": (E10, 0, "routed-beats-full", "Routed against standard, 4 layers", "routed", "full"),
    "exp07": (E07, 1, "lpt-grows-better", "Grown with LPT or without", "lpt_4", "standard_4"),
    "exp02": (E02, 2, "infini-beats-hrm", "HRM with memory or without", "infini_reset", "hrm"),
    "exp01": (E01, 3, "hrm-beats-lct-2", "HRM against LCT+OACD, 2 blocks", "hrm", "oacd_2"),
}
CLAIMED = {
    name: next(claim for claim in origin.claims if claim.id == "-".join((name, claimed)))
    for name, (origin, _, claimed, *_) in HEADLINES.items()
}
COMPARED = {
    name: Headline(name, *said, CLAIMED[name].reported)
    for name, (_, _, _, *said) in HEADLINES.items()
}


def _variants():
    for name, (origin, turn, *_) in HEADLINES.items():
        headline = COMPARED[name]
        for arm in (headline.baseline, headline.treatment):
            for number in range(1, SLICES + 1):
                variant = origin.variants[arm]
                yield (
                    headline.variant(arm, number),
                    Sliced(
                        variant,
                        origin.parameters,
                        number,
                        f"Exp. {int(name[3:])}, {variant.label}, slice {number}",
                        turn,
                        {"headline": name, "arm": arm, "slice": number},
                    ),
                )


def _claims():
    for name, claimed in CLAIMED.items():
        yield Claim(
            f"exp23-{HEADLINES[name][2]}",
            "exp23",
            "this repository",
            f"{claimed.statement}, whichever slice of the text was trained on",
            COMPARED[name].over_slices(),
            "one value a slice, the mean over its seeds, the same on all; Student's t over slices"
            " that share no character, the same valid and test; undecided where slices differ in"
            f" sign; otherwise as in Experiment {int(name[3:])}: {claimed.control}",
            kind=OWN,
            unit=claimed.unit,
            expect=claimed.expect,
            over="slices",
            unanimous=True,
            judges=claimed.id,
        )


TREATMENTS = {
    name: origin.variants[COMPARED[name].treatment].label
    for name, (origin, *_) in HEADLINES.items()
}

E23 = Experiment(
    slug="23_slices_of_text",
    question="Does the verdict depend on which 20,000 characters were trained on?",
    parameters=Exp23,
    texts=Exp23.texts,
    variants=dict(_variants()),
    baseline="exp03_standard_slice_1",
    report="exp23",
    figures={"slices": figures.by_slice(tuple(COMPARED.values()), TREATMENTS)},
    claims=tuple(_claims()),
)
