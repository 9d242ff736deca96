"""Experiment 22: which methods of Experiments 1 to 4, 10 and 11 win when everybody is tuned?"""

from dataclasses import replace

from lib.character.choices import tuned_on
from lib.character.experiments.e01_hrm_against_lct import E01
from lib.character.experiments.e02_infini_hrm import E02
from lib.character.experiments.e03_iterative_refinement import E03
from lib.character.experiments.e04_layerwise_progressive import E04
from lib.character.experiments.e10_confidence_routing import E10
from lib.character.experiments.e11_lpt_routing import E11
from lib.character.figures import tuned as figures
from lib.character.tuned import Method, Tuned, TunedParameters, gap
from lib.experiment import Experiment
from lib.results.claims import OWN, Claim, change, claim_maker
from lib.text.corpus import Corpus


class Exp22(TunedParameters):
    """Nothing beyond the shared parameters."""

    def texts(self) -> list[Corpus]:
        """The named text; says where what its tuned rows are trained with was chosen."""
        (corpus,) = found = super().texts()
        rows = [tuned_on(name, corpus.name, len(corpus.train)) for name in METHODS]
        places = {f"{row['corpus']} at {row['train_chars']:,} characters" for row in rows if row}
        if places:
            print(f"numbers of tuned rows were chosen on {' and '.join(sorted(places))}")
        if missing := [name for name, row in zip(METHODS, rows, strict=True) if row is None]:
            print(f"not tuned yet, so without a tuned row: {', '.join(missing)}", flush=True)
        return found


# The arms of the reported claims. Experiments 10 and 11 keep batches in their order and use whole
# ones only; what they compare with does the same. In Experiment 2 the report waits three epochs.
METHODS = {
    name: Method(label, origin.variants[variant], origin.parameters)
    for name, label, origin, variant in (
        ("standard_1", "Standard, 1 layer", E03, "standard"),
        ("irt_1", "IRT, 1 layer", E03, "irt"),
        ("looped_1", "Looped twice, 1 layer, batches of 8", E03, "looped_batch_8"),
        ("standard_4", "Standard, 4 layers", E04, "standard"),
        ("lpt_4", "LPT, 4 layers", E04, "lpt"),
        ("full", "Standard, 4 layers, order kept", E10, "full"),
        ("routed", "Routed, 4 layers", E10, "routed"),
        ("half", "Standard, 2 layers, order kept", E10, "half"),
        ("lpt_routed", "Full LPT, routed", E11, "lpt"),
        ("aware_routed", "LPT + Routing Aware, routed", E11, "aware"),
        ("hrm_small", "HRM of width 48", E03, "hrm"),
        ("hrm_original", "HRM, trained L-module", E01, "hrm"),
        ("oacd_1", "LCT+OACD 1-layer", E01, "oacd_1"),
        ("oacd_2", "LCT+OACD 2-layer", E01, "oacd_2"),
        ("lct_2", "LCT 2-layer, task loss", E01, "lct_2"),
        ("hrm", "HRM", E02, "hrm"),
        ("infini", "Infini-HRM reset", E02, "infini_reset"),
        ("infini_carry", "Infini-HRM carry", E02, "infini_carry"),
        ("hidden", "HRM+Memory reset", E02, "hidden_reset"),
    )
}
METHODS |= {
    name: replace(METHODS[name], variant=replace(METHODS[name].variant, training={"patience": 3}))
    for name in ("hrm", "infini", "infini_carry", "hidden")
}
TURNS = {
    **dict.fromkeys(("standard_1", "irt_1", "looped_1"), 0),
    **dict.fromkeys(("standard_4", "lpt_4"), 1),
}
LARGER = {50_000: "50k", 200_000: "200k", 2_000_000: "2M"}
WIDE = 200_000  # characters on which networks of WIDTH are compared too
WIDTH = 256
ON_LARGER = ("standard_1", "irt_1", "looped_1", "standard_4", "lpt_4", "full", "routed", "half")

VARIANTS = {
    **{
        f"{name}{'_tuned' if tuned else ''}": Tuned(
            name,
            method,
            f"{method.label}{', tuned' if tuned else ''}",
            tuned,
            turn=TURNS.get(name, 2),
            factors={"method": name, "tuned": tuned},
        )
        for name, method in METHODS.items()
        for tuned in (False, True)
    },
    **{
        f"{name}_tuned_{size}": Tuned(
            name,
            METHODS[name],
            f"{METHODS[name].label}, tuned, {size} characters",
            chars=chars,
            turn=turn,
            factors={"method": name, "tuned": True},
        )
        for turn, (chars, size) in enumerate(LARGER.items(), 3)
        for name in ON_LARGER
    },
    **{
        f"{name}_tuned_wide": Tuned(
            name,
            METHODS[name],
            f"{METHODS[name].label}, tuned, {LARGER[WIDE]} characters, width {WIDTH}",
            chars=WIDE,
            width=WIDTH,
            turn=3 + len(LARGER),
            factors={"method": name, "tuned": True},
        )
        for name in ON_LARGER
    },
}

claim = claim_maker("exp22", "this repository", kind=OWN)

ALIKE = (
    "learning rate, weight decay, dropout and average of the weights chosen for both alike on"
    " validation text, with two random seeds that are used for nothing else"
)
COMPARED = {  # name of the claim: what it compares, whose claim it checks, and in words
    "tuned-irt-beats-tuned-standard": (
        "irt_1",
        "standard_1",
        "exp03-irt-beats-standard",
        "Refinement training beats standard training in one layer when both are tuned",
    ),
    "tuned-irt-beats-tuned-loop": (
        "irt_1",
        "looped_1",
        "exp03-irt-beats-standard",
        "Tuned refinement training beats the tuned loop with one loss and as many updates",
    ),
    "tuned-lpt-beats-tuned-standard": (
        "lpt_4",
        "standard_4",
        "exp04-lpt-beats-standard",
        "A loss at every layer beats standard training in four layers when both are tuned",
    ),
    "tuned-routing-beats-tuned-full": (
        "routed",
        "full",
        "exp10-routed-beats-full",
        "The confidence-routed transformer beats the standard four layers when both are tuned",
    ),
    "tuned-routing-beats-tuned-half": (
        "routed",
        "half",
        "exp10-routed-beats-half",
        "The confidence-routed transformer beats the standard two layers when both are tuned",
    ),
    "tuned-lpt-spoils-tuned-routing": (
        "lpt_routed",
        "routed",
        "exp11-lpt-spoils-routing",
        "Training every layer (LPT) makes the routed network worse when both are tuned",
    ),
    "tuned-aware-spoils-tuned-routing": (
        "aware_routed",
        "routed",
        "exp11-aware-spoils-routing",
        "Routing-aware LPT makes the routed network worse when both are tuned",
    ),
    "tuned-hrm-beats-tuned-standard": (
        "hrm_small",
        "standard_1",
        "exp03-hrm-beats-standard",
        "HRM of about equal size beats standard training in one layer when both are tuned",
    ),
    "tuned-hrm-adds-little-to-tuned-irt": (
        "hrm_small",
        "irt_1",
        "exp03-hierarchy-adds-little",
        "HRM is worse than refinement training when both are tuned",
    ),
    "tuned-hrm-beats-tuned-lct-1": (
        "hrm_original",
        "oacd_1",
        "exp01-hrm-beats-lct-1",
        "HRM beats LCT+OACD of one block when both are tuned",
    ),
    "tuned-hrm-beats-tuned-lct-2": (
        "hrm_original",
        "oacd_2",
        "exp01-hrm-beats-lct-2",
        "HRM beats LCT+OACD of two blocks when both are tuned",
    ),
    "tuned-two-blocks-help-tuned-lct": (
        "oacd_2",
        "oacd_1",
        "exp01-two-blocks-help-lct",
        "A second block helps LCT+OACD when both are tuned",
    ),
    "tuned-hrm-beats-tuned-supervised-lct": (
        "hrm_original",
        "lct_2",
        "exp01-hrm-beats-lct-2",
        "HRM beats the LCT network of two blocks under the same supervision when both are tuned",
    ),
    "tuned-infini-beats-tuned-hrm": (
        "infini",
        "hrm",
        "exp02-infini-beats-hrm",
        "An infini-attention input layer (memory reset) helps HRM when both are tuned",
    ),
    "tuned-reset-beats-tuned-carry": (
        "infini",
        "infini_carry",
        "exp02-reset-beats-carry",
        "Resetting the memory every batch beats carrying it when both are tuned",
    ),
    "tuned-hidden-memory-fails": (
        "hidden",
        "hrm",
        "exp02-hidden-reset-fails",
        "Memory inside the hidden states (reset) harms HRM when both are tuned",
    ),
}
FAILS = {  # what a mean hides
    "full": "; one of ten tuned trainings of the four layers fails on wikitext-2-standin and counts"
}
OTHERS = ("looped_1", "lct_2")  # what no report compares with: controls of ours
CHECKED = {c.id: c for origin in (E01, E02, E03, E04, E10, E11) for c in origin.claims}
WORSE = ("spoils", "adds-little", "fails")  # a claim so named says that the first is worse


def _compared():
    for name, (treatment, baseline, checked, words) in COMPARED.items():
        origin = f"checks {checked}"
        if baseline not in OTHERS:
            origin += f", otherwise as there: {CHECKED[checked].control}"
        yield claim(
            name,
            words,
            change(f"{treatment}_tuned", f"{baseline}_tuned"),
            f"{ALIKE}{FAILS.get(baseline, '')}; {origin}",
            expect="above" if any(word in name for word in WORSE) else "below",
        )


def _gaps():
    """Whether tuning takes from what a method gains over its baseline, or adds to it."""
    for name in (
        "irt-beats-tuned-standard",
        "lpt-beats-tuned-standard",
        "routing-beats-tuned-full",
    ):
        treatment, baseline, *_ = COMPARED[f"tuned-{name}"]
        yield claim(
            f"tuning-shrinks-{name.split('-')[0]}-gain",
            f"Tuning both shrinks what {METHODS[treatment].label} gains over"
            f" {METHODS[baseline].label}",
            gap(treatment, baseline),
            "tuned change minus untuned change, the same random seeds;"
            f" {ALIKE}{FAILS.get(baseline, '')}",
            expect="above",
            unit="points of the percent change of perplexity",
        )


def _tuning():
    for name, method in METHODS.items():
        yield claim(
            f"tuning-helps-{name.replace('_', '-')}",
            f"Tuning improves {method.label}",
            change(f"{name}_tuned", name),
            "the same random seeds, as reported and tuned, which may train for 90 epochs instead of"
            f" 30; chosen on validation text with others{FAILS.get(name, '')}",
        )


def _larger():
    sizes = {size: f"{chars:,} training characters" for chars, size in LARGER.items()}
    sizes["wide"] = f"{sizes[LARGER[WIDE]]} and width {WIDTH}"
    for size, told in sizes.items():
        for treatment, baseline, words in (
            ("irt_1", "standard_1", "Tuned refinement beats tuned standard training in one layer"),
            ("irt_1", "looped_1", "Tuned refinement beats the tuned loop with one loss"),
            ("lpt_4", "standard_4", "A tuned loss at every layer beats tuned standard training"),
            ("routed", "full", "Tuned routing beats the tuned standard four layers"),
        ):
            yield claim(
                f"larger-{treatment.split('_')[0]}-{baseline.replace('_', '-')}-{size}",
                f"{words} at {told}",
                change(f"{treatment}_tuned_{size}", f"{baseline}_tuned_{size}"),
                "equal limit of epochs and stopping; numbers chosen for both alike at the size of"
                " text nearest to it for which that was done, at width 64",
            )


CLAIMS: tuple[Claim, ...] = (*_compared(), *_gaps(), *_tuning(), *_larger())
PAIRS = {  # what is compared, with the report's own change where it has one
    (treatment, baseline): None if baseline in OTHERS else CHECKED[checked].reported
    for treatment, baseline, checked, _ in COMPARED.values()
}


def pairs_of(*reports: str) -> tuple[tuple[str, str], ...]:
    """What is compared to check claims of these experiments (``exp01``)."""
    chosen = [checked.split("-")[0] in reports for *_, checked, _ in COMPARED.values()]
    return tuple(pair for pair, own in zip(PAIRS, chosen, strict=True) if own)


def methods_in(pairs: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The methods of some pairs in the order of METHODS."""
    return tuple(name for name in METHODS if any(name in pair for pair in pairs))


# Drawn apart: LCT+OACD is several times as perplexed as all others.
ON_LCT, ON_MEMORY = pairs_of("exp01"), pairs_of("exp02")
ON_DEPTH = pairs_of("exp03", "exp04", "exp10", "exp11")
SIZES = {  # end of a tuned variant's name -> size in words
    "": "usual text",
    **{f"_{size}": f"{chars:,} characters" for chars, size in LARGER.items()},
    "_wide": f"{WIDE:,} characters, width {WIDTH}",
}

E22 = Experiment(
    slug="22_tuned_baselines",
    question=(
        "Do refinement, a loss at every layer, routing and HRM still win when all are tuned?"
    ),
    parameters=Exp22,
    texts=Exp22.texts,
    variants=VARIANTS,
    baseline="standard_1",
    report="exp22",
    figures={
        "pairs": figures.pairs(ON_DEPTH),
        "pairs_lct": figures.pairs(ON_LCT),
        "pairs_memory": figures.pairs(ON_MEMORY),
        "gains": figures.gains(methods_in(ON_DEPTH)),
        "gains_hrm": figures.gains(methods_in(ON_LCT + ON_MEMORY)),
        "sizes": figures.sizes(
            tuple(pair for pair in PAIRS if set(pair) <= {*ON_LARGER}), tuple(LARGER.values())
        ),
    },
    claims=CLAIMS,
)
