"""Experiment 3: does refining the same window twice help, and is it the refining that helps?"""

from lib.character.claims import on_wikitext
from lib.character.figures import common
from lib.character.models.hrm import HRMConfig
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Segments, Standard
from lib.character.parameters import CharacterParameters
from lib.character.variants import Variant, baselines
from lib.experiment import Experiment
from lib.results.claims import change

PLAIN, STATEFUL = TransformerConfig(), TransformerConfig(initial_state=True)
LOOPED = Segments(2, joint=True)

# The report's three rows, and the controls that decide what makes the difference. The loop on
# batches of 8 windows instead of 16 steps about as often in an epoch as IRT does.
VARIANTS = {
    "standard": Variant(PLAIN, Standard(), "Standard"),
    "irt": Variant(STATEFUL, Segments(2), "IRT"),
    "hrm": Variant(HRMConfig(width=48), Segments(2), "HRM"),
    "hrm_trained_low": Variant(
        HRMConfig(width=48, update="original"), Segments(2), "HRM, trained L-module"
    ),
    "standard_2_updates": Variant(PLAIN, Standard(updates=2), "Standard, 2 updates a batch"),
    "standard_2_layers": Variant(TransformerConfig(layers=2), Standard(), "Standard, 2 layers"),
    "looped": Variant(STATEFUL, LOOPED, "Looped twice, 1 loss"),
    "looped_batch_8": Variant(
        STATEFUL, LOOPED, "Looped twice, 1 loss, batches of 8", {"batch_size": 8}
    ),
    "irt_1_segment": Variant(STATEFUL, Segments(1), "IRT, 1 segment"),
}

claim = on_wikitext("exp03", "R4, Experiment 3")

CLAIMS = (
    claim(
        "irt-beats-standard",
        "Refinement training beats standard training in one layer",
        change("irt", "standard"),
        "same data order, width and stopping; IRT steps twice a batch and is twice as deep",
        reported=-5.3,
    ),
    claim(
        "irt-not-updates",
        "The gain of refinement training is not its second update a batch",
        change("irt", "standard_2_updates"),
        "equal updates a batch: standard training steps twice on every batch too",
        explains="irt-beats-standard",
    ),
    claim(
        "irt-not-depth",
        "Refinement training gains more than its doubled forward depth does",
        change("irt", "looped"),
        "equal parameters and forward depth: the same block looped twice under one loss; IRT also"
        " steps twice a batch and cuts the gradient between segments",
        explains="irt-beats-standard",
    ),
    claim(
        "irt-not-depth-and-updates",
        "Refinement training gains more than depth and number of updates together do",
        change("irt", "looped_batch_8"),
        "the loop on batches of 8 gives about as many updates (39 and 40 an epoch at"
        " full size); a loss for each segment and the cut gradient still differ",
        explains="irt-beats-standard",
    ),
    claim(
        "hrm-beats-standard",
        "HRM of about equal size beats standard training",
        change("hrm", "standard"),
        "89,472 parameters, of which 49,344 are trained (the refactored HRM never trains its"
        " L-module), against 78,080",
        reported=-4.0,
    ),
    claim(
        "hierarchy-adds-little",
        "Hierarchy adds nothing to refinement training (HRM is worse than IRT)",
        change("hrm", "irt"),
        "two updates a batch each; of HRM's 89,472 parameters 49,344 are trained (L-module"
        " untrained as in the report), of IRT's all 82,176",
        expect="above",
        reported=1.4,
    ),
    claim(
        "trained-hierarchy-adds-little",
        "Hierarchy adds nothing either when the L-module is trained",
        change("hrm_trained_low", "irt"),
        "HRM with the original update, in which the L-module does get a gradient",
        expect="above",
        explains="hierarchy-adds-little",
    ),
    claim(
        "hrm-slower",
        "HRM needs more epochs than IRT to reach its best",
        change("hrm", "irt", "best_epoch"),
        "both step twice a batch and stop on the same validation text",
        expect="above",
        reported=100 * (14 / 6 - 1),
        unit="% change of best epoch",
    ),
)

E03 = Experiment(
    slug="03_iterative_refinement",
    question="Does refining the same window twice help, and is it the refining that helps?",
    parameters=CharacterParameters,
    texts=CharacterParameters.texts,
    variants={**VARIANTS, **baselines()},
    baseline="standard",
    report="exp03",
    figures={
        "perplexity": common.perplexity(
            list(VARIANTS), ("irt", "standard"), "exp03", counted=("bigram",), diamonds=False
        ),
        "curves": common.curves(list(VARIANTS), highest=20),
    },
    claims=CLAIMS,
)
