"""Train networks that keep their weights, take them apart by depth, and write both as one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.character.analysis import depth_probe
from lib.character.analysis import difficulty_judges
from lib.character.analysis import exit_speed
from lib.character.experiments.character import count_models, labelled
from lib.character.experiments.two_corpora import TwoCorpora
from lib.character.figures import exits
from lib.results import store
from lib.results.claims import Measure, Tables, filled
from lib.results.store import Absent
from lib.text.corpus import Corpus
from lib.character import kept_run
from lib.character.character_run import CharacterRun
from lib.runs.task import Outcome
from lib.runs.sweep import Task, sweep


@dataclass(frozen=True)
class Network:
    """A row: a model, an objective, the layer it may exit after, and what differs in training."""

    model: Any
    objective: Any
    exit_layer: int
    training: Mapping[str, Any] = field(default_factory=dict)


Networks = Callable[[int], Mapping[str, Network]]  # from the size of the alphabet


def train_and_probe(
    experiment: str,
    slug: str,
    networks: Networks,
    corpora: list[Corpus],
    parameters: TwoCorpora,
    judged: bool = False,
    timed: tuple[str, ...] = (),
    repeats: int = 1,
    more: Callable[[], list[Outcome]] = list,
) -> pd.DataFrame:
    """Train, probe, and time the networks named in ``timed``; write and return the main table.

    ``judged`` lets another seed's network of the same kind say what is hard (the next seed's; with
    one seed there is none). Timings are medians of ``repeats``; untrained wider models are timed
    beside the first corpus. ``more`` gives further outcomes of the same table, computed last.
    """
    trainings = [
        task
        for corpus in corpora
        for task in training_tasks(experiment, networks(len(corpus.alphabet)), corpus, parameters)
    ]
    trained = sweep(trainings, parameters.workers)
    probes, judgements, timings = [], [], []
    exit_layers = {name: network.exit_layer for name, network in networks(97).items()}
    for task in trainings:
        variant = task.labels["variant"]
        judge = _judge(task, trainings) if judged else ""
        config = depth_probe.Probe(task.config, task.run_id, exit_layers[variant], judge)
        probes.append(Task(depth_probe.run, config, task.seed, task.labels))
        if judge:
            opinion = difficulty_judges.Judged(task.config, task.run_id, judge)
            judgements.append(Task(difficulty_judges.run, opinion, task.seed, task.labels))
        if variant in timed:
            widths = (64, 256) if task.config.corpus is corpora[0] else ()
            speed = exit_speed.Speed(
                task.config, task.run_id, exit_layers[variant], repeats=repeats, widths=widths
            )
            timings.append(Task(exit_speed.run, speed, task.seed, task.labels))
    found = [
        Outcome(one.row, {**one.tables, **two.tables})
        for one, two in zip(trained, sweep(probes, parameters.workers), strict=True)
    ]
    _add_tables(found, sweep(judgements, parameters.workers))
    _add_tables(found, sweep(timings, 1))  # alone: nothing beside them may disturb the clock
    found += more()
    for corpus in corpora:
        found += sweep(count_models(experiment, corpus))
    return store.write(slug, found, parameters.size)


def training_tasks(
    experiment: str, networks: Mapping[str, Network], corpus: Corpus, parameters: TwoCorpora
) -> list[Task]:
    """One training a network and seed; whole batches, in fixed order unless it says otherwise."""
    tasks = []
    for name, network in networks.items():
        numbers = parameters.ordered(**network.training)
        config = CharacterRun(corpus, network.model, network.objective, numbers, whole_batches=True)
        tasks += labelled(experiment, name, kept_run.run, config, parameters)
    return tasks


def _judge(task: Task, trainings: list[Task]) -> str:
    peers = [
        other
        for other in trainings
        if other.labels == task.labels and other.config.corpus.sha256 == task.config.corpus.sha256
    ]
    after = peers[(peers.index(task) + 1) % len(peers)]
    return "" if after is task else after.run_id


def _add_tables(found: list[Outcome], more: list[Outcome]) -> None:
    def key(outcome: Outcome) -> tuple:
        return tuple(outcome.row[name] for name in ("variant", "corpus", "seed"))

    by_key = {key(outcome): outcome for outcome in found}
    for outcome in more:
        by_key[key(outcome)].tables.update(outcome.tables)


LEAST_EXITS = 5.0  # percent of the symbols; with fewer, exits cannot change what is measured
PARETO_TITLE = "Perplexity against compute, best epoch (dotted: as many exits drawn by lot)"


def reported_split(slug: str, table: str, size: str) -> pd.DataFrame:
    """A table of the probe on the reported split."""
    frame = store.read(slug, table, size)
    return frame[frame["split"] == "report"]


def pareto_figure(slug: str, variants: tuple[str, ...], size: str) -> Figure:
    """Perplexity against compute over thresholds, both corpora."""
    found = (reported_split(slug, table, size) for table in ("exits", "summary"))
    return exits.pareto(*found, list(variants), PARETO_TITLE)


def sweep_figure(
    slug: str, variants: tuple[str, ...], columns: tuple[str, ...], repeated: bool, size: str
) -> Figure:
    """Columns of the exit table against the threshold, on real or on repeated text."""
    table = reported_split(slug, "exits", size)
    corpus = _corpus(table, repeated)
    layer = int(reported_split(slug, "summary", size)["exit_layer"].iloc[0])
    title = f"Exit after layer {layer}, {corpus}"
    return exits.sweep(table, corpus, list(variants), list(columns), title)


def reliability_figure(slug: str, variants: tuple[str, ...], repeated: bool, size: str) -> Figure:
    """Reliability of the exit layer at the last epoch, on real or on repeated text."""
    table = reported_split(slug, "reliability", size)
    corpus = _corpus(table, repeated)
    title = f"Exit layer at the last epoch, {corpus}"
    return exits.reliability(table, corpus, list(variants), "exit", "last", title)


def _corpus(table: pd.DataFrame, repeated: bool) -> str:
    names = list(table["corpus"].unique())
    return names[-1] if repeated else names[0]


def probed(
    variant: str, column: str, state: str, split: str = "report", table: str = "summary", **where
) -> Measure:
    """A column of the probe's tables by seed, for one state and split; ``where`` selects rows.

    On ``repeated`` the seeds' own split is all of valid; ``split`` counts for other corpora.
    """

    def measure(tables: Tables) -> np.ndarray:
        frame = tables(table)
        wanted = {"variant": variant, "state": state, "split": _split(tables, split, column)}
        for name, value in {**wanted, **where}.items():
            frame = frame[frame[name] == value]
        values = filled(
            frame.sort_values("seed")[column], f"{variant!r} has no {column} in {table}"
        )
        if frame["seed"].duplicated().any():
            raise ValueError(f"several rows a seed for {column} of {variant!r}")
        return values.to_numpy(dtype=float)

    return measure


def _split(tables: Tables, split: str, column: str) -> str:
    if tables.corpus == "repeated" and not column.startswith("chosen_"):
        return "valid"
    return split


def at_threshold(variant: str, column: str, state: str, threshold: float = 0.8) -> Measure:
    """A column of the table of exits by seed, at one threshold of confidence."""
    return probed(variant, column, state, table="exits", threshold=threshold)


def if_enough_exit(measure: Measure, exits: Measure) -> Measure:
    """The measure where on average over seeds at least ``LEAST_EXITS`` percent of the symbols exit.

    Raises Absent where fewer do: a network that hardly ever exits loses nothing by exiting.
    """

    def guarded(tables: Tables) -> np.ndarray:
        share = float(np.mean(exits(tables)))
        if share < LEAST_EXITS:
            few = f"only {share:.2g} % of the symbols exit (mean over seeds)"
            raise Absent(f"{few}, and under {LEAST_EXITS:g} % a verdict could not fail")
        return measure(tables)

    return guarded
