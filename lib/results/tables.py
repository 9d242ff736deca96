"""The table every notebook shows: ours beside the report's, with n, interval and budget."""

import pandas as pd

from lib.experiment import Experiment
from lib.results import statistics, store
from lib.results.schema import DIVERGED
from lib.results.statistics import Interval, interval, percent_change
from lib.results.store import Results

REPORTED_METRIC = "best_val_ppl"
COUNTED = ("unigram", "bigram")  # variants that are counts of symbols, without a seed


def one(results: Results) -> Results:
    """One text and size of the results, the first: Wikipedia where it is, at the largest size."""
    own = results.on(results.corpora[0])
    return own.on(size=own.sizes[0])


def seeds_interval(frame: pd.DataFrame, variant: str, metric: str) -> Interval | None:
    """Mean and 95 % interval of a metric over the seeds of a variant; None where it is empty."""
    values = frame.loc[_sound(frame, variant), metric].dropna()
    return interval(values.to_numpy(dtype=float)) if len(values) else None


def _sound(frame: pd.DataFrame, variant: str) -> pd.Series:
    return (frame["variant"] == variant) & (frame["status"] != DIVERGED)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a text and variant: how many seeds, how many of them diverged, and mean perplexities
    of the others."""
    groups = frame.assign(lost=frame["status"] == DIVERGED).groupby(
        ["corpus", "variant"], sort=False
    )
    found = groups.agg(n=("seed", "size"), diverged=("lost", "sum"))
    sound = frame[frame["status"] != DIVERGED].groupby(["corpus", "variant"], sort=False)
    return found.join(sound[["val_ppl", "test_ppl"]].mean())


def against_reported(
    results: Results,
    experiment: Experiment,
    metric: str = "test_ppl",
    measured_here: bool = True,
) -> pd.DataFrame:
    """One row a variant of one text: change first, then n, ours with interval, the report's figure.

    The report's figure is blank unless it was ``measured_here``, on this text.

    ``Δ`` is the paired percent change of ``metric`` against the baseline; blank for the baseline
    and for count models, which have one row and no seed; for all where the baseline diverged.
    Raises Absent without that baseline.
    """
    frame, baseline = results(), experiment.baseline
    reference = _by_seed(frame, baseline, metric)
    if baseline not in set(frame["variant"]):
        raise store.Absent(f"no variant {baseline!r} to compare with")
    figures = store.reported(experiment.report)
    figures = figures[figures["metric"] == REPORTED_METRIC].set_index("row")["value"]
    name = frame.loc[frame["variant"] == baseline, "label"].iloc[0]
    rows = []
    for variant in frame["variant"].unique():
        own = frame[frame["variant"] == variant]
        label, values = own["label"].iloc[0], _by_seed(frame, variant, metric)
        shared = values.index.intersection(reference.index)
        delta = ""
        if variant != baseline and len(shared) and (len(own) > 1 or len(reference) == 1):
            found = percent_change(values[shared], reference[shared])
            delta = f"{statistics.percent_interval(found)} %"
        lost = int((own["status"] == DIVERGED).sum())
        rows.append(
            {
                "variant": label,
                f"Δ against {name}": delta if not lost else f"{delta} ({lost} diverged)".strip(),
                "n": len(own) - lost,
                "test PPL": str(seeds_interval(frame, variant, "test_ppl") or ""),
                "valid PPL": str(seeds_interval(frame, variant, "val_ppl") or ""),
                "report's valid PPL": figures.get(label, "") if measured_here else "",
                "parameters": _whole(own["params"].iloc[0]),
            }
        )
    return captioned(pd.DataFrame(rows).set_index("variant"), frame)


def beside_committed(yours: Results, ours: Results) -> pd.DataFrame:
    """Every variant of a run beside the committed one: mean and interval of the test perplexity.

    Ours are those on the same text and at the largest size; on another text where there are none,
    which the column says.
    """
    rows = []
    for text in yours.corpora:
        own = yours.on(text)
        same = ours.on(text) if text in ours.corpora else ours.on(ours.corpora[0])
        same = same.on(size=same.sizes[0])
        metric = "test_ppl" if own()["test_ppl"].notna().any() else "val_ppl"
        where = same().drop_duplicates("corpus").iloc[0]
        for variant in own()["variant"].unique():
            mine, theirs = (seeds_interval(f(), variant, metric) for f in (own, same))
            rows.append(
                {
                    "variant": own.labels[variant],
                    "your text": text,
                    "yours": str(mine or ""),
                    "your n": mine.n if mine else 0,
                    "ours": str(theirs or ""),
                    "our n": theirs.n if theirs else 0,
                    "our text and size": f"{where['corpus']}, {where['size']}",
                }
            )
    return captioned(pd.DataFrame(rows).set_index("variant"), yours())


def count_models(frame: pd.DataFrame, metric: str = "test_ppl") -> dict[str, float]:
    """Perplexities of the n-gram baselines in a table, by name: the level lines of figures."""
    rows = frame[frame["variant"].isin(COUNTED)].set_index("variant")
    return rows[metric].dropna().astype(float).to_dict()


def corpora(frame: pd.DataFrame) -> str:
    """Names of the texts in a table and its largest number of seeds, for titles."""
    return f"{', '.join(frame['corpus'].unique())}, {seeds(frame)}"


def seeds(frame: pd.DataFrame) -> str:
    """The number of random seeds in a table in words, for titles."""
    count = frame["seed"].nunique()
    return f"{count} seed{'s' if count > 1 else ''}"


def captioned(table: pd.DataFrame, frame: pd.DataFrame, how: str = "mean") -> pd.DataFrame:
    """Attach what the numbers stand on, shown by ``notebook.show``. How many seeds: a column ``n``
    of the table says it row by row, or else the caption; ``how`` they were put together."""
    said = "n random seeds" if "n" in table.columns else _counts(frame)
    table.attrs["caption"] = caption(frame, said, how)
    return table


NAMED = 6  # variants of fewer seeds that a caption names


def _counts(frame: pd.DataFrame) -> str:
    """How many seeds the variants have: "5 random seeds", or also which have fewer. Count models
    have none."""
    own = frame[~frame["variant"].isin(COUNTED)]
    frame = own if len(own) else frame
    names = frame["label"] if "label" in frame else frame["variant"]
    places = frame.assign(name=names).groupby(["corpus", "size", "name"], sort=False)["seed"]
    counts = places.nunique().groupby("name", sort=False).min()
    most = int(places.nunique().max())
    fewer = [
        f"{count}: {', '.join(own.index)}"
        for count, own in counts[counts < most].sort_values().groupby(counts, sort=False)
    ]
    if sum(counts < most) > NAMED:
        fewer = [f"{sum(counts < most)} of {len(counts)} variants have fewer"]
    told = f" ({'; '.join(fewer)})" if fewer else ""
    return f"{most} random seed{'s' * (most > 1)}{told}"


def caption(frame: pd.DataFrame, n: str = "n random seeds", how: str = "mean") -> str:
    """One line: text with hash, size, device, over how many seeds, how intervals were made."""
    texts = frame.drop_duplicates("corpus")
    names = ", ".join(f"{r.corpus} (sha256 {r.corpus_sha256[:12]})" for r in texts.itertuples())
    one = {c: "/".join(sorted(frame[c].astype(str).unique())) for c in ("size", "device")}
    return (
        f"{names}; size {one['size']}; device {one['device']}; {how} over {n} "
        "[95 % interval, Student's t; percent changes by logarithms]"
    )


def _by_seed(frame: pd.DataFrame, variant: str, metric: str) -> pd.Series:
    own = frame[_sound(frame, variant)].set_index("seed").sort_index()
    return own[metric].dropna().astype(float)


def _whole(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:,.0f}"
