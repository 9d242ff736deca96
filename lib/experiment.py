"""An experiment as data: parameters, texts, variants, figures and claims, and how it is run.

    E03 = Experiment("03_iterative_refinement", Exp03, texts, VARIANTS, baseline="standard", ...)
    results = E03.run(parameters)

A *variant* is a row of the experiment. It says what is trained on a text, with what parameters and
seeds; the experiment knows nothing of models. A reader adds an idea by adding a variant:

    E03.variants["irt3"] = Variant(Transformer(initial_state=True), Segments(3))

It is trained with the same seeds on the same text, and appears, marked as theirs, in tables and
figures.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from matplotlib.figure import Figure

from lib.parameters import ParameterError, Parameters
from lib.results import store
from lib.results.claims import Claim, Measure
from lib.results.forecast import forecast
from lib.results.schema import COLUMNS, DIVERGED, THEIRS
from lib.results.store import Results
from lib.runs import devices, places
from lib.runs.sweep import sweep
from lib.runs.task import Task


@dataclass(frozen=True)
class Run:
    """One computation of a variant: a declared function, its configuration and a random seed.

    ``side`` as in Task. Runs of a later ``turn`` come after all of an earlier one,
    whatever their seeds: what is dear waits for what is cheap and decides.
    """

    function: Callable
    config: Any
    seed: int
    side: bool = False
    turn: int = 0


class Variant(Protocol):
    """A row of an experiment. ``factors`` tell it from the others (method, layers ...)."""

    label: str
    factors: Mapping[str, Any]

    def runs(self, parameters: Parameters, text: Any) -> Iterable[Run]:
        """What is computed on a text, one main run a seed, further ones at its side."""
        ...


@dataclass
class Experiment:
    """``slug``: ``NN_name``, the name of its notebook and tables. ``report``: the name of its rows
    in ``reported.csv``. ``texts`` gives what the variants are run on. ``baseline`` is the variant
    that tables compare with. ``figures``: name -> drawing from Results. ``question``: in one line.
    ``beside``: measures that stand beside reported numbers whose row is no variant's label, by
    (row, metric) of ``reported.csv``. ``remarks``: what must be known of reported numbers, by a
    pattern of their "row: metric" (``*`` and ``?`` stand for any text and character): in what ours
    differs, or why nothing of ours measures it. ``pending``: why no table is committed yet, "" for
    an experiment that has one. ``shares``: other experiments that have runs of the same keys, by
    slug, with the names of their factors.
    """

    slug: str
    question: str
    parameters: type[Parameters]
    texts: Callable[[Any], Sequence[Any]]
    variants: dict[str, Variant]
    baseline: str
    report: str = ""
    figures: Mapping[str, Callable[[Results], Figure]] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    beside: Mapping[tuple[str, str], Measure] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
    pending: str = ""
    shares: Mapping[str, Collection[str]] = field(default_factory=dict)

    def __post_init__(self):
        self.own = dict(self.variants)  # those of the repository
        ids = [claim.id for claim in self.claims]
        if repeated := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"{self.slug}: claims share an id: {', '.join(repeated)}")

    @property
    def number(self) -> str:
        return self.slug[:2]

    def label(self, variant: str) -> str:
        """The name of a variant for readers, marked if it is not the repository's."""
        name = self.variants[variant].label or variant
        return name if variant in self.own else f"{name} {THEIRS}"

    def labels(self) -> dict[str, str]:
        """Names of all variants by id."""
        return {variant: self.label(variant) for variant in self.variants}

    def check_variants(self, only: Sequence[str]) -> None:
        """Raises ParameterError if one of them is no variant."""
        if unknown := [name for name in only if name not in self.variants]:
            raise ParameterError(
                f"{self.slug} has no variant {', '.join(unknown)}; allowed: "
                f"{', '.join(self.variants)}"
            )

    def check_theirs(self) -> None:
        """Raises ParameterError if a variant of a reader's is none, or passes for another."""
        names: dict[str, str] = {}
        for variant, entry in self.variants.items():
            here = f"{self.slug}: variants[{variant!r}]"
            if not variant.strip():
                raise ParameterError(f"{here} has a blank id; allowed: a word")
            if variant in self.own:
                if entry is not self.own[variant]:
                    raise ParameterError(f"{here} is the repository's; allowed: an id of its own")
                continue
            if not (hasattr(entry, "runs") and hasattr(entry, "factors")):
                raise ParameterError(f"{here} is a {type(entry).__name__}; allowed: a Variant")
            if taken := sorted(set(entry.factors) & set(COLUMNS)):
                raise ParameterError(
                    f"{here} has the factor {taken[0]!r}, a column of every table; allowed: "
                    "another name"
                )
            name = self.label(variant)
            if name in names:
                raise ParameterError(
                    f"{here} is called {entry.label!r}, as is {names[name]!r}; allowed: a label "
                    "of its own"
                )
            names[name] = variant

    def tasks(
        self, parameters: Parameters, texts: Sequence[Any], only: Sequence[str] = ()
    ) -> list[Task]:
        """Every run, turn by turn and in it seed by seed, so that an interrupted sweep has whole
        comparisons. ``only`` takes some variants, all if empty. Raises ParameterError for
        an unknown one, and for one of a reader's that passes for another."""
        self.check_variants(only)
        self.check_theirs()
        found = []
        for order, text in enumerate(texts):
            for variant in only or self.variants:
                entry = self.variants[variant]
                labels = {"experiment": self.report or f"exp{self.number}", "variant": variant}
                labels |= {"label": self.label(variant), **entry.factors}
                for run in entry.runs(parameters, text):
                    task = Task(run.function, run.config, run.seed, labels, run.side)
                    found.append((run.turn, run.seed, order, task))
        found.sort(key=lambda item: item[:3])
        return [task for *_, task in found]

    def run(
        self,
        parameters: Parameters,
        texts: Sequence[Any] | None = None,
        published: Callable[[Results], Any] | None = None,
        only: Sequence[str] = (),
        seeds: Collection[int] = (),
    ) -> Results:
        """Run what is not finished, write the tables of this set of parameters, return them.

        ``published`` is called with the tables so far, while runs end. ``only`` as in ``tasks``.
        ``seeds``: only these are trained, those of others appear where they are finished.
        Where DEPTH_RECORDED is set, runs whose rows are committed count as finished, in the tables
        of experiments that it ``shares`` runs with too. Prints the device, what is to be done and
        how long it took us before anything is trained.
        """
        if places.shows_committed():
            return self._shown()
        device = devices.choose(parameters.device)
        places.begin_keeping()
        texts = self.texts(parameters) if texts is None else texts
        tasks = self.tasks(parameters, texts, only)
        known = self._recorded() if places.recorded_counts() else {}
        planned = frozenset(task.key(device.type) for task in tasks)
        if seeds:
            tasks = self._of_seeds(tasks, seeds, known, device.type)
        keys = [task.key(device.type) for task in tasks]
        order = {variant: place for place, variant in enumerate(self.variants)}

        def sort(pairs: list[tuple[Task, dict]]) -> list[tuple[Task, dict]]:
            corpora = {getattr(text, "name", ""): place for place, text in enumerate(texts)}
            return sorted(
                pairs,
                key=lambda pair: (
                    corpora.get(pair[1]["row"].get("corpus", ""), 0),
                    order[pair[0].labels["variant"]],
                    pair[0].seed,
                ),
            )

        def saved(pairs: list[tuple[Task, dict]]) -> Results:
            results = store.save_set(self.slug, parameters, keys, sort(pairs))
            return replace(results, planned=planned)

        def told(pairs: list[tuple[Task, dict]]) -> None:
            if any(not task.side for task, _ in pairs):
                results = saved(pairs)
                if published:
                    published(results)

        print(
            f"{len(set(keys))} runs of {len(only or self.variants)} variants on {len(texts)} text"
            f"{'s' if len(texts) > 1 else ''}, device {devices.spoken(device)}",
            flush=True,
        )
        print(forecast(self.slug, tasks, known, parameters, device.type), flush=True)
        pairs = sweep(
            tasks, parameters.workers, device, parameters.engine, recorded=known, told=told
        )
        spent = sum({r["key"]: r["row"].get("seconds", 0) for _, r in pairs}.values())
        print(f"all finished: {spent / 60:.1f} core-minutes of training in all", flush=True)
        results = saved(pairs)
        lost = results()[results()["status"] == DIVERGED]["label"]
        if len(lost):
            counts = ", ".join(f"{name} ({n})" for name, n in lost.value_counts(sort=False).items())
            print(f"diverged, and left out of means and claims: {counts}", flush=True)
        return results

    def _recorded(self) -> dict[str, dict[str, Any]]:
        """Finished runs by key, as far as the committed tables tell, its own and shared ones. The
        factors of another experiment are none of the run: ours come with the task."""
        found = {}
        for slug, factors in self.shares.items():
            for key, record in store.recorded(slug).items():
                row = {name: value for name, value in record["row"].items() if name not in factors}
                found[key] = {**record, "row": row}
        return found | store.recorded(self.slug)

    def _of_seeds(
        self, tasks: Sequence[Task], seeds: Collection[int], known: Collection[str], device: str
    ) -> list[Task]:
        """The tasks of some seeds, and those of others that are finished, whose rows stay.

        Raises ParameterError for a seed that no task has.
        """
        there = {task.seed for task in tasks}
        if unknown := sorted(set(seeds) - there):
            raise ParameterError(
                f"{self.slug} has no seed {unknown[0]} with these parameters; allowed: "
                f"{', '.join(map(str, sorted(there)))}"
            )
        runs = places.runs_folder()

        def stays(task: Task) -> bool:
            return task.key(device) in known or not task.missing(runs, device)

        return [task for task in tasks if task.seed in seeds or stays(task)]

    def _shown(self) -> Results:
        """The committed rows of all texts and sizes: how the notebooks that are read were made."""
        results = store.committed(self.slug)
        for (corpus, size), rows in results().groupby(["corpus", "size"], sort=False):
            print(
                f"committed: {len(rows)} rows on {corpus}, size {size}, "
                f"{rows['seconds'].sum() / 60:.1f} core-minutes of training"
            )
        return results
