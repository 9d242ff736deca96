"""The tables of an experiment: the only place that writes and reads them.

The main table has one row a variant and seed; ``curve`` and other tables hold what runs recorded
along the way, each row naming its variant, corpus, size, seed and run. Every set of parameters has
a folder of its own, ``results/sets/NN_slug/<size>-<key>/``, named by the keys of its runs, so that
nothing is ever written over. The committed tables, ``results/NN_slug.csv`` and its companions, are
sets that were published: their sizes and texts one below the other.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lib.parameters import SIZES, Parameters
from lib.results.schema import (
    DIVERGED,
    KEYS,
    MOST_SYMBOLS,
    OK,
    THEIRS,
    SchemaError,
    check,
    status,
)
from lib.runs import files
from lib.runs.key import digest
from lib.runs.places import ROOT, sets_folder, shown
from lib.runs.task import Task

TABLES = ROOT / "results"
WHO = [name for name in KEYS if name != "run_id"]  # of whom a row is, whichever its run
LABELS = ("experiment", "variant", "label", "size", "seed", "run_id")
TEXT = ("corpus_sha256", "torch", "code_hash", "commit", "run_id")  # even if all are digits
UNPUBLISHED = ("custom", "quick", "tiny")  # sizes that are no report's
NUMBERS = ("val_ppl", "test_ppl", "seconds", "params", "best_epoch", "epoch")
ABOUT = {"experiment", "size", "parameters", "texts", "runs", "outstanding", "written"}  # set.json
EXACT = 2**53  # from here on a float loses digits of a whole number


class Absent(KeyError):
    """Something that a table of results may hold and does not: a variant, a rate, its values.

    Not for a column that no table of its kind has: a misspelt name stays a plain KeyError.
    """


@dataclass(frozen=True)
class Results:
    """The tables of an experiment: of one set of parameters, or the committed ones.

    ``frames``: the main table under "", others by name. ``folder``: where the set lies.
    ``outstanding``: how many of its runs are not finished. ``planned``: the ids of all runs that
    its parameters ask for, those included that another process trains. ``used`` collects the ids of
    the runs that a claim has looked at.
    """

    slug: str
    frames: dict[str, pd.DataFrame]
    folder: Path | None = None
    outstanding: int = 0
    planned: frozenset[str] = frozenset()
    used: set[str] = dataclasses.field(default_factory=set, compare=False)

    def __call__(self, table: str = "") -> pd.DataFrame:
        """A table. Raises FileNotFoundError with the command that makes it."""
        if table not in self.frames:
            name = _file(self.slug, table).removesuffix(".csv")
            raise FileNotFoundError(
                f"table {name} is not there; `make reproduce NB={self.slug[:2]}` makes it"
            )
        return self.frames[table]

    @property
    def corpora(self) -> list[str]:
        """Names of the texts, in the order of the main table."""
        return list(self()["corpus"].unique())

    @property
    def corpus(self) -> str:
        """The one text. Raises ValueError if there are several."""
        if len(self.corpora) != 1:
            raise ValueError(f"{self.slug} holds {len(self.corpora)} texts; choose one with on()")
        return self.corpora[0]

    @property
    def sizes(self) -> list[str]:
        """Sizes in the main table, in its order."""
        return list(self()["size"].unique())

    @property
    def labels(self) -> dict[str, str]:
        """Names for readers by id of the variant."""
        frame = self().drop_duplicates("variant")
        return dict(zip(frame["variant"], frame["label"], strict=True))

    def named(self, table: str = "") -> pd.DataFrame:
        """A table whose variants bear their names for readers."""
        frame = self(table)
        return frame.assign(variant=frame["variant"].map(self.labels))

    def names(self, variants: Sequence[str]) -> list[str]:
        """Names of those of the variants that are there, and of all that a reader has added."""
        labels = self.labels
        own = [labels[variant] for variant in variants if variant in labels]
        return own + [n for n in labels.values() if n.endswith(THEIRS) and n not in own]

    def sound(self) -> "Results":
        """Without the runs that diverged, in every table; itself if there are none."""
        main = self.frames.get("")
        if main is None or not (main["status"] == DIVERGED).any():
            return self
        lost = set(main.loc[main["status"] == DIVERGED, "run_id"])
        frames = {
            name: frame[~self.main_runs(frame).isin(lost)] for name, frame in self.frames.items()
        }
        return dataclasses.replace(self, frames=frames, used=self.used)

    def main_runs(self, frame: pd.DataFrame) -> pd.Series:
        """The run of the main table that each row of a table belongs to: its own, or for rows of a
        run beside it that of the same variant, text, size and seed."""
        main, ids = self(), frame["run_id"]
        beside = ~ids.isin(main["run_id"])
        if not beside.any() or not {*WHO} <= {*frame} & {*main}:
            return ids
        runs = main.drop_duplicates(WHO).set_index(WHO)["run_id"]
        found = runs.reindex(pd.MultiIndex.from_frame(frame.loc[beside, WHO])).to_numpy()
        return ids.where(~beside, pd.Series(found, frame.index[beside])).fillna(ids)

    def looked_at(self) -> pd.DataFrame:
        """The main rows of the runs that were used, or that used ones ran beside."""
        main = self()
        own = self.used & {*main["run_id"]}
        if self.used - own:
            for frame in self.frames.values():
                own |= {*self.main_runs(frame[frame["run_id"].isin(self.used)])}
        return main[main["run_id"].isin(own)]

    def on(self, corpus: str = "", size: str = "") -> "Results":
        """Only the rows of one text, or of one size."""

        def cut(frame: pd.DataFrame) -> pd.DataFrame:
            frame = frame[frame["corpus"] == corpus] if corpus else frame
            return frame[frame["size"] == size] if size else frame

        frames = {name: cut(frame) for name, frame in self.frames.items()}
        return dataclasses.replace(self, frames=frames, used=self.used)


def committed(slug: str) -> Results:
    """The committed tables of an experiment. Raises FileNotFoundError if there are none."""
    with files.shared(_lock(slug)):
        _finish(slug)
        if not has_committed(slug):
            raise FileNotFoundError(
                f"{slug}.csv is not there; `make reproduce NB={slug[:2]}` makes it"
            )
        return Results(slug, _read(TABLES, slug))


def has_committed(slug: str) -> bool:
    """Whether an experiment has committed tables."""
    return (TABLES / f"{slug}.csv").is_file()


def seconds(keys: Collection[str]) -> dict[str, float]:
    """What runs took, by key, as far as the committed tables tell."""
    found: dict[str, float] = {}
    for path in sorted(TABLES.glob("[0-9][0-9]_*.csv")) if keys else ():
        names = set(pd.read_csv(path, nrows=0))
        if {"run_id", "seconds"} <= names:
            rows = pd.read_csv(path, dtype={"run_id": str}).set_index("run_id")["seconds"]
            found |= rows[rows.index.isin(keys)].to_dict()
    return found


def recorded(slug: str) -> dict[str, dict[str, Any]]:
    """Finished runs by key, as far as the committed tables tell: row and tables of each."""
    if not has_committed(slug):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, frame in committed(slug).frames.items():
        for run, rows in frame.groupby("run_id", sort=False):
            # two variants, or two sizes, may stand on one run: its rows are those of either
            own = (rows[["variant", "size"]] == rows[["variant", "size"]].iloc[0]).all(axis=1)
            rows, corpus = rows[own], rows["corpus"].iloc[0]
            held = found.setdefault(run, {"row": {"seconds": 0.0, "corpus": corpus}, "tables": {}})
            plain = [_plain(row, KEYS if name else LABELS) for row in rows.to_dict("records")]
            if name:
                held["tables"][name] = plain
            else:
                held["row"] = plain[0]
    return found


def assemble(pairs: Sequence[tuple[Task, dict]], size: str) -> dict[str, pd.DataFrame]:
    """The tables of finished runs: pairs of a task and its record with its ``key``.

    Raises SchemaError for rows that are not valid results.
    """
    rows, tables, place = [], {}, {}
    for task, record in pairs:
        if task.side:
            continue
        labels = {**task.labels, "seed": task.seed, "size": size, "run_id": record["key"]}
        row = {**record["row"], "status": _status(record["row"]), **labels}
        place[_who(task, row)] = row
        rows.append(row)
    for task, record in pairs:
        main = place.get(_who(task, {**task.labels, **record["row"]}))
        if main is None:  # a side run whose main run is not finished yet
            continue
        keys = {name: main[name] for name in KEYS} | {"run_id": record["key"]}
        for name, own in record["tables"].items():
            tables.setdefault(name, []).extend({**keys, **row} for row in own)
    frames = {"": check(_frame(rows))}
    return frames | {name: _frame(own) for name, own in tables.items()}


def _status(row: dict[str, Any]) -> str:
    """What a run says of itself, unless one of its perplexities is none that a model has."""
    symbols = row.get("vocabulary", MOST_SYMBOLS)
    found = [status(row.get(name), symbols) for name in ("val_ppl", "test_ppl")]
    return DIVERGED if DIVERGED in found else row.get("status", OK)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame in which no whole number loses digits beside an empty cell."""
    frame = pd.DataFrame(rows)
    for column in frame.select_dtypes("float"):
        if (frame[column].abs() >= EXACT).any():
            values = [row.get(column) for row in rows]
            if all(value is None or isinstance(value, int) for value in values):
                frame[column] = pd.array(values, dtype="Int64")
    return frame


def _who(task: Task, row: dict[str, Any]) -> tuple:
    return task.labels["variant"], row["corpus"], task.seed


def set_folder(slug: str, size: str, keys: Sequence[str]) -> Path:
    """The folder of a set of runs, named by its size and its runs' keys."""
    return sets_folder() / slug / f"{size}-{digest(sorted(set(keys)))}"


def save_set(
    slug: str, parameters: Parameters, keys: Sequence[str], pairs: list[tuple[Task, dict]]
) -> Results:
    """Write the tables of the runs that are finished; all of them are replaced as one."""
    folder = set_folder(slug, parameters.size, keys)
    outstanding = len(set(keys)) - len({record["key"] for _, record in pairs})
    results = Results(slug, assemble(pairs, parameters.size), folder, outstanding)
    about = {
        "experiment": slug,
        "size": parameters.size,
        "parameters": {k: v for k, v in parameters.model_dump().items() if k != "data_dir"},
        "texts": sorted(results.corpora),
        "runs": len(set(keys)),
        "outstanding": outstanding,
        "written": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    with files.locked(folder.parent / f"{folder.name}.lock"):
        files.clear_partial(folder.parent, folder.name)
        with files.whole_folder(folder) as partial:
            _write(partial, slug, results.frames)
            (partial / "set.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return results


def load_set(folder: Path) -> Results:
    """The tables of a set of parameters that was run here."""
    with files.shared(folder.parent / f"{folder.name}.lock"):
        about = _about(folder)
        slug = about["experiment"]
        return Results(slug, _read(folder, slug), folder, about["outstanding"])


def parameters(results: Results) -> dict[str, Any]:
    """With what values of its parameters a set was run here; {} for tables without a folder."""
    folder = results.folder
    if folder is None:
        return {}
    with files.shared(folder.parent / f"{folder.name}.lock"):
        return _about(folder)["parameters"]


def all_sets() -> list[dict[str, Any]]:
    """What every set that was run here is: its ``set.json``, with its folder."""
    found = []
    for lock in sorted(sets_folder().glob("*/*.lock")):
        folder = lock.with_suffix("")
        with files.shared(lock):
            if (folder / "set.json").is_file():
                try:
                    found.append(_about(folder) | {"folder": folder})
                except files.Damaged as damage:
                    print(f"{damage}; run its experiment again", flush=True)
    return found


def publish(results: Results, variants: Sequence[str] = ()) -> list[str]:
    """Merge a set into the committed tables: each of its variants takes the place of the same
    variant at the same size on the same text; rows of other variants stay, and those of its own
    that are ``planned`` and that another process has published.

    ``variants``: those that the experiment has, in their order. Rows of one that it has no more
    go. Returns the names of the files. Raises ValueError for a set of a custom, quick or tiny size,
    SchemaError for one that is of another text or base than the rows that stay.
    """
    unfit = [size for size in results.sizes if size in UNPUBLISHED]
    if unfit:
        raise ValueError(f"{results.slug}: size {unfit[0]} is not published; allowed: a report's")
    own = set(_places(results()))
    with files.locked(_lock(results.slug)):
        _finish(results.slug)
        files.clear_partial(TABLES, _ready(results.slug).name)
        held = _read(TABLES, results.slug) if has_committed(results.slug) else {}
        rank = {name: place for place, name in enumerate(variants)}
        merged = {}
        for name in dict.fromkeys((*held, *results.frames)):
            parts = [frames[name] for frames in (held, results.frames) if name in frames]
            if name in held:
                old = parts[0]
                stays = old["variant"].isin(variants) if variants else True
                replaced = _places(old).isin(own) & ~_of_others(old, results)
                parts[0] = old[stays & ~replaced]
                if not name:
                    _of_one_study(results.slug, parts[0], results())
            parts = [part for part in parts if len(part)]
            if parts:
                frame = pd.concat(parts, ignore_index=True)
                order = {
                    "_size": frame["size"].map(SIZES.index),
                    "_variant": frame["variant"].map(rank),
                }
                by = ["corpus", *order, "seed"]
                frame = frame.assign(**order).sort_values(by, kind="stable")
                merged[name] = frame.drop(columns=list(order))
        # all tables change as one: they are complete beside the old ones before the first moves
        with files.whole_folder(_ready(results.slug)) as partial:
            names = _write(partial, results.slug, merged)
        for name in held.keys() - merged.keys():  # all its rows were of what is replaced or gone
            (TABLES / _file(results.slug, name)).unlink(missing_ok=True)
        _finish(results.slug)
        return names


def _of_others(held: pd.DataFrame, results: Results) -> pd.Series:
    """Which committed rows are of runs that the set plans and has not finished itself."""
    finished: set[tuple[str, str]] = set()
    for frame in results.frames.values():
        finished |= set(zip(frame["variant"], frame["run_id"], strict=True))
    own = [pair in finished for pair in zip(held["variant"], held["run_id"], strict=True)]
    return held["run_id"].isin(results.planned) & ~pd.Series(own, held.index, dtype=bool)


def _of_one_study(slug: str, held: pd.DataFrame, new: pd.DataFrame) -> None:
    """Refuse new rows whose text or base is not that of the rows beside which they would stand.

    A text of another file, or a base from another place, may have the same name. Parts of one text,
    of several lengths, are told apart by ``train_chars``; where one length itself has several texts
    nothing is said.
    """
    where = ["corpus", "size"]
    if "train_chars" in held and "train_chars" in new:
        where.append("train_chars")
    for column in ("corpus_sha256", "base", "base_sha256"):
        if column not in held or column not in new:
            continue
        kinds = held.groupby(where)[column].unique()
        for place, values in new.groupby(where)[column].unique().items():
            known = kinds.get(place, values)
            if len(known) == len(values) == 1 and known[0] != values[0]:
                corpus, size, *_ = place
                raise SchemaError(
                    f"{slug}, {corpus}, size {size}: these rows have {column} {values[0]}, the"
                    f" committed ones that stay {known[0]}; a table holds one of them"
                )


def _places(frame: pd.DataFrame) -> pd.Series:
    """Text, size and variant of each row."""
    keys = zip(frame["corpus"], frame["size"], frame["variant"], strict=True)
    return pd.Series(list(keys), frame.index, dtype=object)


def _lock(slug: str) -> Path:
    return TABLES / f".{slug}.lock"


def _ready(slug: str) -> Path:
    """Where the tables lie that are published next."""
    return TABLES / f".{slug}.ready"


def _finish(slug: str) -> None:
    """Move published tables to their places: also those of a process that was killed meanwhile."""
    ready = _ready(slug)
    if ready.is_dir():
        for path in sorted(ready.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another reader is at it too
                os.replace(path, TABLES / path.name)
        shutil.rmtree(ready, ignore_errors=True)


def _file(slug: str, table: str) -> str:
    return f"{slug}_{table}.csv" if table else f"{slug}.csv"


def _write(folder: Path, slug: str, frames: dict[str, pd.DataFrame]) -> list[str]:
    names = []
    for table, frame in frames.items():
        name = _file(slug, table)
        text = _exact(frame).to_csv(index=False, float_format="%.6g", lineterminator="\n")
        files.write_text(folder / name, text)
        names.append(name)
    return names


def _exact(frame: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers as whole numbers, whose digits all count, also where some cells are empty."""
    frame = frame.infer_objects()  # numbers beside a column without any
    for column in frame.select_dtypes("float"):
        values = frame[column].dropna()
        if len(values) and (values == values.round()).all() and values.abs().max() < EXACT:
            frame[column] = frame[column].astype("Int64")
    return frame


def _read(folder: Path, slug: str) -> dict[str, pd.DataFrame]:
    frames = {}
    for path in sorted(folder.glob(f"{slug}*.csv")):
        frame = whole_table(path, KEYS, TEXT, NUMBERS)
        for column in frame.select_dtypes("float"):
            if (frame[column].abs() >= EXACT).any():
                written = pd.read_csv(path, usecols=[column], dtype=str)[column]
                if written.dropna().str.fullmatch(r"-?\d+").all():  # else it is a real number
                    with contextlib.suppress(OverflowError):
                        frame[column] = pd.read_csv(path, usecols=[column], dtype="Int64")[column]
        frames[path.stem[len(slug) + 1 :]] = frame
    return frames


def whole_table(
    path: Path, filled: Sequence[str], text: Sequence[str] = (), numbers: Sequence[str] = ()
) -> pd.DataFrame:
    """A CSV file, ``text`` columns as text. Raises SchemaError, which names the file, for one that
    is cut off, has no row, an empty cell in a ``filled`` column or a word among ``numbers``."""
    try:
        if not path.read_bytes().endswith(b"\n"):
            raise SchemaError(f"{path.name} ends in the middle of a line")
        # an id may be called NA or null: only what is empty is absent
        look = {"keep_default_na": False, "na_values": [""]}
        frame = pd.read_csv(path, dtype=dict.fromkeys(text, str), **look)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path.name} is no table of results: {error}") from None
    if frame.empty:
        raise SchemaError(f"{path.name} has no row")
    for column in numbers:
        if column in frame and not pd.api.types.is_numeric_dtype(frame[column]):
            raise SchemaError(f"{path.name} has a {column} that is no number")
    for column in filled:
        if column not in frame:
            raise SchemaError(f"{path.name} has no column {column}")
        if frame[column].isna().any():
            raise SchemaError(f"{path.name} has a row without {column}")
    return frame


def _about(folder: Path) -> dict[str, Any]:
    """What a set is. Raises Damaged if that cannot be read."""
    about = None
    with contextlib.suppress(ValueError):
        about = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    if not isinstance(about, dict) or not about.keys() >= ABOUT:
        raise files.Damaged(f"{shown(folder / 'set.json')} is not what was written")
    return about


def _plain(row: dict[str, Any], without: Sequence[str]) -> dict[str, Any]:
    """A row of a frame as plain values, empty cells left out."""
    found = {}
    for name, value in row.items():
        if name not in without and not pd.isna(value):
            value = value.item() if hasattr(value, "item") else value
            found[name] = value
    return found


def reported(experiment: str = "") -> pd.DataFrame:
    """What a report says of an experiment (all without a name): row, metric, value, source.

    Raises SchemaError for a table that is not whole.
    """
    columns = ("source", "experiment", "row", "metric", "value")
    frame = whole_table(ROOT / "results" / "reported.csv", columns, ["source"], ["value"])
    return frame[frame["experiment"] == experiment] if experiment else frame


def reported_value(experiment: str, row: str, metric: str) -> float:
    """One reported number. Raises Absent if the report has none by that name."""
    frame = reported(experiment)
    found = frame[(frame["row"] == row) & (frame["metric"] == metric)]["value"]
    if len(found) != 1:
        raise Absent(f"no single reported value for {experiment}, {row}, {metric}")
    return float(found.iloc[0])
