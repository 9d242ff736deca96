"""Experiment 24: which blocks to loop, from when on, and how often?"""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from lib.character.claims import perplexity_change
from lib.character.figures import common
from lib.character.looping import PASSES, Late, Passed
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import Segments, Standard, Visits
from lib.character.parameters import CharacterParameters
from lib.character.variants import Variant, baselines
from lib.experiment import Experiment
from lib.figures import methods, style
from lib.figures.panels import band, grid_of_panels, heading
from lib.results import tables
from lib.results.claims import OWN, Measure, claim_maker, filled, ratio
from lib.results.statistics import interval, percent_interval
from lib.results.store import Absent, Results

FOUR, ONE = TransformerConfig(layers=4), TransformerConfig(initial_state=True)
KEEP = {"keep": True}
MIDDLE = Visits((0, 1, 2, 1, 2, 3))

# Looping two of four blocks costs as much as six blocks. One block with passes is that of
# Experiment 3.
LAYERED = {
    "standard": Variant(FOUR, Standard(), "Standard, 4 layers", settings=KEEP),
    "first": Variant(FOUR, Visits((0, 1, 0, 1, 2, 3)), "First two layers twice"),
    "middle": Variant(FOUR, MIDDLE, "Middle two layers twice"),
    "last": Variant(FOUR, Visits((0, 1, 2, 3, 2, 3)), "Last two layers twice"),
    "all": Variant(FOUR, Visits((0, 1, 2, 3, 0, 1, 2, 3)), "All four layers twice"),
    "layers_6": Variant(TransformerConfig(layers=6), Standard(), "Standard, 6 layers"),
    "late": Late(FOUR, Standard(), "Middle twice, from the best epoch on", then=MIDDLE),
    "restarted": Late(FOUR, Standard(), "Standard, trained on from the best", then=Standard()),
}
PASSED = {
    "irt": Passed(ONE, Segments(2), "IRT, 2 passes", settings=KEEP),
    "looped_2": Passed(ONE, Segments(2, joint=True), "1 layer, 2 passes", settings=KEEP),
    "looped_4": Passed(ONE, Segments(4, joint=True), "1 layer, 4 passes", settings=KEEP),
    "random_4": Passed(
        ONE, Segments(4, joint=True, most=4), "1 layer, 1 to 4 passes at random", settings=KEEP
    ),
}


# ------------------------------------------------------------------------------------- measures


def used(variant: str, count: int) -> Measure:
    """Perplexity by seed of a network used with so many passes."""

    def measure(results: Results) -> pd.Series:
        frame = results("passes")
        own = frame[(frame["variant"] == variant) & (frame["passes"] == count)]
        if own.empty:
            raise Absent(f"variant {variant!r} was not used with {count} passes")
        results.used.update(own["run_id"])
        values = own.set_index("seed").sort_index()[common.metric(results.corpus)]
        return filled(values, f"variant {variant!r} has no perplexity").astype(float)

    return measure


def used_change(one: tuple[str, int], other: tuple[str, int]) -> Measure:
    """Percent change of perplexity from ``other`` to ``one``, each a variant and its passes."""
    return ratio(used(*one), used(*other))


# ------------------------------------------------------------------------------- table, figures


def passes_table(results: Results) -> pd.DataFrame:
    """Perplexity [95 % interval] by number of passes, a column a network, a row a text and number.

    The number with which a network was trained is marked with a star.
    """
    rows = {}
    for corpus in results.corpora:
        own = results.on(corpus)
        for count in PASSES:
            row = rows[corpus, f"{count} passes" if count > 1 else "1 pass"] = {}
            for variant in PASSED:
                try:
                    found = interval(used(variant, count)(own))
                except Absent:
                    continue
                star = " *" if PASSED[variant].objective.segments == count else ""
                row[own.labels[variant]] = f"{found}{star}"
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    return tables.captioned(table.rename_axis(["text", "in use"]), results())


def by_passes(results: Results) -> Figure:
    """Draw perplexity against the number of passes in use, a line a network; 95 % intervals."""
    frame = results.named("passes")
    texts, names = results.corpora, results.names(list(PASSED))
    figure, panels = grid_of_panels(texts, "", 3.6)
    found = {}
    for panel, text in zip(panels, texts, strict=True):
        own, column = frame[frame["corpus"] == text], common.metric(text)
        for number, (name, colour) in enumerate(methods.colours(names).items()):
            look = {"color": colour, "marker": style.MARKERS[number], "label": name}
            band(panel, own[own["variant"] == name], "passes", column, **look)
        style.plain_log(panel, "x")
        style.plain_log(panel, "y")
        panel.xaxis.set_major_locator(FixedLocator(PASSES))
        panel.set_xlabel("passes in use (logarithmic)")
        panel.set_ylabel("test perplexity (logarithmic)")
        try:
            values = used_change(("random_4", 16), ("random_4", 4))(results.on(text))
        except Absent:
            continue
        found[text] = f"{percent_interval(values)} %"
    note = f"trained with 1 to 4 at random, 16 against 4 passes, {tables.seeds(results())}"
    heading(figure, "Change of perplexity by more passes than in training", found, note)
    style.legend(figure, panels[0], "line: mean over seeds; band: 95 % interval", 2)
    return figure


# --------------------------------------------------------------------------------------- claims
claim = claim_maker("exp24", "this repository", kind=OWN)

COST = "equal cost of a pass, 1.5 times that of four layers once"
CLAIMS = (
    claim(
        "middle-beats-standard",
        "Looping the two middle layers beats four layers once",
        perplexity_change("middle", "standard"),
        "equal weights, updates and stopping; the loop costs half as much again",
    ),
    claim(
        "middle-beats-first",
        "Looping the middle layers beats looping the first ones",
        perplexity_change("middle", "first"),
        f"equal weights; {COST}",
    ),
    claim(
        "middle-beats-last",
        "Looping the middle layers beats looping the last ones",
        perplexity_change("middle", "last"),
        f"equal weights; {COST}",
    ),
    claim(
        "middle-beats-all",
        "Looping the middle layers beats looping all four",
        perplexity_change("middle", "all"),
        "equal weights; looping all costs a third more",
    ),
    claim(
        "middle-beats-layers",
        "Looping the middle layers beats as many layers with weights of their own",
        perplexity_change("middle", "layers_6"),
        f"six layers; {COST}",
    ),
    claim(
        "late-beats-restart",
        "Looping begun after training beats training on without it",
        perplexity_change("late", "restarted"),
        "both go on from the best weights of the same training with a new optimiser",
    ),
    claim(
        "late-beats-throughout",
        "Looping begun after training beats looping throughout",
        perplexity_change("late", "middle"),
        "equal weights and stopping; the late loop has had more updates in all",
    ),
    claim(
        "random-costs-nothing",
        "Passes at random in training cost nothing where the most of them are used",
        used_change(("random_4", 4), ("looped_4", 4)),
        "one layer, four passes; trained with 1 to 4 at random or with 4; at most 1 % worse",
        threshold=1.0,
    ),
    claim(
        "more-passes-help",
        "A network trained with 1 to 4 passes gains from 16",
        used_change(("random_4", 16), ("random_4", 4)),
        "the same weights with 16 passes and with 4",
    ),
    claim(
        "fewer-passes-suffer",
        "Trained with four passes, one layer is worse with two than one trained for two",
        used_change(("looped_4", 2), ("looped_2", 2)),
        "one layer, both used with two passes",
        expect="above",
    ),
    claim(
        "random-adapts",
        "Passes at random make one network at least as good at two passes as one trained for two",
        used_change(("random_4", 2), ("looped_2", 2)),
        "one layer, both used with two passes; at most 1 % worse",
        threshold=1.0,
    ),
)

E24 = Experiment(
    slug="24_where_to_loop",
    question="Which blocks should a network loop, from when on, and how often?",
    parameters=CharacterParameters,
    texts=CharacterParameters.texts,
    variants={**LAYERED, **PASSED, **baselines()},
    baseline="standard",
    figures={
        "perplexity": common.perplexity([*LAYERED, *PASSED], ("middle", "standard")),
        "passes": by_passes,
    },
    claims=CLAIMS,
)
