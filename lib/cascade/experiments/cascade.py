"""What the CASCADE experiments share: base, corpus, the tables of results and their figures."""

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from lib.checks import CheckFailed
from lib.cascade.material import WIKITEXT, MaterialHandle, material_handle
from lib.cascade.modeling import CascadeForCausalLM
from lib.cascade.stage import Stage, new_stage, parameter_count
from lib.base.pretrained import BaseUnavailable, cache_folder
from lib.parameters import Parameters, choice, folder, whole, words
from lib.results import store, tables
from lib.results.claims import Measure, Tables, by_seed, level, ratio
from lib.results.store import Absent
from lib.text.corpus import CorpusUnavailable
from lib.text.instructions import SOURCES
from lib.runs.sweep import Task, sweep


@dataclass(frozen=True)
class CascadeParameters(Parameters):
    """Base, corpus and amounts of text in windows of 128 tokens.

    ``base``: auto, hub, wheel, tiny, a folder, or a Llama-family model as owner/name@revision.
    """

    base: str = words("auto")
    corpus: str = choice("auto", SOURCES)
    data_dir: str = folder()
    train_windows: int = whole(512, 4, 100_000)
    valid_windows: int = whole(64, 2, 100_000)
    test_windows: int = whole(120, 2, 100_000)
    seeds: int = whole(3, 1, 1_000)
    workers: int = whole(2, 1, 64)

    QUICK = {"train_windows": 16, "valid_windows": 2, "test_windows": 4, "seeds": 1}
    TINY = {
        "base": "tiny",
        "corpus": "embedded",
        "train_windows": 20,
        "valid_windows": 4,
        "test_windows": 8,
        "seeds": 1,
        "workers": 1,
    }
    PLACES = ("corpus", "data_dir", "workers")
    PACKING = "stream"

    def load(self) -> MaterialHandle:
        """Windows and base features, collected now or found in the cache; printed as one line.

        A full run stops if the base cannot be had; a smaller one says so and shows the plumbing on
        the random tiny base instead.
        """
        try:
            handle = self._handle(self.base)
        except BaseUnavailable as refusal:
            if self.size == store.FULL:
                raise
            print(
                f"{refusal} The quick run is made with the random tiny base instead: its "
                "numbers mean nothing.",
                flush=True,
            )
            handle = self._handle("tiny")
        material = handle.open()
        print(
            f"base {material.base.name} ({material.base.source}, "
            f"{material.base.parameters:,} parameters); {material.corpus}: "
            + ", ".join(
                f"{part} {table.tokens:,} tokens" for part, table in material.windows.items()
            ),
            flush=True,
        )
        return handle

    def counts(self) -> dict[str, int]:
        """Windows of every part."""
        return {"train": self.train_windows, "valid": self.valid_windows, "test": self.test_windows}

    def _handle(self, base: str) -> MaterialHandle:
        with _cache_alone():
            counts = self.counts()
            try:
                return material_handle(base, self.PACKING, counts, self.corpus, self.data_dir)
            except CorpusUnavailable as refusal:
                further = [part for part in counts if part in WIKITEXT]
                if not further:
                    raise
                print(f"{refusal} WikiText columns stay empty.", flush=True)
                counts = {part: n for part, n in counts.items() if part not in further}
                return material_handle(base, self.PACKING, counts, self.corpus, self.data_dir)


@contextmanager
def _cache_alone() -> Iterator[None]:
    """Hold the cache: notebooks that need the same features collect them once, not at once."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tasks_of(
    experiment: str, function: Callable, variants: Mapping[str, Any], seeds: int
) -> list[Task]:
    """One task a variant and seed; seeds outermost, so that an interrupted run has whole ones."""
    return [
        Task(function, config, seed, {"experiment": experiment, "variant": name})
        for seed in range(seeds)
        for name, config in variants.items()
    ]


def finish(
    slug: str, tasks: list[Task], parameters: CascadeParameters, timed: Sequence[Task] = ()
) -> pd.DataFrame:
    """Run what is not on disk, write the tables, return the main one by variant and seed.

    ``timed`` tasks run after all others and one at a time: nothing beside them may disturb the
    clock.
    """
    names = list(dict.fromkeys(task.labels["variant"] for task in (*tasks, *timed)))
    outcomes = sweep(tasks, workers=parameters.workers) + sweep(timed, 1)
    outcomes.sort(key=lambda o: (names.index(o.row["variant"]), o.row["seed"]))
    return store.write(slug, outcomes, parameters.size)


def summary(
    frame: pd.DataFrame,
    columns: Mapping[str, str],
    by: str = "variant",
    caption: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Mean [95 % interval] over seeds of each named column, one row a value of ``by``."""
    rows = {}
    for value in frame[by].unique():
        own = frame[frame[by] == value]
        rows[value] = {"n": len(own)} | {
            title: str(tables.interval(own.assign(variant="x"), "x", column) or "")
            for column, title in columns.items()
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(by)
    return tables.captioned(table, frame if caption is None else caption)


def against_base(variant: str, metric: str = "test_ppl", base: str = "base_ppl") -> Measure:
    """Percent by which a column lies above another one of the same row, seed by seed."""
    return ratio(level(variant, metric), level(variant, base))


def on_wikitext(measure: Measure) -> Measure:
    """The measure where WikiText-2 was scored; elsewhere Absent: small runs leave it out."""

    def guarded(tables: Tables) -> np.ndarray:
        if not any(column.startswith("wikitext_") for column in tables().columns):
            raise Absent("WikiText-2 was not scored")
        return measure(tables)

    return guarded


def common_change(treatment: str, baseline: str, metric: str = "test_ppl") -> Measure:
    """Percent change of a metric between two variants over the seeds that both have."""

    def measure(tables: Tables) -> np.ndarray:
        both = pd.concat(
            [by_seed(tables(), name, metric) for name in (treatment, baseline)],
            axis=1,
            join="inner",
        ).to_numpy()
        return 100 * (both[:, 0] / both[:, 1] - 1)

    return measure


def stage_change(variant: str, first: int, second: int, metric: str) -> Measure:
    """Percent change of a column of the ``stages`` table between two stages, seed by seed."""

    def measure(tables: Tables) -> np.ndarray:
        old, new = (_of_stage(tables, variant, stage, metric) for stage in (first, second))
        return 100 * (new / old - 1)

    return measure


def at_stage(variant: str, stage: int, metric: str, minus: int) -> Measure:
    """A column of the ``stages`` table at a stage less its value at stage ``minus``."""
    return lambda tables: (
        _of_stage(tables, variant, stage, metric) - _of_stage(tables, variant, minus, metric)
    )


def _of_stage(tables: Tables, variant: str, stage: int, metric: str) -> np.ndarray:
    frame = tables("stages")
    return by_seed(frame[frame["stage"] == stage], variant, metric).to_numpy()


def beside_reported(
    rows: list[tuple[str, float | None, float]], frame: pd.DataFrame
) -> pd.DataFrame:
    """A table of quantity, the seed's figure (None = it has none) and ours."""
    table = pd.DataFrame(
        [
            {
                "quantity": name,
                "seed": "" if seed is None else f"{seed:,.5g}",
                "ours": f"{ours:,.5g}",
            }
            for name, seed, ours in rows
        ]
    ).set_index("quantity")
    return tables.captioned(table, frame)


@torch.no_grad()
def check_off_is_base(handle: MaterialHandle) -> None:
    """Raises CheckFailed unless a cascade that hands nothing on gives the base's very logits."""
    material = handle.open()
    base, inputs = material.base, material.windows["test"].inputs[:2]
    stage = new_stage(base.model.config, 1, head="shared")
    nothing = [{"criterion": "last_two_layers", "threshold": float("-inf")}]
    expected = base.model(inputs).logits
    for stages, rules in (([], []), ([stage], nothing)):
        model = CascadeForCausalLM.assemble(base, stages, rules)
        if not torch.equal(model(inputs).logits, expected):
            raise CheckFailed(f"with {len(stages)} stages and nothing handed on, logits differ")
    print("no stages, and a stage that nothing reaches: the base's logits bit for bit")


@torch.no_grad()
def check_identity_start(handle: MaterialHandle) -> None:
    """Raises CheckFailed unless an untrained stage with identity start repeats its input."""
    material = handle.open()
    states = material.features["test"].final[:64][None]
    stage = new_stage(material.base.model.config, 2, head="shared", start="identity")
    if not torch.equal(stage(states), states):
        raise CheckFailed("an untrained identity stage changes its input")
    print("an untrained stage with identity start repeats the base's states bit for bit")


def check_sizes(handle: MaterialHandle) -> None:
    """Raises CheckFailed if, on the seeds' base, a stage has not the parameters of the seeds."""
    base = handle.open().base
    config = base.model.config
    if config.hidden_size != 576 or config.vocab_size != 49_152:
        print(f"the base ({base.name}) is not the seeds': their sizes are not checked")
        return
    with torch.device("meta"):
        sizes = {n: parameter_count(Stage(config, n, final_norm=n > 0)) for n in (0, 2, 8)}
    expected = {0: 28_311_552, 2: 35_392_320, 8: 56_632_896}
    if base.parameters != 134_515_008 or sizes != expected:
        raise CheckFailed(f"base {base.parameters}, stages {sizes}; expected {expected}")
    print(
        f"base {base.parameters:,} parameters; stages of 0, 2, 8 layers: "
        + ", ".join(f"{size:,}" for size in sizes.values())
    )
