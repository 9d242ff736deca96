"""Notebook 21: can an early exit save time and lose nothing, if the layers above check it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib.depth import figures
from lib.depth.experiments.e20_adaptive_or_fixed_depth import VARIANTS as NETWORKS
from lib.depth.parameters import TINY, DepthParameters
from lib.depth.speculative_run import OneWay, Speculative, Way, run_way
from lib.depth.texts import DepthText
from lib.depth.variants import part
from lib.experiment import Experiment, Run
from lib.parameters import whole
from lib.results.claims import OWN, Measure, claim_maker, level
from lib.results.statistics import FACTOR, SHARE, percent_change
from lib.results.store import Absent, Results


class Exp21(DepthParameters):
    """The networks are those of notebook 20 at the same parameters."""

    test_tokens: int = whole(20_000, 1_024, 40_000)  # prompts for the largest batch
    written: int = whole(128, 4, 1_000)  # groups of four tokens are looked for again
    rounds: int = whole(2, 1, 20)
    threads: int = whole(2, 1, 64)  # cores that generation uses while it is timed

    TINY = {**TINY, "test_tokens": 1_024, "written": 12, "rounds": 1, "threads": 1}
    QUICK = {**TINY, "written": 32}


@dataclass(frozen=True)
class Decoding:
    """A network of notebook 20 that drafts after a share of its layers, or copies drafts (0)."""

    label: str
    share: float
    network: str = "exits"
    tokens: int = 4
    words: int = 0
    sure: float = 0.0
    engine: str = "ours"
    drawn: bool = False
    factors: Mapping[str, Any] = field(default_factory=dict)

    def way(self, layers: int) -> Way:
        """How it drafts in a network of so many layers."""
        exit = max(1, part(layers, self.share)) if self.share else 0
        return Way(exit, self.tokens, self.words, self.sure, self.engine, self.drawn)

    def runs(self, parameters: Exp21, text: DepthText) -> Iterator[Run]:
        """One run a seed. All ways of a network are timed by turns, by the first that is asked for;
        that reads the clock, so nothing may run beside it. A way of a reader's is timed alone."""
        ways = [way for way in WAYS if way.network == self.network]
        if self not in ways:
            ways = [self]
        timed = Speculative(
            NETWORKS[self.network].config(parameters, text),
            tuple(way.way(parameters.layers) for way in ways),
            written=parameters.written,
            rounds=parameters.rounds,
            threads=parameters.threads,
        )
        for seed in range(parameters.seeds):
            yield Run(run_way, OneWay(timed, ways.index(self)), seed)


WORDS = 8_192
SURE = 0.4  # where assisted generation of transformers stops drafting too
VARIANTS = {
    "exit_6": Decoding("Exit 6, whole head", 0.2),
    "exit_6_words": Decoding("Exit 6, frequent words", 0.2, words=WORDS),
    "exit_6_words_2": Decoding("Exit 6, frequent words, 2 drafts", 0.2, tokens=2, words=WORDS),
    "exit_6_words_6": Decoding("Exit 6, frequent words, 6 drafts", 0.2, tokens=6, words=WORDS),
    "exit_6_words_sure": Decoding(
        "Exit 6, frequent words, while sure", 0.2, words=WORDS, sure=SURE
    ),
    "exit_12_words": Decoding("Exit 12, frequent words", 0.4, words=WORDS),
    "exit_18_words": Decoding("Exit 18, frequent words", 0.6, words=WORDS),
    "copied": Decoding("Copied from the text", 0.0),
    "copied_8": Decoding("Copied from the text, 8 drafts", 0.0, tokens=8),
    "exit_6_words_drawn": Decoding("Exit 6, frequent words, drawn", 0.2, words=WORDS, drawn=True),
    "copied_8_drawn": Decoding("Copied from the text, 8 drafts, drawn", 0.0, tokens=8, drawn=True),
    "layerskip_6_words": Decoding("LayerSkip, exit 6, frequent words", 0.2, "layerskip", 4, WORDS),
    "assisted_6": Decoding("transformers, assisted by exit 6", 0.2, engine="transformers"),
}
DRAWN_COPIES = "copied_8_drawn"
PLAIN = ("ours", "transformers")
WAYS = tuple(VARIANTS.values())


def by_seed(results: Results, column: str, variant: str, batch: int) -> pd.Series:
    """Mean over texts and prompts of a column of ``decoding``, by seed. Raises Absent for none."""
    frame = results("decoding")
    frame = frame[(frame["variant"] == variant) & (frame["batch"] == batch)]
    if frame.empty:
        raise Absent(f"variant {variant!r} was not timed in batches of {batch}")
    results.used.update(frame["run_id"])
    return frame.groupby("seed")[column].mean()


def speedup(variant: str, batch: int) -> Measure:
    """Measure: times as fast as plain generation, seed by seed."""
    return lambda results: by_seed(results, "speedup", variant, batch).to_numpy()


def greedy_repeats(results: Results) -> np.ndarray:
    """Measure: by how much more greedy text repeats itself than drawn text, in batches of 1."""
    greedy, drawn = (by_seed(results, "repeated", name, 1) for name in ("copied_8", DRAWN_COPIES))
    return (greedy - drawn).dropna().to_numpy()


def plain(results: Results) -> np.ndarray:
    """Measure: times as fast as transformers without any drafts, in batches of 1."""
    found = [by_seed(results, f"{name}_tokens_a_second", "exit_6", 1) for name in PLAIN]
    return (found[0] / found[1]).to_numpy()


def against(one: str, other: str) -> Measure:
    """Measure: percent change from the other variant's speed-up to the one's, in batches of 1; of
    the seeds that both have."""

    def measure(results: Results) -> np.ndarray:
        return changed(*(by_seed(results, "speedup", name, 1) for name in (one, other)))

    return measure


def changed(one: pd.Series, other: pd.Series) -> np.ndarray:
    """Percent change from the other's values by seed to the one's. Raises Absent for no seed that
    both have."""
    shared = one.index.intersection(other.index)
    if shared.empty:
        raise Absent("no seed that both variants have")
    return percent_change(one[shared], other[shared])


def over_own_plain(results: Results, variant: str, engine: str) -> pd.Series:
    """Times as fast as plain generation of the same engine, in batches of 1, by seed."""
    own = by_seed(results, "drafted_tokens_a_second", variant, 1)
    return own / by_seed(results, f"{engine}_tokens_a_second", variant, 1)


def beats_assisted(results: Results) -> np.ndarray:
    """Measure: percent change from what assisted generation gains to what ours does."""
    theirs = over_own_plain(results, "assisted_6", "transformers")
    return changed(over_own_plain(results, "exit_6", "ours"), theirs)


TURNS = "the same network's plain generation, the faster of transformers' and ours, by turns"
claim = claim_maker("exp21", "this repository", kind=OWN)

CLAIMS = (
    claim(
        "speed-batch-1",
        "Drafting from exit 6 makes generation at least 1.3 times as fast",
        speedup("exit_6_words", batch=1),
        f"{TURNS}; batch 1, prompts of 32 and 256 tokens, 4 drafts from 8,192 frequent tokens",
        expect="above",
        threshold=1.3,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "speed-batch-4",
        "Drafting from exit 6 is faster than plain generation in batches of 4 too",
        speedup("exit_6_words", batch=4),
        f"{TURNS}; as many tokens are kept as the text that agrees least allows",
        expect="above",
        threshold=1.0,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "sure-saves",
        "Drafting only while exit 6 is sure makes generation faster",
        speedup("exit_6_words_sure", batch=1),
        f"{TURNS}; batch 1, up to 4 drafts, while the likeliest token has a chance of 0.4",
        expect="above",
        threshold=1.0,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "sure-pays",
        "Drafting only while the exit is sure is faster than always drafting four tokens",
        against("exit_6_words_sure", "exit_6_words"),
        "the same network, exit and head of frequent tokens; batch 1",
        expect="above",
        unit="% change of the speed-up",
    ),
    claim(
        "copies-pay",
        "Drafts copied from the text make generation faster",
        speedup("copied", batch=1),
        f"{TURNS}; batch 1, up to 4 drafts: what followed the last two tokens where they stood"
        " before",
        expect="above",
        threshold=1.0,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "copies-aim",
        "Up to eight drafts copied from the text make generation at least 1.3 times as fast",
        speedup("copied_8", batch=1),
        f"{TURNS}; batch 1; entered after validation prompts were seen, before any test prompt",
        expect="above",
        threshold=1.3,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "beats-copies",
        "Drafting from exit 6 is faster than copying drafts from the text",
        against("exit_6_words", "copied"),
        "the same network and number of drafts, which cost six layers each or none; batch 1",
        expect="above",
        unit="% change of the speed-up",
    ),
    claim(
        "greedy-repeats",
        "Greedy text repeats itself more than drawn text",
        greedy_repeats,
        "the same network and prompts; share of groups of four tokens that stood in the text"
        " before (seq-rep-4); batch 1",
        expect="above",
        unit="share of groups",
        bounds=(-1, 1),
    ),
    claim(
        "drawn-copies-pay",
        "Drafts copied from the text make drawing from the network faster too",
        speedup(DRAWN_COPIES, batch=1),
        f"{TURNS}, which draws as well; batch 1, up to 8 drafts",
        expect="above",
        threshold=1.0,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "drawn-pays",
        "Drafting from exit 6 makes drawing from the network faster",
        speedup("exit_6_words_drawn", batch=1),
        f"{TURNS}, which draws as well; batch 1, 4 drafts from 8,192 frequent tokens",
        expect="above",
        threshold=1.0,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "same-output",
        "Greedy output is that of the whole network",
        level("exit_6_words", "equal"),
        "share of equal tokens, the least over texts, batches and prompts; sums in another order"
        " can turn near ties",
        expect="above",
        threshold=0.99,
        unit="share of tokens",
        bounds=SHARE,
    ),
    claim(
        "plain-faster",
        "Plain generation here is at least 1.3 times as fast as that of transformers",
        plain,
        "the same network, both without drafts, by turns; batch 1",
        expect="above",
        threshold=1.3,
        unit="times as fast",
        bounds=FACTOR,
    ),
    claim(
        "small-head-pays",
        "Drafting from 8,192 frequent tokens is faster than from all",
        against("exit_6_words", "exit_6"),
        "the same network, exit and number of drafts; batch 1",
        expect="above",
        unit="% change of the speed-up",
    ),
    claim(
        "shallow-beats-deep",
        "Drafting from exit 6 is faster than from exit 12",
        against("exit_6_words", "exit_12_words"),
        "the same network and number of drafts; batch 1",
        expect="above",
        unit="% change of the speed-up",
    ),
    claim(
        "beats-assisted",
        "Drafting with one cache gains more than assisted generation of transformers",
        beats_assisted,
        "the same network and exit, whole head, each over plain generation of its own engine;"
        " transformers chooses the number of drafts itself; batch 1",
        expect="above",
        unit="% change of the speed-up",
    ),
)

E21 = Experiment(
    slug="21_exit_early_lose_nothing",
    question="Can an early exit save time and lose nothing, if the layers above check it?",
    parameters=Exp21,
    texts=Exp21.texts,
    variants=VARIANTS,
    baseline="exit_6",
    figures={"speed": figures.speed, "acceptance": figures.acceptance},
    claims=CLAIMS,
)
