"""The table every notebook shows: ours beside the seed's, with n, interval and budget."""

import pandas as pd

from lib.analysis.statistics import Interval, bootstrap, percent_change
from lib.results import store

REPORTED_METRIC = "best_val_ppl"


def interval(frame: pd.DataFrame, variant: str, metric: str) -> Interval | None:
    """Mean and 95 % interval of a metric over the seeds of a variant; None where it is empty."""
    values = frame.loc[frame["variant"] == variant, metric].dropna()
    return bootstrap(values.to_numpy(dtype=float)) if len(values) else None


def against_reported(
    frame: pd.DataFrame,
    experiment: str,
    baseline: str,
    metric: str = "test_ppl",
    measured_here: bool = True,
) -> pd.DataFrame:
    """One row a variant of one corpus: size, budget, ours with interval, the seed's figure.

    The seed's figure is blank unless it was ``measured_here``, on this corpus.

    ``Δ`` is the paired percent change of ``metric`` against ``baseline``; blank for the baseline
    and for count models, which have one row and no seed. Raises Absent without that baseline.
    """
    reference = _by_seed(frame, baseline, metric)
    if reference.empty:
        raise store.Absent(f"no variant {baseline!r} to compare with")
    seed_figures = store.reported(experiment)
    seed_figures = seed_figures[seed_figures["metric"] == REPORTED_METRIC].set_index("row")["value"]
    rows = []
    for variant in frame["variant"].unique():
        own = frame[frame["variant"] == variant]
        values = _by_seed(frame, variant, metric)
        delta = ""
        if variant != baseline and list(values.index) == list(reference.index):
            delta = f"{bootstrap(percent_change(values, reference))} %"
        rows.append(
            {
                "variant": variant,
                "parameters": _whole(own["params"].iloc[0]),
                "updates": _whole(own["best_updates"].mean() if "best_updates" in own else None),
                "best epoch": _mean(own["best_epoch"]),
                "n": len(own),
                "valid PPL": str(interval(frame, variant, "val_ppl") or ""),
                "seed's valid PPL": seed_figures.get(variant, "") if measured_here else "",
                "test PPL": str(interval(frame, variant, "test_ppl") or ""),
                f"Δ {metric.split('_')[0]} against {baseline}": delta,
                "seconds": _mean(own["seconds"]),
            }
        )
    return captioned(pd.DataFrame(rows).set_index("variant"), frame)


def floors(frame: pd.DataFrame, metric: str = "test_ppl") -> dict[str, float]:
    """Perplexities of the count models in a table, by name: the floor lines of figures."""
    rows = frame[frame["variant"].isin(("unigram", "bigram"))].set_index("variant")
    return rows[metric].dropna().astype(float).to_dict()


def corpora(frame: pd.DataFrame) -> str:
    """Names of the corpora in a table and its largest number of seeds, for titles."""
    return f"{', '.join(frame['corpus'].unique())}, {seeds(frame)}"


def seeds(frame: pd.DataFrame) -> str:
    """The number of seeds in a table in words, for titles."""
    count = frame["seed"].nunique()
    return f"{count} seed{'s' if count > 1 else ''}"


def captioned(table: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Attach what the numbers stand on, shown by ``notebook.show``."""
    table.attrs["caption"] = caption(frame)
    return table


def caption(frame: pd.DataFrame) -> str:
    """One line: corpus with hash, size, device, code, and how intervals were made."""
    corpora = frame.drop_duplicates("corpus")
    names = ", ".join(f"{r.corpus} (sha256 {r.corpus_sha256[:12]})" for r in corpora.itertuples())
    one = {c: "/".join(sorted(frame[c].unique())) for c in ("size", "device", "code_hash")}
    return (
        f"{names}; size {one['size']}; device {one['device']}; code {one['code_hash']}; mean over "
        "n seeds [95 % interval]; updates up to the best epoch"
    )


def _by_seed(frame: pd.DataFrame, variant: str, metric: str) -> pd.Series:
    own = frame[frame["variant"] == variant].set_index("seed").sort_index()
    return own[metric].dropna().astype(float)


def _whole(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:,.0f}"


def _mean(values: pd.Series) -> str:
    return "" if values.isna().all() else f"{values.astype(float).mean():.1f}"
