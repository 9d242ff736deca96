"""Notebook 20: spend depth where it is needed, or spend less of it everywhere?"""

from functools import partial

from lib.depth import figures, fronts
from lib.depth.evaluation import AIMS
from lib.depth.methods import Method, last_removed, middle_removed
from lib.depth.parameters import DepthParameters
from lib.depth.rules import RULES
from lib.depth.variants import Variant, again, exits_of, gated, removed
from lib.experiment import Experiment
from lib.results.claims import OWN, claim_maker


class Exp20(DepthParameters):
    """Nothing beyond the shared parameters."""


# The same text, updates and trained numbers for all; learning rates chosen alike (tuning.py).
VARIANTS = {
    "base": Variant(
        "Base, untouched", "adapted", partial(Method, trained=False), {"kind": "reference"}, True
    ),
    "adapted": Variant("Base, adapted", "adapted", Method, {"kind": "reference"}, timed=True),
    "exits": Variant(
        "Losses at every exit",
        "exits",
        lambda layers: Method(layers, exits=exits_of(layers)),
        {"kind": "adaptive"},
        timed=True,
    ),
    "layerskip": Variant(
        "LayerSkip",
        "layerskip",
        lambda layers: Method(
            layers, exits=exits_of(layers), exit_loss="rising", layer_dropout=0.1
        ),
        {"kind": "adaptive"},
        timed=True,
    ),
    "gated": Variant("Gated middle", "gated", gated, {"kind": "adaptive"}, timed=True),
    **{
        f"{where}_removed_{name}": Variant(
            f"{where.title()} layers removed, {name} %",
            "removed",
            removed(kind, aim),
            {"kind": "fixed", "cost": aim},
            timed=True,
        )
        for where, kind in (("last", last_removed), ("middle", middle_removed))
        for aim, name in fronts.NAMES.items()
    },
    # A second pass: 6 layers over all tokens cost as much as 12 over half of them.
    "again_all": Variant("Second pass, all tokens", "again", again(0.8, 1, "all")),
    "again_all_long": Variant("Second pass, all tokens, long", "again", again(0.5, 1, "all")),
    "again_all_middle": Variant("Second pass, middle, all tokens", "again", again(0.4, 0.6, "all")),
    "again_hard": Variant("Second pass, hard tokens", "again", again(0.6, 1, "hard", 0.3)),
    "again_random": Variant("Second pass, random tokens", "again", again(0.6, 1, "random", 0.5)),
    "again_untrained": Variant(
        "Second pass, untrained", "again", again(0.8, 1, "all", trained=False), once=True
    ),
    "again_untrained_middle": Variant(
        "Second pass, middle, untrained", "again", again(0.4, 0.6, "all", trained=False), once=True
    ),
}

BETWEEN = (
    "a rule, its exits and threshold chosen on valid seed by seed, then points by their means on"
    " valid: straight lines in (cost, loss) between those on the lower hull, at the costs measured"
    " on each test text; mean loss of both texts"
)
ALIKE = (
    "same text, updates and trained numbers within 5 %; a rate for each kind of network, by the"
    " mean over its read-outs, that of the cuts found on one of them"
)

BEST_EXITS = fronts.grouped("exits", "head", "state")

claim = claim_maker("exp20", "this repository", kind=OWN)


def _adaptive_claims():
    for aim in AIMS:
        yield claim(
            f"adaptive-beats-fixed-{fronts.NAMES[aim]}",
            f"At {aim:g} of the base's cost the best adaptive method beats the best fixed depth",
            fronts.better_by(fronts.adaptive, fronts.fixed, aim),
            f"{BETWEEN}; adaptive: every network with exits that has been run, under its best rule"
            " with and without the head, keys and values propagated, or one read-out for all"
            f" tokens, and a gated block; fixed: last or middle layers removed; {ALIKE}",
        )
    for aim in AIMS:
        yield claim(
            f"exits-beat-random-{fronts.NAMES[aim]}",
            f"At {aim:g} of the base's cost exits by the best rule beat random ones",
            fronts.better_by(BEST_EXITS, fronts.grouped("exits", "random"), aim),
            f"{BETWEEN}; one network with losses at every exit; random exits, drawn for each token"
            " from the rule's own, need no read-out of the head before they stop",
        )
    networks = (
        ("exits", "exits-beat", "exits", "losses at every exit"),
        ("layerskip", "layerskip-beats", "LayerSkip's exits", "rising weights and dropped layers"),
    )
    for network, name, words, told in networks:
        for aim in AIMS:
            yield claim(
                f"{name}-whole-texts-{fronts.NAMES[aim]}",
                f"At {aim:g} of the base's cost {words} by the best rule beat one read-out a text",
                fronts.better_by(
                    fronts.grouped(network, "head", "state"), fronts.whole_texts(network), aim
                ),
                f"{BETWEEN}; one network with {told}; a share of the texts is read out early, the"
                " others late, whatever is in them",
            )


def _rule_claims():
    for rule in RULES:
        yield claim(
            f"{rule.replace('_', '-')}-beats-random",
            f"Exits by {rule.replace('_', ' ')} beat random exits at the same rates",
            fronts.rule_against_random("exits", rule, 0.7),
            "one network with losses at every exit; the set of exits and the threshold chosen on"
            " valid for 0.7 of the base's cost; exact states; the random loss is an expectation at"
            " the rates measured on test",
        )


ADAPTED = fronts.single("adapted")
ALL = fronts.single("again_all")
HARD, RANDOM = fronts.single("again_hard"), fronts.single("again_random")
EQUAL = fronts.cost_of("again_all")

CLAIMS = (
    *_adaptive_claims(),
    *_rule_claims(),
    claim(
        "recomputation-eats-the-gain",
        "With exact keys and values early exit saves less than a tenth of the base's cost",
        fronts.recomputed_cost("exits", 0.7),
        "the rule and threshold of 0.7 of the cost with free keys; a skipped layer is run, whole,"
        " as soon as a later token of the window needs it: an upper bound, by a point or two",
        expect="above",
        threshold=90.0,
        unit="% of the base's cost",
    ),
    claim(
        "second-pass-helps",
        "A second pass of the last fifth over all tokens beats one pass",
        fronts.better_by(ALL, ADAPTED, EQUAL),
        f"more computation for the second pass; {ALIKE}",
    ),
    claim(
        "hard-beats-all-again",
        "A second pass over hard tokens beats one over all tokens at equal cost",
        fronts.better_by(HARD, ALL, EQUAL),
        f"{BETWEEN}; hard by the entropy of a first read-out, which is counted; two fifths of the"
        f" layers over some tokens against one fifth over all; {ALIKE}",
    ),
    claim(
        "hard-beats-random-again",
        "A second pass over hard tokens beats one over random tokens at equal cost",
        fronts.better_by(HARD, RANDOM, EQUAL),
        f"{BETWEEN}; the same two fifths of the layers; random tokens need no first read-out;"
        f" {ALIKE}",
    ),
)  # fmt: skip

E20 = Experiment(
    slug="20_adaptive_or_fixed_depth",
    question="Spend depth where it is needed, or spend less of it everywhere?",
    parameters=Exp20,
    texts=Exp20.texts,
    variants=VARIANTS,
    baseline="adapted",
    figures={
        "front": figures.front,
        "rules": figures.rules_against_random,
        "second_pass": figures.second_pass,
        "exits": figures.losses_by_depth,
        "time": figures.time_against_cost,
    },
    claims=CLAIMS,
)
