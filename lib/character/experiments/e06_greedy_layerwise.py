"""Experiment 6: does greedy layer-wise training explode, and is greed the reason?"""

from lib.character.claims import on_repeated, perplexity_change
from lib.character.figures import common, growth
from lib.character.growth_run import Stage, Stages
from lib.character.parameters import TwoTexts
from lib.character.variants import Path, baselines
from lib.experiment import Experiment


def greedy(depth: int, start: str = "last", identity: bool = False) -> Stages:
    """One block at a time, everything below frozen, the embedding at random from the outset."""
    first = Stage(1, trains="new")
    above = (Stage(k, "new", start=start, identity=identity) for k in range(2, depth + 1))
    return (first, *above)


def fine_tuned(path: Stages, start: str = "last") -> Stages:
    """All layers together afterwards, at a tenth of the learning rate."""
    return (*path, Stage(path[-1].layers, start=start, rate=0.1))


EMBEDDED = (Stage(1), *(Stage(k, "new", start="best") for k in (2, 3, 4)))
RESTARTED, BEST = (Stage(1),) * 4, (Stage(1), *(Stage(1, start="best"),) * 3)

# The restarts have as many stages as four greedy layers, the embedding at random throughout.
VARIANTS = {
    **{f"greedy_{k}": Path(greedy(k), f"greedy {k}") for k in (1, 2, 3, 4)},
    "fine_tuned": Path(fine_tuned(greedy(4)), "greedy + fine-tune"),
    "scratch": Path((Stage(4),), "4-layer scratch"),
    **{f"greedy_{k}_best": Path(greedy(k, "best"), f"greedy {k}, best epochs") for k in (2, 3, 4)},
    "fine_tuned_best": Path(
        fine_tuned(greedy(4, "best"), "best"), "greedy + fine-tune, best epochs"
    ),
    "greedy_4_best_identity": Path(greedy(4, "best", True), "greedy 4, best epochs, identity"),
    "greedy_4_best_embedding": Path(EMBEDDED, "greedy 4, best epochs, trained embedding"),
    "greedy_1_restarted": Path(RESTARTED, "greedy 1, restarted three times", frozen_embedding=True),
    "greedy_1_restarted_best": Path(
        BEST, "greedy 1, restarted three times, best epochs", frozen_embedding=True
    ),
}

claim = on_repeated("exp06", "R4, Experiment 6")

LONGER = "four stages of epochs against one, which on real text ends at their limit"
STAGES = "four stages, limit of epochs and stopping the same in both"

CLAIMS = (
    claim(
        "greedy-explodes",
        "Greedy layer-wise training harms: four layers are worse than one",
        perplexity_change("greedy_4", "greedy_1"),
        f"as the report ran it: every stage starts from the last, overfitted state; {LONGER}",
        expect="above",
        reported=1919.2,
    ),
    claim(
        "greed-itself-explodes",
        "Four greedy layers are worse than one also when stages start from best epochs",
        perplexity_change("greedy_4_best", "greedy_1"),
        f"every stage starts from the best epoch of the one before; {LONGER}",
        expect="above",
        explains="greedy-explodes",
    ),
    claim(
        "restarts-themselves-worsen",
        "Restarting one greedy layer three times makes it worse without any further layer",
        perplexity_change("greedy_1_restarted_best", "greedy_1"),
        "the same layer; every restart begins at the best epoch and trains at least one more",
        expect="above",
        explains="greedy-explodes",
    ),
    claim(
        "restarts-explode",
        "Restarts alone make one greedy layer worse, from last states",
        perplexity_change("greedy_1_restarted", "greedy_1"),
        "the same layer, restarted as often as four greedy layers have stages",
        expect="above",
        explains="greedy-explodes",
    ),
    claim(
        "greed-worse-than-restarts",
        "Four greedy layers are worse than one layer restarted as often, from last states",
        perplexity_change("greedy_4", "greedy_1_restarted"),
        f"{STAGES}, every one from the last state",
        expect="above",
        explains="greedy-explodes",
    ),
    claim(
        "greed-worse-than-restarts-control",
        "Four greedy layers are worse than one layer restarted as often, from best epochs",
        perplexity_change("greedy_4_best", "greedy_1_restarted_best"),
        f"{STAGES}, every one from the best epoch",
        expect="above",
        explains="greedy-explodes",
    ),
    claim(
        "fine-tuning-worsens",
        "Fine-tuning all layers afterwards makes it worse",
        perplexity_change("fine_tuned", "greedy_4"),
        "as the report ran it, from the last state at a tenth of the learning rate",
        expect="above",
        reported=93.9,
    ),
    claim(
        "fine-tuning-worsens-control",
        "Fine-tuning makes it worse also when it starts from the best epochs",
        perplexity_change("fine_tuned_best", "greedy_4_best"),
        "every stage and the fine-tuning start from the best epoch",
        expect="above",
        explains="fine-tuning-worsens",
    ),
    claim(
        "scratch-beats-greedy",
        "Four layers from scratch beat four greedy ones",
        perplexity_change("scratch", "greedy_4"),
        "as the report ran it, from the last states",
        reported=-95.5,
    ),
    claim(
        "scratch-beats-greedy-control",
        "Four layers from scratch beat greedy ones grown from their best epochs",
        perplexity_change("scratch", "greedy_4_best"),
        "every stage starts from the best epoch; greedy keeps its random embedding",
        explains="scratch-beats-greedy",
    ),
    claim(
        "scratch-beats-fine-tuned",
        "Four layers from scratch beat greedy ones after fine-tuning, from best epochs",
        perplexity_change("scratch", "fine_tuned_best"),
        "all layers and the embedding trained in the end",
        explains="scratch-beats-greedy",
    ),
    claim(
        "identity-helps-greedy",
        "Starting each new layer as an identity helps greedy training",
        perplexity_change("greedy_4_best_identity", "greedy_4_best"),
        "untested idea of the report; best epochs in both",
        kind="own",
    ),
)

E06 = Experiment(
    slug="06_greedy_layerwise",
    question="Does greedy layer-wise training explode, and is greed the reason?",
    parameters=TwoTexts,
    texts=TwoTexts.texts,
    variants={**VARIANTS, **baselines()},
    baseline="greedy_1",
    report="exp06",
    figures={
        "perplexity": common.perplexity(list(VARIANTS), ("greedy_4", "greedy_1"), "exp06"),
        "stages": growth.stages(("fine_tuned", "fine_tuned_best", "scratch")),
        "compute": growth.against_compute(
            ("scratch", "fine_tuned_best", "greedy_4_best_identity", "greedy_4_best_embedding")
        ),
    },
    claims=CLAIMS,
)
