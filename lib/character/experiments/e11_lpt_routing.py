"""Experiment 11: does LPT spoil confidence routing, and what survives more text?"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from lib.character.experiments.probed import (
    Network,
    at_threshold,
    pareto_figure,
    probed,
    reliability_figure,
    reported_split,
    sweep_figure,
    train_and_probe,
)
from lib.character.experiments.two_corpora import (
    REPORTED_ON,
    TwoCorpora,
    perplexity_change,
    perplexity_figure,
    reported_tables,
)
from lib.character.figures import scale
from lib.character.models.transformer import TransformerConfig
from lib.parameters import whole, wholes
from lib.results import store, tables
from lib.results.claims import Claim, change, claim_maker, difference, ratio
from lib.text.corpus import Corpus, load_corpus
from lib.character.character_run import CharacterRun
from lib.character.character_run import run as train
from lib.character.objectives import LayerLosses, Segments, Standard
from lib.runs.task import Outcome
from lib.character.routing import Routed
from lib.runs.sweep import Task, sweep

EXPERIMENT, SLUG = "exp11", "11_lpt_routing"
PLAIN, LPT, AWARE = "Standard Routing", "Full LPT", "LPT + Routing Aware"
WEIGHTS = {PLAIN: (0, 0.5, 0, 0.5), LPT: (1, 1, 1, 1), AWARE: (0.5, 1, 0.5, 1)}
METHODS = ("Standard", "LPT", "IRT", "Routed")


@dataclass(frozen=True)
class Exp11(TwoCorpora):
    """Adds the scale check: sizes in training characters, seeds, and characters each may see.

    A size is trained for ``scale_symbols // size`` epochs, at least one and at most ``epochs``: the
    more text, the fewer passes over it, so that size and undertraining change together.
    """

    scales: str = wholes("20000,100000,1000000", 100, 10_000_000)
    scale_seeds: int = whole(3, 1, 1_000)
    scale_symbols: int = whole(300_000, 1, 100_000_000)

    QUICK = {**TwoCorpora.QUICK, "scales": "3300", "scale_seeds": 1}
    TINY = {**TwoCorpora.TINY, "scales": "1100", "scale_seeds": 1}

    def passes(self, size: int) -> int:
        """The limit of epochs at a size of the scale check."""
        return min(max(self.scale_symbols // size, 1), self.epochs)


PARAMETERS = Exp11


def networks(vocabulary: int) -> dict[str, Network]:
    """The seed's three loss weightings of one network of four layers, initialisation A."""
    model = TransformerConfig(vocabulary, 4)
    return {name: Network(model, Routed(weights), 2) for name, weights in WEIGHTS.items()}


def scaled(method: str, size: int) -> str:
    """The row of a method at a size of the scale check."""
    return f"{method}, {size:,} characters"


def scale_check(corpus_of: Callable[[int], Corpus], parameters: Exp11) -> list[Outcome]:
    """The four methods of four layers at growing sizes of real text, batches shuffled.

    The methods of a size have the same limit of epochs; the sizes have not.
    """
    tasks = []
    for size in parameters.numbers("scales"):
        corpus = corpus_of(size)
        vocabulary = len(corpus.alphabet)
        plain = TransformerConfig(vocabulary, 4)
        methods = {
            "Standard": (plain, Standard()),
            "LPT": (plain, LayerLosses((1, 1, 1, 1))),
            "IRT": (TransformerConfig(vocabulary, 4, initial_state=True), Segments(2)),
            "Routed": (plain, Routed(WEIGHTS[PLAIN])),
        }
        epochs = parameters.passes(size)
        for method, (model, objective) in methods.items():
            config = CharacterRun(corpus, model, objective, parameters.training(epochs=epochs))
            labels = {
                "experiment": EXPERIMENT,
                "variant": scaled(method, size),
                "method": method,
                "train_chars": size,
            }
            tasks += [Task(train, config, s, labels) for s in range(parameters.scale_seeds)]
    return sweep(tasks, parameters.workers)


def run(corpora: list[Corpus], parameters: Exp11) -> pd.DataFrame:
    """The seed's comparison on both corpora, and the scale check on the first."""

    def corpus_of(size: int) -> Corpus:
        wanted = replace(parameters, train_chars=size)
        return load_corpus(
            "auto" if parameters.corpus == "repeated" else parameters.corpus,
            parameters.data_dir,
            wanted.train_chars,
            parameters.valid_chars,
            parameters.test_chars,
        )

    return train_and_probe(
        EXPERIMENT,
        SLUG,
        networks,
        corpora,
        parameters,
        more=lambda: scale_check(corpus_of, parameters),
    )


def core_tables(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """The seed's comparison beside the seed's figures, one table a corpus; no scale check."""
    return reported_tables(frame[frame["train_chars"].isna()], EXPERIMENT, PLAIN)


def scale_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the scale check: those that say how long their training text is."""
    return frame[frame["train_chars"].notna()]


def scale_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The scale check by size of the training text and method, means over seeds."""
    columns = ["best_epoch", "updates", "val_ppl", "test_ppl", "seconds"]
    return scale_rows(frame).groupby(["train_chars", "method"])[columns].mean().round(2)


def summary_table(size: str) -> pd.DataFrame:
    """Calibration of the exit layer and the threshold chosen on other text, by corpus, network and
    epoch; measured on the reported split, means over seeds."""
    columns = [
        "exit_overconfidence",
        "exit_ece_raw",
        "exit_ece_tempered",
        "chosen_exit_temperature",
        "chosen_threshold",
        "chosen_ppl",
    ]
    summary = reported_split(SLUG, "summary", size)
    return summary.groupby(["corpus", "variant", "state"])[columns].mean().round(3)


def scale_figure(size: str) -> Figure:
    """Test perplexity of the four methods against the size of the training text, which is seen
    more seldom the longer it is."""
    frame = scale_rows(store.read(SLUG, size=size))
    title = f"Four layers on more text, with fewer passes over it ({tables.corpora(frame)})"
    return scale.by_size(frame, METHODS, title)


NAMES = tuple(WEIGHTS)
COLUMNS = ("ppl", "acc_pct", "exit_pct")
FIGURES = {
    "perplexity": partial(perplexity_figure, EXPERIMENT, SLUG, NAMES, "Three loss weightings"),
    "pareto": partial(pareto_figure, SLUG, NAMES),
    "thresholds_real": partial(sweep_figure, SLUG, NAMES, COLUMNS, False),
    "thresholds_repeated": partial(sweep_figure, SLUG, NAMES, COLUMNS, True),
    "reliability_real": partial(reliability_figure, SLUG, NAMES, False),
    "reliability_repeated": partial(reliability_figure, SLUG, NAMES, True),
    "scale": scale_figure,
}


_claim = claim_maker(EXPERIMENT, SLUG, "seed 004, Experiment 11", reported_on=REPORTED_ON)


def _stopping(size: int) -> str:
    if size == 20_000:
        return "the best epoch comes before the last"
    return "the last epoch is the best: more text and less finished training change together"


def _scale(method: str, size: int, words: str) -> Claim:
    passes = Exp11().passes(size)
    limit = f"at most {passes} epochs" if passes > 1 else "1 epoch"
    return _claim(
        f"scale-{method.lower()}-{size // 1000}k",
        f"{words} at {size:,} training characters ({limit})",
        change(scaled(method, size), scaled("Standard", size)),
        f"data order and limit of epochs as in standard training; {_stopping(size)}; three seeds",
        expect="above" if method == "IRT" else "below",
        reported={"LPT": -5.8, "IRT": 8.6}.get(method) if size == 20_000 else None,
        reported_on=(),  # Experiment 4 had real text; Experiment 10 had not
        source="seed 004, Experiments 4 and 10",
        min_seeds=3,
        corpora=("wikitext-2", "python-docs"),
    )


CLAIMS = (
    _claim(
        "lpt-spoils-routing",
        "Training every layer (LPT) makes the routed network worse",
        perplexity_change(LPT, PLAIN),
        "best epoch of the routed perplexity in both, threshold 0.8",
        expect="above",
        reported=4.7,
    ),
    _claim(
        "aware-spoils-routing",
        "Routing-aware LPT makes the routed network worse",
        perplexity_change(AWARE, PLAIN),
        "best epoch of the routed perplexity in both, threshold 0.8",
        expect="above",
        reported=3.4,
    ),
    _claim(
        "lpt-spoils-last-state",
        "After training the LPT network is worse too",
        ratio(at_threshold(LPT, "ppl", "last"), at_threshold(PLAIN, "ppl", "last")),
        "last epochs, threshold 0.8: the seed's threshold tables",
        expect="above",
        reported=22.6,
    ),
    _claim(
        "lpt-exits-more",
        "After training more symbols exit with LPT",
        difference(at_threshold(LPT, "exit_pct", "last"), at_threshold(PLAIN, "exit_pct", "last")),
        "last epochs, threshold 0.8",
        expect="above",
        reported=11.5,
        unit="points of exiting symbols",
    ),
    _claim(
        "lpt-exits-more-best",
        "At the best epoch more symbols exit with LPT",
        difference(at_threshold(LPT, "exit_pct", "best"), at_threshold(PLAIN, "exit_pct", "best")),
        "best epochs, threshold 0.8",
        expect="above",
        reported=-0.4,
        unit="points of exiting symbols",
    ),
    _claim(
        "lpt-overconfident",
        "LPT makes the exit layer over-confident",
        difference(
            probed(LPT, "exit_overconfidence", "last"), probed(PLAIN, "exit_overconfidence", "last")
        ),
        "last epochs; mean confidence minus accuracy of layer 2, both measured",
        expect="above",
        unit="confidence minus accuracy, difference",
    ),
    _claim(
        "lpt-overconfident-best",
        "LPT makes the exit layer over-confident at the best epoch too",
        difference(
            probed(LPT, "exit_overconfidence", "best"), probed(PLAIN, "exit_overconfidence", "best")
        ),
        "best epochs; mean confidence minus accuracy of layer 2, both measured",
        expect="above",
        unit="confidence minus accuracy, difference",
    ),
    *(
        _scale(method, size, words)
        for method, words in (
            ("LPT", "LPT beats standard training in four layers"),
            ("IRT", "Refinement (IRT) is worse than standard training in four layers"),
            ("Routed", "The confidence-routed transformer beats the standard four layers"),
        )
        for size in (20_000, 100_000, 1_000_000)
    ),
)
