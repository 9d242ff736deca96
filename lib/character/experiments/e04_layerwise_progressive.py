"""Experiment 4: four layers -- does a loss at every layer help, and does refinement still?"""

from matplotlib.figure import Figure

from lib.character.claims import on_wikitext
from lib.character.figures import common
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Segments, Standard
from lib.character.parameters import CharacterParameters
from lib.character.variants import Variant, baselines
from lib.experiment import Experiment
from lib.figures import panels, style
from lib.figures.training import OVER_SEEDS, over_epochs
from lib.results.claims import Measure, at_epoch, change, difference
from lib.results.store import Results

PLAIN = TransformerConfig(layers=4)
STATEFUL = TransformerConfig(layers=4, initial_state=True)
LAYERS = (1, 2, 3, 4)

# The report's four rows and controls of equal updates, equal depth and fewer losses.
VARIANTS = {
    "standard": Variant(PLAIN, Standard(), "Standard"),
    "irt": Variant(STATEFUL, Segments(2), "IRT"),
    "lpt": Variant(PLAIN, LayerLosses((1, 1, 1, 1)), "LPT sum"),
    "lpt_weighted": Variant(PLAIN, LayerLosses((1, 2, 3, 4)), "LPT weighted"),
    "losses_2_4": Variant(PLAIN, LayerLosses((0, 1, 0, 1)), "Losses at layers 2 and 4"),
    "standard_2_updates": Variant(PLAIN, Standard(updates=2), "Standard, 2 updates a batch"),
    "looped": Variant(STATEFUL, Segments(2, joint=True), "Looped twice, 1 loss"),
}


def layer_loss(layer: int, epoch: int | str) -> Measure:
    """Training loss of LPT sum after a layer, in nats, at a numbered epoch or at ``best_epoch``."""
    return at_epoch("lpt", f"train_loss_layer_{layer}", epoch)


def layer_losses(results: Results) -> Figure:
    """Draw the training loss of LPT sum after every layer, through the shared head; a panel a text.

    Mean over seeds against epochs; lines end with the first seed to stop.
    """
    curve = results("curve")
    curve = curve[curve["variant"] == "lpt"]
    figure, axes = panels.grid_of_panels(panels.counted(results()), "", 3.8)
    ends = {}
    for panel, corpus in zip(axes, results.corpora, strict=True):
        own = curve[curve["corpus"] == corpus]
        for layer in LAYERS:
            colour, column = style.COLOURS[layer - 1], f"train_loss_layer_{layer}"
            over_epochs(panel, own, column, f"layer {layer}", color=colour)
        last = own[own["epoch"] == own.groupby("seed")["epoch"].max().min()].mean(numeric_only=True)
        first, deepest = (last[f"train_loss_layer_{layer}"] for layer in (1, 4))
        ends[corpus] = f"{first:.2f} and {deepest:.2f}"
        style.whole_numbers(panel.xaxis)
        panel.set_xlabel("epoch")
    panels.heading(figure, "Training loss by layer, LPT: layers 1 and 4 end at", ends)
    axes[0].set_ylabel("training loss (nats per character)")
    style.legend(figure, axes[0], OVER_SEEDS, len(LAYERS))
    return figure


claim = on_wikitext("exp04", "R4, Experiment 4")

CLAIMS = (
    claim(
        "lpt-beats-standard",
        "A loss at every layer (LPT sum) beats standard training in four layers",
        change("lpt", "standard"),
        "equal parameters, data order, updates a batch and stopping",
        reported=-5.8,
    ),
    claim(
        "lpt-not-updates",
        "The gain of LPT is more than faster fitting",
        change("lpt", "standard_2_updates"),
        "standard training given two updates a batch, which alone helps it in four layers",
        explains="lpt-beats-standard",
    ),
    claim(
        "lpt-weighted-beats-standard",
        "LPT with weights 1, 2, 3, 4 beats standard training",
        change("lpt_weighted", "standard"),
        "equal parameters, data order, updates a batch and stopping",
        reported=-4.3,
    ),
    claim(
        "sum-beats-weighted",
        "Equal weights beat increasing ones",
        change("lpt", "lpt_weighted"),
        "equal parameters, data order and updates; only the loss weights differ",
        reported=100 * (10.27 / 10.43 - 1),
    ),
    claim(
        "irt-harms-deep",
        "Refinement training harms a model of four layers",
        change("irt", "standard"),
        "as the report ran it: IRT steps twice a batch and runs eight blocks deep",
        expect="above",
        reported=8.6,
    ),
    claim(
        "irt-harm-not-updates",
        "Its harm is not the second update a batch",
        change("irt", "standard_2_updates"),
        "equal updates a batch",
        expect="above",
        explains="irt-harms-deep",
    ),
    claim(
        "irt-harm-not-depth",
        "Its harm is not the doubled forward depth",
        change("irt", "looped"),
        "equal parameters and forward depth: the four blocks looped twice under one loss; IRT also"
        " steps twice a batch and cuts the gradient between segments",
        expect="above",
        explains="irt-harms-deep",
    ),
    claim(
        "all-layers-beat-two",
        "Losses at all four layers beat losses at layers 2 and 4",
        change("lpt", "losses_2_4"),
        "equal parameters, data order and updates; only the number of losses differs",
        explains="lpt-beats-standard",
    ),
    claim(
        "deep-layers-lower",
        "Under LPT the training loss falls with depth (layer 1 minus layer 4)",
        difference(layer_loss(1, "best_epoch"), layer_loss(4, "best_epoch")),
        "one shared head reads every layer",
        expect="above",
        reported=2.33 - 1.59,
        unit="nats at the best epoch",
    ),
)

# The report's table of training losses.
BESIDE = {
    (f"LPT sum epoch {epoch} L{layer}", "train_loss"): layer_loss(layer, epoch)
    for epoch in (1, 5, 10, 15)
    for layer in LAYERS
}
REMARKS = {"LPT sum epoch 15 *": "of the n seeds that early stopping lets train so long"}

E04 = Experiment(
    slug="04_layerwise_progressive",
    question="Four layers: does a loss at every layer help, and does refinement still?",
    parameters=CharacterParameters,
    texts=CharacterParameters.texts,
    variants={**VARIANTS, **baselines()},
    baseline="standard",
    report="exp04",
    figures={
        "perplexity": common.perplexity(
            list(VARIANTS), ("lpt", "standard"), "exp04", counted=("bigram",), diamonds=False
        ),
        "curves": common.curves(list(VARIANTS), highest=20),
        "layer_losses": layer_losses,
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
)
