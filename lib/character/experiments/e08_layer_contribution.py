"""Experiment 8: are deep layers for hard symbols, and can the size of a change tell them apart?"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.character.analysis.difficulty_judges import ALL, JUDGES, PAIRS
from lib.results.statistics import bootstrap
from lib.character.experiments.probed import Network, probed, reported_split, train_and_probe
from lib.character.experiments.two_corpora import REPORTED_ON, TwoCorpora
from lib.character.figures import contribution
from lib.character.models.transformer import TransformerConfig
from lib.results import store, tables
from lib.results.claims import Measure, Tables, claim_maker, ratio
from lib.text.corpus import Corpus
from lib.character.objectives import LayerLosses, Standard

EXPERIMENT, SLUG = "exp08", "08_layer_contribution"
STANDARD, LPT = "Standard 4-layer", "LPT 4-layer"


@dataclass(frozen=True)
class Exp08(TwoCorpora):
    """Nothing beyond the shared parameters (two seeds at least, for one to judge the other)."""

    QUICK = {**TwoCorpora.QUICK, "seeds": 2}
    TINY = {**TwoCorpora.TINY, "seeds": 2}


PARAMETERS = Exp08


def networks(vocabulary: int) -> dict[str, Network]:
    """The seed's network (initialisation B), and one whose every layer was trained to predict."""
    model = TransformerConfig(vocabulary, 4, initialisation="B")
    return {
        STANDARD: Network(model, Standard(), 1),
        LPT: Network(model, LayerLosses((1, 1, 1, 1)), 1),
    }


def run(corpora: list[Corpus], parameters: Exp08) -> pd.DataFrame:
    """Train and probe; one row a network, corpus and seed."""
    return train_and_probe(EXPERIMENT, SLUG, networks, corpora, parameters, judged=True)


def layers_table(size: str) -> pd.DataFrame:
    """Loss and size of change by layer and difficulty, measured as the seed did.

    The standard network at the last epoch, judged by its own final loss on all of valid; means over
    seeds.
    """
    rows = store.read(SLUG, "layers", size)
    wanted = {"variant": STANDARD, "state": "last", "judge": "own", "split": "valid"}
    for column, value in wanted.items():
        rows = rows[rows[column] == value]
    return rows.pivot_table(
        index=["corpus", "layer"], columns="group", values=["loss", "norm"]
    ).round(2)


def judges_table(size: str) -> pd.DataFrame:
    """Percent by which the loss falls from layer 1 to layer 4, by judge and difficulty, at the best
    epoch on the reported split; means [95 % intervals] over seeds. Negative: it grows."""
    frame = reported_split(SLUG, "judges", size)
    frame = frame[frame["state"] == "best"]
    wide = frame.pivot_table(
        index=["corpus", "variant", "judge", "group", "seed"],
        columns="layer",
        values="loss",
        sort=False,
    )
    fall = 100 * (1 - wide[4] / wide[1])
    shown = fall.groupby(level=[0, 1, 2, 3], sort=False).agg(lambda v: str(bootstrap(v)))
    return tables.captioned(shown.unstack("group"), store.read(SLUG, size=size))


def judges_figure(size: str) -> Figure:
    """What becomes of hard symbols, by the judge who says which are hard."""
    frame = reported_split(SLUG, "judges", size)
    return contribution.by_judge(frame[frame["state"] == "best"], list(JUDGES), STANDARD)


def reported_layers() -> pd.DataFrame:
    """The seed's own table: one row a difficulty, or a layer and difficulty."""
    return store.reported(EXPERIMENT).pivot_table(
        index="row", columns="metric", values="value", sort=False
    )


def _by_difficulty(variant: str, column: str, label: str, title: str, size: str) -> Figure:
    layers = reported_split(SLUG, "layers", size)
    return contribution.by_difficulty(layers, variant, column, label, f"{title}, {variant}")


LOSS_OF = ("loss", "mean loss (nats)", "Loss through the shared head")
NORM_OF = ("norm", "size of the block's change", "Residual norms")
FIGURES = {
    "loss_standard": partial(_by_difficulty, STANDARD, *LOSS_OF),
    "loss_lpt": partial(_by_difficulty, LPT, *LOSS_OF),
    "norms": partial(_by_difficulty, STANDARD, *NORM_OF),
    "judges": judges_figure,
}


def cell(
    column: str, layer: int, group: str, state: str, judge: str = "own", variant: str = STANDARD
) -> Measure:
    """A mean over a difficulty group after a layer."""
    table = "judges" if judge in JUDGES else "layers"
    return probed(variant, column, state, table=table, layer=layer, group=group, judge=judge)


def improvement(group: str, state: str, judge: str = "own", variant: str = STANDARD) -> Measure:
    """Percent by which the loss falls from the first layer to the last; negative is worse."""
    first = cell("loss", 1, group, state, judge, variant)
    last = cell("loss", 4, group, state, judge, variant)

    def measure(tables: Tables) -> np.ndarray:
        return 100 * (1 - last(tables) / first(tables))

    return measure


def norms(layer: int, state: str, judge: str = "own") -> Measure:
    """Percent by which a block changes hard symbols more than easy ones."""
    return ratio(
        cell("norm", layer, "hard", state, judge), cell("norm", layer, "easy", state, judge)
    )


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 8", reported_on=REPORTED_ON)


LOSS, NORM = "% fall of loss, layer 1 to 4", "% larger change of hard than of easy symbols"
CLAIMS = (
    _claim(
        "easy-solved-early",
        "Easy symbols are nearly right after the first layer (loss below 0.69, half the mass)",
        cell("loss", 1, "easy", "last"),
        "last epoch, as the seed; head trained after layer 4 only",
        threshold=0.69,
        reported=0.18,
        unit="nats",
    ),
    _claim(
        "easy-solved-early-best",
        "Easy symbols are nearly right after the first layer at the best epoch",
        cell("loss", 1, "easy", "best", "other"),
        "best epoch; another seed's network says what is easy",
        threshold=0.69,
        unit="nats",
    ),
    _claim(
        "easy-solved-early-lpt",
        "Easy symbols are nearly right after the first layer if it was trained to predict (LPT)",
        cell("loss", 1, "easy", "best", "other", LPT),
        "LPT, best epoch; another seed's network says what is easy",
        threshold=0.69,
        unit="nats",
    ),
    _claim(
        "hard-get-worse",
        "Hard symbols get worse with depth",
        improvement("hard", "last"),
        "last epoch, groups by the same final loss: as the seed",
        reported=-15.8,
        unit=LOSS,
    ),
    _claim(
        "hard-get-worse-best",
        "Hard symbols get worse with depth at the best epoch",
        improvement("hard", "best"),
        "best epoch instead of five epochs past it",
        unit=LOSS,
    ),
    _claim(
        "hard-get-worse-judged",
        "Hard symbols get worse with depth when another network says what is hard",
        improvement("hard", "best", "other"),
        "best epoch; difficulty from another seed's *last* layer, whose errors it shares",
        unit=LOSS,
    ),
    _claim(
        "hard-get-worse-pairs",
        "Hard symbols get worse with depth when counts of pairs say what is hard",
        improvement("hard", "best", PAIRS),
        "best epoch; a judge that has no depth: pairs of symbols counted in train",
        unit=LOSS,
    ),
    _claim(
        "hard-get-worse-all-layers",
        "Hard symbols get worse with depth when all layers of another network say what is hard",
        improvement("hard", "best", ALL),
        "best epoch; mean loss over the four layers of another seed's network",
        unit=LOSS,
    ),
    _claim(
        "hard-get-worse-pairs-lpt",
        "Hard symbols get worse with depth under LPT when counts of pairs say what is hard",
        improvement("hard", "best", PAIRS, LPT),
        "best epoch, every layer trained to predict; pairs of symbols counted in train",
        unit=LOSS,
    ),
    _claim(
        "easy-improve",
        "Easy symbols improve with depth",
        improvement("easy", "last"),
        "last epoch, groups by the same final loss: as the seed",
        expect="above",
        reported=85.4,
        unit=LOSS,
    ),
    _claim(
        "easy-improve-all-layers",
        "Easy symbols improve with depth when all layers of another network say what is easy",
        improvement("easy", "best", ALL),
        "best epoch; mean loss over the four layers of another seed's network",
        expect="above",
        unit=LOSS,
    ),
    _claim(
        "norm-blind-first",
        "The first layer changes easy and hard symbols alike",
        norms(1, "last"),
        "equal within 2 %; post-norm fixes this size whatever the data",
        expect="within",
        threshold=2.0,
        reported=0.0,
        unit=NORM,
    ),
    _claim(
        "norm-deep",
        "The last layer changes hard symbols more than easy ones",
        norms(4, "last"),
        "last epoch, groups by the same final loss: as the seed",
        expect="above",
        reported=13.1,
        unit=NORM,
    ),
    _claim(
        "norm-deep-control",
        "The last layer changes hard symbols more, by another judge at the best epoch",
        norms(4, "best", "other"),
        "best epoch; difficulty from another seed's network",
        expect="above",
        unit=NORM,
    ),
)
