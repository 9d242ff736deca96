"""Experiment 11: does LPT spoil confidence routing, and what survives more text?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.character.claims import (
    WIKITEXT,
    at_threshold,
    beside_routed,
    on_repeated,
    perplexity_change,
    probed,
)
from lib.character.figures import common, exits
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Routed, Segments, Standard
from lib.character.parameters import TwoTexts
from lib.character.variants import Probed, Variant, baselines
from lib.experiment import Experiment, Run
from lib.figures import methods, style
from lib.figures.panels import band, grid_of_panels, heading
from lib.parameters import whole
from lib.results import tables
from lib.results.claims import Claim, change, claim_maker, difference, ratio
from lib.results.statistics import percent_change, percent_interval
from lib.results.store import Results
from lib.text.corpus import Corpus


class Exp11(TwoTexts):
    """Adds the scale check: up to how many times the training text, seeds, and characters seen.

    A text is trained on for ``scale_symbols`` characters, at least one pass and at most ``epochs``:
    the more text, the fewer passes over it, so that size and undertraining change together.
    """

    largest_scale: int = whole(50, 1, 1_000)
    scale_seeds: int = whole(5, 1, 1_000)
    scale_symbols: int = whole(300_000, 1, 100_000_000)

    QUICK = {**TwoTexts.QUICK, "largest_scale": 1, "scale_seeds": 1}
    TINY = {**TwoTexts.TINY, "largest_scale": 1, "scale_seeds": 1}

    def passes(self, chars: int) -> int:
        """The limit of epochs on a training text of so many characters."""
        return min(max(self.scale_symbols // chars, 1), self.epochs)


@dataclass(frozen=True)
class Scaled(Variant):
    """A variant on ``scale`` times the training text, batches shuffled, on the named text only.

    Real text only: a sentence repeated more often is no more text. Every method has the same limit
    of epochs at a size; the sizes have not.
    """

    scale: int = 1

    def runs(self, parameters: Exp11, corpus: Corpus) -> Iterator[Run]:
        chars = self.scale * parameters.train_chars
        if corpus.name == "repeated" or self.scale > parameters.largest_scale:
            return
        larger = corpus if self.scale == 1 else parameters.longer(chars)
        if larger is None:
            return
        numbers = {"shuffle": True, "epochs": parameters.passes(chars), **self.training}
        own = Variant(self.model, self.objective, training=numbers)
        yield from own.runs(parameters.changed(seeds=parameters.scale_seeds), larger)


MODEL = TransformerConfig(layers=4)
WEIGHTS = {  # of the losses after the four layers: the report's three
    "plain": ("Standard Routing", (0, 0.5, 0, 0.5)),
    "lpt": ("Full LPT", (1, 1, 1, 1)),
    "aware": ("LPT + Routing Aware", (0.5, 1, 0.5, 1)),
}
METHODS = {
    "standard": ("Standard", MODEL, Standard()),
    "lpt": ("LPT", MODEL, LayerLosses((1, 1, 1, 1))),
    "irt": ("IRT", TransformerConfig(layers=4, initial_state=True), Segments(2)),
    "routed": ("Routed", MODEL, Routed((0, 0.5, 0, 0.5))),
}
SCALES = (1, 5, 50)
REAL = ("wikipedia", "wikitext-2", "python-docs")  # texts of the scale check

CORE = {
    name: Probed(MODEL, Routed(weights), label, exit_layer=2)
    for name, (label, weights) in WEIGHTS.items()
}
VARIANTS = {
    **CORE,
    **{
        f"{name}_{times}x": Scaled(
            model,
            objective,
            f"{method}, {times}x text",
            factors={"method": method, "scale": times},
            scale=times,
        )
        for times in SCALES
        for name, (method, model, objective) in METHODS.items()
    },
}


def core(results: Results) -> Results:
    """The report's comparison without the scale check, whose text is another one."""
    frame = results()
    if "scale" not in frame:
        return results
    own = frame["variant"][frame["scale"].isna()].unique()
    frames = {name: f[f["variant"].isin(own)] for name, f in results.frames.items()}
    return replace(results, frames=frames)


def scale_table(results: Results) -> pd.DataFrame:
    """The scale check by text, its size and method, means over seeds."""
    columns = ["test_ppl", "val_ppl", "best_epoch", "updates"]
    frame = results()
    if "scale" not in frame:
        return pd.DataFrame(columns=columns)
    frame = frame[frame["scale"].notna()]
    means = frame.groupby(["corpus", "train_chars", "method"])[columns].mean().round(2)
    return tables.captioned(means, frame)


def summary_tables(results: Results) -> list[pd.DataFrame]:
    """Calibration of the exit layer, and what was chosen on other text; a row a text, network and
    epoch. Measured on the reported split, means over seeds."""
    summary = exits.reported_split(results, "summary")
    means = summary.groupby(["corpus", "variant", "state"])
    return [tables.captioned(means[list(c)].mean().round(3), core(results)()) for c in SHOWN]


SHOWN = (
    (
        "exit_overconfidence",
        "exit_ece_raw",
        "exit_ece_tempered",
        "chosen_exit_temperature",
    ),
    ("chosen_ppl", "chosen_threshold"),
)


def by_size(results: Results) -> Figure:
    """Draw test perplexity against training characters, a line a method; 95 % intervals.

    Rows are those of the factors ``method`` and ``scale``; each text has a panel of its own. The
    heading tells how LPT changes standard training at the smallest and the largest size.
    """
    frame = results()
    frame = frame[frame["scale"].notna()] if "scale" in frame else frame.iloc[:0]
    texts, sizes, found = list(frame["corpus"].unique()), sorted(frame["train_chars"].unique()), {}
    title = "four layers on more text, with fewer passes over it"
    figure, panels = grid_of_panels(texts or [""], title, 3.6)
    for panel, text in zip(panels, texts, strict=False):
        own = frame[frame["corpus"] == text]
        colours = methods.colours(list(frame["method"].unique()))
        for number, (method, colour) in enumerate(colours.items()):
            look = {"color": colour, "marker": style.MARKERS[number], "label": method}
            band(panel, own[own["method"] == method], "train_chars", "test_ppl", **look)
        style.plain_log(panel, "x")
        style.plain_log(panel, "y")
        panel.xaxis.set_major_locator(FixedLocator(sorted(own["train_chars"].unique())))
        ends = [_change(own[own["train_chars"] == size]) for size in (sizes[0], sizes[-1])]
        if all(ends):
            found[text] = f"{ends[0]} and {ends[1]} %"
    if found:
        ends = f"LPT against Standard at {sizes[0]:,.0f} and {sizes[-1]:,.0f} characters"
        heading(figure, ends, found, f"{title}, {tables.seeds(frame)}")
    if texts:
        note = "line: mean over seeds; band: 95 % interval over seeds"
        style.legend(figure, panels[0], note, 4)
    for panel in panels:
        panel.set_xlabel("training characters (logarithmic)")
    panels[0].set_ylabel("test perplexity (logarithmic)")
    return figure


def _change(rows: pd.DataFrame) -> str:
    """Percent change of test perplexity by LPT, seed by seed; '' where a method is missing."""
    methods = (rows[rows["method"] == name] for name in ("LPT", "Standard"))
    both = pd.concat([own.set_index("seed")["test_ppl"] for own in methods], axis=1).dropna()
    return str(percent_interval(percent_change(*both.to_numpy().T))) if len(both) else ""


claim = on_repeated("exp11", "R4, Experiment 11")
on_more_text = claim_maker("exp11", "R4, Experiments 4 and 10", texts=WIKITEXT, only=REAL)


def scale_claim(method: str, times: int, words: str) -> Claim:
    """A claim of the scale check. What R4 says of 20,000 characters is a claim of Experiment 4."""
    chars = times * Exp11().train_chars
    passes = Exp11().passes(chars)
    limit = f"at most {passes} epochs" if passes > 1 else "1 epoch"
    stopping = (
        "the best epoch comes before the last"
        if times == 1
        else "the last epoch is the best: more text and less finished training change together"
    )
    deeper = "; IRT steps twice a batch and runs its blocks twice" * (method == "irt")
    return on_more_text(
        f"scale-{method}-{chars // 1000}k",
        f"{words} at {chars:,} training characters ({limit})",
        change(f"{method}_{times}x", f"standard_{times}x"),
        f"data order and limit of epochs as in standard training; {stopping}{deeper}",
        kind="own",
        expect="above" if method == "irt" else "below",
    )


CLAIMS = (
    claim(
        "lpt-spoils-routing",
        "Training every layer (LPT) makes the routed network worse",
        perplexity_change("lpt", "plain"),
        "best epoch of the routed perplexity in both, threshold 0.8",
        expect="above",
        reported=4.7,
    ),
    claim(
        "aware-spoils-routing",
        "Routing-aware LPT makes the routed network worse",
        perplexity_change("aware", "plain"),
        "best epoch of the routed perplexity in both, threshold 0.8",
        expect="above",
        reported=3.4,
    ),
    claim(
        "lpt-spoils-last-state",
        "After training the LPT network is worse too",
        ratio(at_threshold("lpt", "ppl", "last"), at_threshold("plain", "ppl", "last")),
        "last epochs, threshold 0.8: the report's threshold tables",
        expect="above",
        reported=22.6,
    ),
    claim(
        "lpt-exits-more",
        "After training more symbols exit with LPT",
        difference(
            at_threshold("lpt", "exit_pct", "last"), at_threshold("plain", "exit_pct", "last")
        ),
        "last epochs, threshold 0.8",
        expect="above",
        reported=11.5,
        unit="points of exiting symbols",
    ),
    claim(
        "lpt-exits-more-best",
        "At the best epoch as many symbols exit with LPT as without",
        difference(
            at_threshold("lpt", "exit_pct", "best"), at_threshold("plain", "exit_pct", "best")
        ),
        "best epochs, threshold 0.8; equal within a point",
        expect="within",
        threshold=1.0,
        reported=-0.4,
        unit="points of exiting symbols",
    ),
    claim(
        "lpt-overconfident",
        "LPT makes the exit layer over-confident",
        difference(
            probed("lpt", "exit_overconfidence", "last"),
            probed("plain", "exit_overconfidence", "last"),
        ),
        "last epochs; mean confidence minus accuracy of layer 2, both measured (the report names it"
        " as the cause and measured neither)",
        expect="above",
        unit="confidence minus accuracy, difference",
        explains="lpt-spoils-last-state",
    ),
    claim(
        "lpt-overconfident-best",
        "LPT makes the exit layer over-confident at the best epoch too",
        difference(
            probed("lpt", "exit_overconfidence", "best"),
            probed("plain", "exit_overconfidence", "best"),
        ),
        "best epochs; mean confidence minus accuracy of layer 2, both measured",
        expect="above",
        unit="confidence minus accuracy, difference",
        explains="lpt-spoils-routing",
    ),
    *(
        scale_claim(method, times, words)
        for method, words in (
            ("lpt", "LPT beats standard training in four layers"),
            ("irt", "Refinement (IRT) is worse than standard training in four layers"),
            ("routed", "The confidence-routed transformer beats the standard four layers"),
        )
        for times in SCALES
    ),
)

BESIDE = beside_routed(
    {label: name for name, (label, _) in WEIGHTS.items()},
    best=("acc_pct", "shallow_pct", "compute_pct"),
    last=("val_ppl", "shallow_pct", "compute_pct"),
    thresholds=(0.5, 0.7, 0.8, 0.9),
)

NAMES, COLUMNS = tuple(CORE), ("exit_pct", "ppl", "acc_pct")

E11 = Experiment(
    slug="11_lpt_routing",
    question="Does LPT spoil confidence routing, and what survives more text?",
    parameters=Exp11,
    texts=Exp11.texts,
    variants={**VARIANTS, **baselines()},
    baseline="plain",
    report="exp11",
    figures={
        "perplexity": common.perplexity(NAMES, ("lpt", "plain"), "exp11"),
        "pareto": exits.pareto(NAMES),
        "thresholds": exits.thresholds(NAMES, COLUMNS),
        "reliability": exits.reliability(NAMES),
        "scale": by_size,
    },
    claims=CLAIMS,
    beside=BESIDE,
)
