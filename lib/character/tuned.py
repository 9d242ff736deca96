"""Methods as their reports ran them and with numbers chosen on validation text, side by side."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from lib.character import choices
from lib.character.choices import GRID, chosen
from lib.character.figures.common import metric
from lib.character.objectives import Objective
from lib.character.parameters import CharacterParameters, TwoTexts
from lib.character.run import CharacterRun
from lib.character.two_phase_run import TwoPhaseRun
from lib.character.variants import Shaped, Variant
from lib.experiment import Run
from lib.parameters import whole
from lib.results import statistics, tables
from lib.results.claims import Measure, by_seed, change
from lib.results.store import Absent, Results
from lib.text.corpus import Corpus

BESIDE = 4  # methods in one table of the grid


class TunedParameters(CharacterParameters):
    """Sizes of the training text beyond the report's own, up to ``largest_chars`` characters.

    ``epochs`` and ``learning_rate`` are those of rows that are not tuned. Tuned rows, and the
    search itself, stop early with the one ``patience`` or after ``tuned_epochs``; on a larger text
    after ``larger_symbols`` characters, if that is sooner, but not before one pass. Larger texts
    and wider networks have ``larger_seeds`` random seeds.
    """

    tuned_epochs: int = whole(90, 1, 10_000)
    largest_chars: int = whole(2_000_000, 100, 10_000_000)
    larger_seeds: int = whole(5, 1, 1_000)
    larger_symbols: int = whole(10_000_000, 1, 1_000_000_000)

    TINY = {**TwoTexts.TINY, "tuned_epochs": 1, "largest_chars": 1_100}
    QUICK = {**TwoTexts.QUICK, "train_chars": 2_200, "seeds": 2, "epochs": 1,
             "tuned_epochs": 1, "largest_chars": 2_200}  # fmt: skip

    def passes(self, chars: int) -> int:
        """The limit of epochs of a tuned row on so many training characters."""
        return min(max(self.larger_symbols // chars, 1), self.tuned_epochs)

    def longest(self, config: CharacterRun | TwoPhaseRun) -> CharacterRun | TwoPhaseRun:
        """A run with the limit of epochs and the patience of tuned rows; of two phases the last."""
        if isinstance(config, TwoPhaseRun):
            return replace(config, head=self.longest(config.head))
        limit = self.passes(len(config.corpus.train))
        training = replace(config.training, epochs=limit, patience=self.patience)
        return replace(config, training=training)


@dataclass(frozen=True)
class Method:
    """A variant of an experiment whose parameters are ``schema``, by a name of its own."""

    label: str
    variant: Variant | Shaped
    schema: type[CharacterParameters]

    @property
    def kind(self) -> type[Variant] | type[Shaped]:
        """What it is trained as, also where its experiment takes it apart by depth."""
        return Shaped if isinstance(self.variant, Shaped) else Variant

    def config(self, parameters: TunedParameters, corpus: Corpus) -> CharacterRun | TwoPhaseRun:
        """What is trained on a corpus, as its report ran it."""
        return self.kind.config(self.variant, parameters.of(self.schema), corpus)


@dataclass(frozen=True)
class Tuned:
    """A method on a text: ``tuned`` or as reported; on ``chars`` characters (0: as parameters say)
    and of another ``width`` (0: the report's).

    It is trained and tested only, also where its experiment takes it apart by depth. A method that
    was tuned nowhere has no tuned row. ``turn`` as in Run.
    """

    name: str
    method: Method
    label: str = ""
    tuned: bool = True
    chars: int = 0
    width: int = 0
    turn: int = 0
    factors: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> tuple[Any, Objective]:
        """The model and how it is used once it is trained."""
        return self.method.variant.network

    def runs(self, parameters: TunedParameters, corpus: Corpus) -> Iterator[Run]:
        text, seeds = corpus, parameters.seeds
        if self.chars:
            if not parameters.train_chars < self.chars <= parameters.largest_chars:
                return
            text, seeds = parameters.longer(self.chars), parameters.larger_seeds
            if text is None:
                return
        config = self.method.config(parameters, text)
        if self.tuned:
            choice = chosen(self.name, text.name, len(text.train))
            if choice is None:
                return
            config = choice.apply(parameters.longest(config))
        if self.width:
            config = replace(config, model=replace(config.model, width=self.width))
        for seed in range(seeds):
            yield Run(self.method.kind.function, config, seed, turn=self.turn)


def gap(treatment: str, baseline: str) -> Measure:
    """The percent change of two tuned methods minus that of the same as reported, seed by seed.

    Of the seeds that all four have: an unfinished sweep may hold more of one. Raises Absent if
    there is none.
    """
    names = (f"{treatment}_tuned", f"{baseline}_tuned", treatment, baseline)

    def measure(results: Results) -> np.ndarray:
        found = [by_seed(results, name, metric(results.corpus)) for name in names]
        shared = functools.reduce(pd.Index.intersection, (values.index for values in found))
        if shared.empty:
            raise Absent(f"no seed that {', '.join(names)} all have")
        one, two, three, four = (values[shared].to_numpy() for values in found)
        return statistics.percent_change(one, two) - statistics.percent_change(three, four)

    return measure


def compared(results: Results, pairs: Mapping[tuple[str, str], float | None]) -> pd.DataFrame:
    """Percent change from the second to the first of each pair, as reported and both tuned.

    ``pairs`` with the report's own change, of one run. One text.
    """
    rows, labels = [], results.labels
    for (treatment, baseline), reported in pairs.items():
        found = {}
        for name, end in (("as reported", ""), ("both tuned", "_tuned")):
            try:
                values = change(treatment + end, baseline + end, metric(results.corpus))(results)
            except Absent:
                continue
            found[name] = statistics.percent_interval(values)
        if found:
            row = {"comparison": f"{labels[treatment]} against {labels[baseline]}"}
            row |= {f"Δ {name}": f"{interval} %" for name, interval in found.items()}
            row["n"] = "/".join(str(interval.n) for interval in found.values())
            rows.append(row | {"report's": "" if reported is None else f"{reported:.1f} %"})
    columns = ["comparison", "Δ as reported", "Δ both tuned", "n", "report's"]
    frame = pd.DataFrame(rows, columns=columns).fillna("").set_index("comparison")
    return tables.captioned(frame, results())


def by_size(
    results: Results, pairs: Iterable[tuple[str, str]], sizes: Mapping[str, str]
) -> pd.DataFrame:
    """Percent change from the second to the first of each tuned pair, a column a size that was run.

    ``sizes``: end of a variant's name -> size in words. One text.
    """
    labels, found = results.labels, {}
    for treatment, baseline in pairs:
        for end, told in sizes.items():
            one, other = (f"{name}_tuned{end}" for name in (treatment, baseline))
            try:
                values = change(one, other, metric(results.corpus))(results)
            except Absent:
                continue
            names = " against ".join(labels[name + "_tuned"] for name in (treatment, baseline))
            interval = statistics.percent_interval(values)
            found.setdefault(names, {})[told] = f"{interval} % ({interval.n})"
    frame = pd.DataFrame(found).T.reindex(columns=list(sizes.values())).dropna(axis=1, how="all")
    frame.index.name = "comparison"
    return tables.captioned(frame.fillna(""), results())


def edges(choice: Mapping[str, Any]) -> list[str]:
    """Numbers of a choice that lie at an end of their grid where the search might have gone on."""
    found = []
    for name, values in GRID.items():
        ends = {values[-1]} if values[0] == 0 else {values[0], values[-1]}
        if choice[name] in ends:
            found.append(name.replace("_", " "))
    return found


def choices_table(methods: Mapping[str, Method]) -> pd.DataFrame:
    """What was chosen for each method on validation text, by text and size."""
    rows = choices.known().copy()
    rows["method"] = rows["method"].map(lambda name: methods[name].label)
    texts = zip(rows.pop("corpus"), rows.pop("train_chars"), strict=True)
    rows.insert(0, "text", [f"{name}, {chars:,} characters" for name, chars in texts])
    rows = rows.drop(columns="valid_loss")  # it stands in the table of the grid
    rows["at the edge of the grid"] = [", ".join(edges(row)) for row in rows.to_dict("records")]
    frame = rows.rename(columns=lambda name: name.replace("_", " ")).set_index("method")
    seeds = len(choices.SEEDS)
    frame.attrs["caption"] = f"chosen on validation text; means over {seeds} random seeds"
    return frame


def grids(methods: Mapping[str, Method]) -> list[pd.DataFrame]:
    """The tables of the grid of every text and size on which a method was tuned."""
    texts = choices.kept()[["corpus", "train_chars"]].drop_duplicates()
    pairs = texts.itertuples(index=False, name=None)
    return [table for corpus, chars in pairs for table in grid_tables(methods, corpus, chars)]


def grid_tables(methods: Mapping[str, Method], corpus: str, chars: int) -> list[pd.DataFrame]:
    """Validation perplexity at every point of the grid, a column a method; none if not tuned.

    A row is a value of the stage, the others as chosen in the stages before, without and with the
    average of the weights; the chosen point of a stage bears a star. ``BESIDE`` methods a table.
    """
    table = choices.kept()
    table = table[(table["corpus"] == corpus) & (table["train_chars"] == chars)]
    found: dict[str, dict[tuple, str]] = {}
    for name, losses in table.groupby("method", sort=False):
        path, _ = choices.follow(losses)
        for stage, fixed, won in zip(GRID, path, path[1:], strict=False):
            for point in choices.candidates(stage, fixed):
                own = losses
                for number in choices.NUMBERS:
                    own = own[own[number] == getattr(point, number)]
                value = float(np.exp(own["valid_loss"].mean()))
                where = (stage.replace("_", " "), getattr(point, stage), point.average)
                star = " *" if point == won else ""
                found.setdefault(methods[name].label, {})[where] = f"{value:.2f}{star}"
    frame = pd.DataFrame(found)
    if len(frame):
        frame.index = frame.index.set_names(["number", "value", "average"])
    parts = [frame.iloc[:, i : i + BESIDE] for i in range(0, frame.shape[1], BESIDE)]
    for part in parts:
        part.attrs["caption"] = (
            f"validation perplexity on {corpus} at {chars:,} training characters, mean over"
            f" {len(choices.SEEDS)} random seeds; * chosen in its stage"
        )
    return parts
