"""Experiment 8: are deep layers for hard symbols, and can the size of a change tell them apart?"""

import pandas as pd
from matplotlib.figure import Figure

from lib.character.analysis.difficulty import ALL, GROUPS, PAIRS, REFERENCES
from lib.character.claims import on_repeated, probed
from lib.character.figures.exits import reported_split
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Standard
from lib.character.parameters import TwoTexts
from lib.character.variants import Probed, baselines
from lib.experiment import Experiment
from lib.figures import alternative, rows, style
from lib.figures.panels import band, corpora, counted, grid_of_panels, heading
from lib.results import store, tables
from lib.results.claims import Measure, ratio
from lib.results.statistics import interval
from lib.results.store import Results


class Exp08(TwoTexts):
    """Nothing beyond the shared parameters; from two seeds on, a network is the reference of
    difficulty for another."""

    QUICK = {**TwoTexts.QUICK, "seeds": 2}
    TINY = {**TwoTexts.TINY, "seeds": 2}


# The report's network (initialisation B), and one whose every layer was trained to predict.
MODEL = TransformerConfig(layers=4, initialisation="B")
VARIANTS = {
    "standard": Probed(MODEL, Standard(), "Standard 4-layer", referenced=True),
    "lpt": Probed(MODEL, LayerLosses((1, 1, 1, 1)), "LPT 4-layer", referenced=True),
}


def layers_table(results: Results) -> pd.DataFrame:
    """Loss and size of change by layer and difficulty, measured as the report did.

    The standard network at the last epoch, its own final loss the reference, on all of valid; means
    over seeds.
    """
    rows = results("layers")
    wanted = {"variant": "standard", "state": "last", "reference": "own", "split": "valid"}
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    wide = rows.pivot_table(index=["corpus", "layer"], columns="group", values=["loss", "norm"])
    return wide.reindex(columns=GROUPS, level="group").round(2)


def references_table(results: Results) -> pd.DataFrame:
    """Percent by which the loss falls from layer 1 to layer 4, by reference and difficulty, at the
    best epoch on the reported split; means [95 % intervals] over seeds. Negative: it grows."""
    frame = reported_split(results, "references")
    wide = frame[frame["state"] == "best"].pivot_table(
        index=["corpus", "variant", "reference", "group", "seed"],
        columns="layer",
        values="loss",
        sort=False,
    )
    fall = 100 * (1 - wide[4] / wide[1])
    shown = fall.groupby(level=[0, 1, 2, 3], sort=False).agg(lambda v: str(interval(v)))
    shown = shown.unstack("group").add_suffix(": fall of loss, %")
    return tables.captioned(shown, results())


def reported_layers() -> pd.DataFrame:
    """The report's own table: one row a difficulty, or a layer and difficulty."""
    return store.reported("exp08").pivot_table(
        index="row", columns="metric", values="value", sort=False
    )


COLOURS = dict(zip(GROUPS, (style.COLOURS[2], style.COLOURS[0], style.COLOURS[1]), strict=True))
STATES = {("best", "other"): "-", ("last", "own"): "--"}  # epoch and reference: line
NOTE = (
    "solid: best epoch; reference of difficulty: the network of another random seed\n"
    "dashed: last epoch; reference: the network's own final loss, as in the report\n"
    "test symbols (second half of valid where there is no test)\n"
    "line: mean over seeds; band: 95 % interval over seeds"
)


def by_difficulty(variant: str, column: str, label: str, title: str):
    """Draw the mean of ``column`` (loss or norm) after each layer, by difficulty; a panel a text.

    Solid: best epoch, the network of another random seed is the reference of difficulty. Dashed:
    last epoch, the network's own final loss is, as in the report. Bands are 95 % intervals.
    """

    def draw(results: Results) -> Figure:
        layers, name = reported_split(results, "layers"), results.labels[variant]
        own = layers[layers["variant"] == name]
        figure, axes = grid_of_panels(counted(own), "", 3.8)
        grown: dict[str, dict[str, str]] = {state: {} for state, _ in STATES}
        for panel, corpus in zip(axes, corpora(own), strict=True):
            for group, colour in COLOURS.items():
                for (state, reference), line in STATES.items():
                    here = own[
                        (own["corpus"] == corpus)
                        & (own["group"] == group)
                        & (own["state"] == state)
                        & (own["reference"] == reference)
                    ]
                    shown = f"{group} symbols" if line == "-" else None
                    look = {"color": colour, "linestyle": line, "marker": "o", "markersize": 4}
                    band(panel, here, "layer", column, label=shown, **look)
                    by_layer = here.groupby("layer")[column].mean()
                    if group == "hard" and len(by_layer):
                        grown[state][corpus] = f"{by_layer.iloc[0]:.1f} and {by_layer.iloc[-1]:.1f}"
            style.whole_numbers(panel.xaxis)
            panel.set_xlabel("layer")
        what = f"{title}, {name}, last epoch: hard symbols after the first and the last layer"
        heading(figure, what, grown["last"])
        best = ", ".join(f"{ends} on {corpus}" for corpus, ends in grown["best"].items())
        alternative.say(figure, f"At the best epoch, by another network: {best}.")
        axes[0].set_ylabel(label)
        style.legend(figure, axes[-1], NOTE, 3)
        return figure

    return draw


def by_reference(variant: str):
    """Draw the percent by which hard symbols' loss grows from the first layer to the last.

    A row a reference of difficulty, a panel a text; seeds, mean and interval.
    """

    def draw(results: Results) -> Figure:
        table, name = reported_split(results, "references"), results.labels[variant]
        own = table[
            (table["variant"] == name) & (table["group"] == "hard") & (table["state"] == "best")
        ]
        height = rows.HEIGHT * len(REFERENCES) + 1.6
        figure, axes = grid_of_panels(counted(own), "", height, sharey=True)
        span = {}
        for panel, corpus in zip(axes, corpora(own), strict=True):
            here = own[own["corpus"] == corpus]
            for y, reference in enumerate(REFERENCES):
                wide = here[here["reference"] == reference]
                wide = wide.pivot(index="seed", columns="layer", values="loss")
                growth = 100 * (wide[wide.columns.max()] / wide[wide.columns.min()] - 1)
                rows.draw(panel, y, growth.to_numpy(), style.COLOURS[y])
                span.setdefault(corpus, []).append(growth.mean())
            rows.name_rows(panel, list(REFERENCES))
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_xlabel("growth of loss, %")
        said = {corpus: f"{min(v):.0f} to {max(v):.0f} %" for corpus, v in span.items()}
        what = f"{name}: growth of hard symbols' loss from first to last layer, by reference"
        heading(figure, what, said)
        axes[0].set_ylabel("reference of difficulty")
        style.legend(figure, rows.key(False), columns=3)
        return figure

    return draw


def cell(
    column: str, layer: int, group: str, state: str, reference: str = "own", variant="standard"
) -> Measure:
    """A mean over a difficulty group after a layer."""
    table = "references" if reference in REFERENCES else "layers"
    where = {"layer": layer, "group": group, "reference": reference}
    return probed(variant, column, state, table=table, **where)


def improvement(group: str, state: str, reference: str = "own", variant="standard") -> Measure:
    """Percent by which the loss falls from the first layer to the last; negative is worse."""
    first = cell("loss", 1, group, state, reference, variant)
    last = cell("loss", 4, group, state, reference, variant)

    grown = ratio(last, first)
    return lambda results: -grown(results)


def norms(layer: int, state: str, reference: str = "own") -> Measure:
    """Percent by which a block changes hard symbols more than easy ones."""
    return ratio(
        cell("norm", layer, "hard", state, reference), cell("norm", layer, "easy", state, reference)
    )


claim = on_repeated("exp08", "R4, Experiment 8")

LOSS, NORM = "% fall of loss, layer 1 to 4", "% change from easy to hard symbols"

CLAIMS = (
    claim(
        "easy-solved-early",
        "Easy symbols are nearly right after the first layer (loss below 0.69, half the mass)",
        cell("loss", 1, "easy", "last"),
        "last epoch, as the report; head trained after layer 4 only",
        threshold=0.69,
        reported=0.18,
        unit="nats",
    ),
    claim(
        "easy-solved-early-best",
        "Easy symbols are nearly right after the first layer at the best epoch",
        cell("loss", 1, "easy", "best", "other"),
        "best epoch; the network of another seed says what is easy",
        threshold=0.69,
        unit="nats",
        explains="easy-solved-early",
    ),
    claim(
        "easy-solved-early-lpt",
        "Easy symbols are nearly right after the first layer if it was trained to predict (LPT)",
        cell("loss", 1, "easy", "best", "other", "lpt"),
        "LPT, best epoch; the network of another seed says what is easy",
        threshold=0.69,
        unit="nats",
        explains="easy-solved-early",
    ),
    claim(
        "hard-get-worse",
        "Hard symbols get worse with depth",
        improvement("hard", "last"),
        "last epoch, groups by the same final loss: as the report",
        reported=-15.8,
        unit=LOSS,
    ),
    claim(
        "hard-get-worse-best",
        "Hard symbols get worse with depth at the best epoch",
        improvement("hard", "best"),
        "best epoch instead of five epochs past it",
        unit=LOSS,
        explains="hard-get-worse",
    ),
    claim(
        "hard-get-worse-other-network",
        "Hard symbols get worse with depth when another network says what is hard",
        improvement("hard", "best", "other"),
        "best epoch; difficulty from the last layer of the next seed's network; each counts twice",
        unit=LOSS,
        explains="hard-get-worse",
    ),
    claim(
        "hard-get-worse-pairs",
        "Hard symbols get worse with depth when counts of pairs say what is hard",
        improvement("hard", "best", PAIRS),
        "best epoch; a reference without depth: pairs of symbols counted in train",
        unit=LOSS,
        explains="hard-get-worse",
    ),
    claim(
        "hard-get-worse-all-layers",
        "Hard symbols get worse with depth when all layers of another network say what is hard",
        improvement("hard", "best", ALL),
        "best epoch; mean loss over four layers of the next seed's network; each counts twice",
        unit=LOSS,
        explains="hard-get-worse",
    ),
    claim(
        "hard-get-worse-pairs-lpt",
        "Hard symbols get worse with depth under LPT when counts of pairs say what is hard",
        improvement("hard", "best", PAIRS, "lpt"),
        "best epoch, every layer trained to predict; pairs of symbols counted in train",
        unit=LOSS,
        explains="hard-get-worse",
    ),
    claim(
        "easy-improve",
        "Easy symbols improve with depth",
        improvement("easy", "last"),
        "last epoch, groups by the same final loss: as the report",
        expect="above",
        reported=85.4,
        unit=LOSS,
    ),
    claim(
        "easy-improve-all-layers",
        "Easy symbols improve with depth when all layers of another network say what is easy",
        improvement("easy", "best", ALL),
        "best epoch; mean loss over four layers of the next seed's network; each counts twice",
        expect="above",
        unit=LOSS,
        explains="easy-improve",
    ),
    claim(
        "norm-blind-first",
        "The first layer changes easy and hard symbols alike",
        norms(1, "last"),
        "equal within 2 %; a weak test: post-norm fixes this size whatever the data",
        expect="within",
        threshold=2.0,
        reported=0.0,
        unit=NORM,
    ),
    claim(
        "norm-deep",
        "The last layer changes hard symbols more than easy ones",
        norms(4, "last"),
        "last epoch, groups by the same final loss: as the report",
        expect="above",
        reported=13.1,
        unit=NORM,
    ),
    claim(
        "norm-third",
        "The third layer changes hard symbols more than easy ones",
        norms(3, "last"),
        "last epoch, as the report",
        expect="above",
        reported=100 * (2.71 / 2.39 - 1),
        unit=NORM,
    ),
    claim(
        "norm-deep-control",
        "The last layer changes hard symbols more, by another reference at the best epoch",
        norms(4, "best", "other"),
        "best epoch; difficulty from another seed's network",
        expect="above",
        unit=NORM,
        explains="norm-deep",
    ),
)


# The report's table is of the last epoch on all of valid, difficulty by the same final loss.
BESIDE = {
    ("easy", "loss_threshold"): cell("easy_below", 1, "easy", "last"),
    ("hard", "loss_threshold"): cell("hard_above", 1, "hard", "last"),
    **{(group, "tokens"): cell("count", 1, group, "last") for group in GROUPS},
    **{
        (f"L{layer} {group}", metric): cell(column, layer, group, "last")
        for layer in (1, 2, 3, 4)
        for group in GROUPS
        for metric, column in (("loss", "loss"), ("residual_norm", "norm"))
    },
}

LOSS_OF = ("loss", "mean loss (nats)", "Loss through the shared head")
NORM_OF = ("norm", "size of the block's change", "Residual norms")

E08 = Experiment(
    slug="08_layer_contribution",
    question="Are deep layers for hard symbols, and can the size of a change tell them apart?",
    parameters=Exp08,
    texts=Exp08.texts,
    variants={**VARIANTS, **baselines()},
    baseline="standard",
    report="exp08",
    figures={
        "loss_standard": by_difficulty("standard", *LOSS_OF),
        "loss_lpt": by_difficulty("lpt", *LOSS_OF),
        "norms": by_difficulty("standard", *NORM_OF),
        "references": by_reference("standard"),
    },
    claims=CLAIMS,
    beside=BESIDE,
)
