"""Experiment 5: does adding a layer to a trained model destroy it, or does overfitting?"""

from lib.character.claims import on_repeated, perplexity_change
from lib.character.figures import common, growth
from lib.character.growth_run import Stage
from lib.character.parameters import TwoTexts
from lib.character.variants import Path, baselines
from lib.checks import CheckFailed
from lib.experiment import Experiment
from lib.results.claims import difference
from lib.results.store import Results

BASE, LPT_BASE = Stage(3), Stage(3, loss="sum")
BEST = Stage(4, start="best")
SLOW = Stage(4, start="best", identity=True, old_rate=0.1)

# The report's four rows grow from the last, overfitted state. The others grow from the best epoch,
# or restart without growing, or try what the report names as untested.
VARIANTS = {
    "base": Path((BASE,), "3-layer base"),
    "frozen": Path((BASE, Stage(4, trains="new")), "4-layer frozen"),
    "full": Path((BASE, Stage(4)), "4-layer full"),
    "scratch": Path((Stage(4),), "4-layer scratch"),
    "restarted": Path((BASE, Stage(3)), "3-layer, restarted without growing"),
    "frozen_best": Path((BASE, Stage(4, trains="new", start="best")), "frozen, best epoch"),
    "full_best": Path((BASE, BEST), "full, best epoch"),
    "full_best_identity": Path(
        (BASE, Stage(4, start="best", identity=True)), "full, best epoch, identity"
    ),
    "full_identity": Path((BASE, Stage(4, identity=True)), "full, last state, identity"),
    "full_best_slow": Path(
        (BASE, Stage(4, start="best", old_rate=0.1)), "full, best epoch, slow old layers"
    ),
    "full_best_identity_slow": Path((BASE, SLOW), "full, best epoch, identity and slow"),
    "lpt_base": Path((LPT_BASE,), "3-layer LPT base"),
    "full_best_lpt_base": Path((LPT_BASE, BEST), "full, best epoch, LPT base"),
    "full_best_patient": Path(
        (BASE, Stage(4, start="best", patient=True)), "full, best epoch, to the last epoch"
    ),
    "scratch_patient": Path((Stage(4, patient=True),), "scratch, to the last epoch"),
    "restarted_best": Path((BASE, Stage(3, start="best")), "3-layer, restarted from best epoch"),
}


def identity_is_exact(results: Results) -> None:
    """Growth by identity begins at the perplexity its base ended with; else CheckFailed."""
    frame, keys = results(), ["corpus", "seed"]
    base = frame[frame["variant"] == "base"].set_index(keys)["val_ppl"]
    grown = frame[frame["variant"] == "full_best_identity"].set_index(keys)
    gap = (grown["begin_val_ppl"] / base - 1).abs().max()
    if not gap < 1e-4:
        raise CheckFailed(f"identity growth moved the perplexity by {gap:.2g}")
    print(f"growing by identity moves the perplexity by at most {gap:.1g} of itself")


claim = on_repeated("exp05", "R4, Experiment 5")

CLAIMS = (
    claim(
        "growth-collapses",
        "Adding a fourth layer to a trained model makes it worse",
        perplexity_change("full", "base"),
        "as the report ran it: growth starts from the last, overfitted state",
        expect="above",
        reported=146.7,
    ),
    claim(
        "growth-itself-collapses",
        "Adding a layer makes it worse also when it grows from the best epoch",
        perplexity_change("full_best", "base"),
        "growth starts from the weights of the best epoch; then at least one epoch is trained, and "
        "the state before it is not scored",
        expect="above",
        explains="growth-collapses",
    ),
    claim(
        "restart-itself-worsens",
        "Going on from the best epoch makes it worse without any new layer",
        perplexity_change("restarted_best", "base"),
        "the same three layers, a new optimiser and at least one more epoch",
        expect="above",
        explains="growth-collapses",
    ),
    claim(
        "growth-worse-than-going-on",
        "Growing from the best epoch is worse than only going on from it",
        perplexity_change("full_best", "restarted_best"),
        "both start from the best epoch with a new optimiser; only one gets a layer",
        expect="above",
        explains="growth-collapses",
    ),
    claim(
        "worse-than-restart",
        "Adding a layer is worse than restarting the same model without one",
        perplexity_change("full", "restarted"),
        "both start from the last state with a new optimiser; only one gets a layer",
        expect="above",
        explains="growth-collapses",
    ),
    claim(
        "frozen-equals-full",
        "Freezing the old layers or training all makes little difference",
        perplexity_change("frozen", "full"),
        "as the report ran it, from the last state; equal within 5 %",
        expect="within",
        threshold=5.0,
        reported=1.9,
    ),
    claim(
        "scratch-best",
        "Training four layers from scratch beats growing from three",
        perplexity_change("scratch", "full"),
        "as the report ran it, from the last state",
        reported=-59.9,
    ),
    claim(
        "scratch-best-control",
        "Training from scratch still wins when growth starts from the best epoch",
        perplexity_change("scratch", "full_best"),
        "growth starts from the best epoch's weights; it has spent more compute",
        explains="scratch-best",
    ),
    claim(
        "identity-helps",
        "Starting the new layer as an identity helps growing",
        perplexity_change("full_best_identity", "full_best"),
        "untested idea of the report; both grow from the best epoch",
        kind="own",
    ),
    claim(
        "slow-old-layers-help",
        "A ten times smaller learning rate for the old layers helps growing",
        perplexity_change("full_best_slow", "full_best"),
        "untested idea of the report; both grow from the best epoch",
        kind="own",
    ),
    claim(
        "lpt-base-ends-better",
        "A base trained with LPT ends better after growing than a standard one",
        perplexity_change("full_best_lpt_base", "full_best"),
        "untested idea of the report; best epochs; the LPT base may be better before growing",
        kind="own",
    ),
    claim(
        "lpt-base-gains-more",
        "Growing gains more on a base trained with LPT than on a standard one",
        difference(
            perplexity_change("full_best_lpt_base", "lpt_base"),
            perplexity_change("full_best", "base"),
        ),
        "percent change from each base to what grew from its best epoch, LPT minus standard",
        unit="points of % change of perplexity",
        kind="own",
    ),
    claim(
        "grown-matches-scratch",
        "With identity and slow old layers growing beats scratch given at least as much compute",
        perplexity_change("full_best_identity_slow", "scratch_patient"),
        "scratch trained for all epochs, its best one kept: at least the grown compute",
        kind="own",
    ),
    claim(
        "slow-growth-beats-scratch",
        "With slow old layers growing beats scratch given at least as much compute",
        perplexity_change("full_best_slow", "scratch_patient"),
        "scratch trained for all epochs, best one kept; entered after the results were seen",
        kind="own",
    ),
)

E05 = Experiment(
    slug="05_layer_freezing",
    question="Does adding a layer to a trained model destroy it, or does overfitting?",
    parameters=TwoTexts,
    texts=TwoTexts.texts,
    variants={**VARIANTS, **baselines()},
    baseline="base",
    report="exp05",
    figures={
        "perplexity": common.perplexity(list(VARIANTS), ("full", "base"), "exp05"),
        "stages": growth.stages(("full", "restarted", "full_best", "full_best_identity")),
        "compute": growth.against_compute(
            ("scratch_patient", "full_best", "full_best_identity_slow", "frozen")
        ),
    },
    claims=CLAIMS,
)
