"""Experiment 16: is the token at every layer what makes the context vector useful?"""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from lib.context import figures as contexts
from lib.context.claims import on_ultrachat, remembered, valid_accuracy
from lib.context.parameters import LAYOUTS, QUICK_TEXT, SMALL_TEXT, ContextParameters
from lib.context.sources import Recurrent
from lib.context.variants import Language, Sources, Unigram, block, end_to_end, matched, window
from lib.experiment import Experiment
from lib.figures import alternative, training
from lib.parameters import ParameterError, whole
from lib.results import store, tables
from lib.results.claims import change, difference, level, ratio
from lib.results.statistics import percent_interval
from lib.results.store import Results

REPORT = "context_token_input"
MOST_WINDOWS = 16
LEAST_WIDE = 100  # tokens, as of the other rows


class Exp16(ContextParameters):
    """R3's smallest text. ``windows``: the longest k-token MLP; the cell is cut to at most two
    tokens fewer. ``wide_tokens`` > 0 adds both layouts at the table's own width on so many tokens,
    one random seed, for sizes at which the others are narrowed."""

    windows: int = whole(6, 1, MOST_WINDOWS)
    wide_tokens: int = whole(0, 0, 1_000_000)

    QUICK = {
        **QUICK_TEXT,
        "tokens": 3_000,
        "valid_tokens": 600,
        "test_tokens": 1_000,
        "width": 64,
        "seeds": 1,
        "batch": 256,
        "epochs": 4,
        "windows": 3,
    }
    TINY = {**ContextParameters.TINY, "windows": 2}
    LADDER = {
        **ContextParameters.LADDER,
        "small": {**SMALL_TEXT, "tokens": 6_000, "width": 192, "wide_tokens": 3_000},
    }

    @property
    def most_tokens(self) -> int:
        """Training tokens of the largest run: at the chosen or at the table's own width."""
        return max(self.tokens, self.wide_tokens)

    @property
    def memories(self) -> int:
        """Largest number of tokens that the cell is cut to: two below the largest window."""
        return max(1, self.windows - 2)

    def check(self) -> None:
        """Raises ParameterError unless end-to-end training has a whole window in every lane, and
        the wide rows have text."""
        super().check()
        if 0 < self.wide_tokens < LEAST_WIDE:
            raise ParameterError(
                f"parameter 'wide_tokens' is {self.wide_tokens}; allowed: 0, or at least "
                f"{LEAST_WIDE}"
            )
        if self.batch >= self.tokens:
            raise ParameterError(
                f"parameter 'batch' is {self.batch}; allowed: below tokens ({self.tokens}), since "
                "end-to-end training walks a whole batch of windows at once."
            )


# --------------------------------------------------------------------------- variants


def cut(count: int) -> Sources:
    """The every-layer cell cut to its last `count` tokens, where the parameters ask for it."""

    def source(parameters: Exp16, width: int) -> Recurrent | None:
        if count > parameters.memories:
            return None
        return replace(block("every_layer")(parameters, width), memory=count)

    return source


def held_vocabulary(parameters: Exp16) -> dict:
    """Where no more text says which types are held, the rows' own: not that of the wide rows."""
    return {} if parameters.vocabulary_tokens else {"vocabulary_tokens": parameters.tokens}


def wide(parameters: Exp16) -> dict | None:
    """Fewer tokens at the table's own width, where the parameters ask for it."""
    count = parameters.wide_tokens
    return {"tokens": count, "vocabulary_tokens": count, "width": 0} if count else None


def row(label: str, sources: Sources, layout: str, contexts: str, **more) -> Language:
    """A row of the experiment and its factors."""
    factors = {"layout": layout, "contexts": contexts, "k": more.pop("k", None)}
    return Language(label, sources, factors, **{"data": held_vocabulary, **more})


EVERY, FIRST = LAYOUTS["every_layer"], LAYOUTS["first_layer"]
# The report's two rows and the controls that decide what makes the difference.
LAYERS = {
    "every_layer": row(EVERY, block("every_layer"), "every_layer", "phase 1"),
    "first_layer": row(FIRST, block("first_layer"), "first_layer", "phase 1"),
    "first_layer_matched": row(
        f"{FIRST}, equal parameters", matched, "first_layer", "phase 1, equal parameters"
    ),
    "first_layer_flat": row(
        f"{FIRST}, flat widths", block("first_layer_flat"), "first_layer_flat", "phase 1"
    ),
    "every_layer_random": row(
        f"{EVERY}, no Phase 1", block("every_layer", phase_one=None), "every_layer", "random"
    ),
    "first_layer_random": row(
        f"{FIRST}, no Phase 1", block("first_layer", phase_one=None), "first_layer", "random"
    ),
    "every_layer_trained": row(
        f"{EVERY}, end to end", end_to_end("every_layer"), "every_layer", "end to end"
    ),
    "first_layer_trained": row(
        f"{FIRST}, end to end", end_to_end("first_layer"), "first_layer", "end to end"
    ),
}
WINDOWS = {
    f"window_{k}": row(f"{k}-token MLP", window(k), "", "window", k=k)
    for k in range(1, MOST_WINDOWS + 1)
}
MEMORIES = {
    f"every_layer_last_{k}": row(f"{EVERY}, last {k} only", cut(k), "every_layer", "cut", k=k)
    for k in range(1, MOST_WINDOWS - 1)
}
WIDE = {
    f"{layout}_wide": row(
        f"{label}, own width", block(layout), layout, "phase 1", data=wide, seeds=lambda p: 1
    )
    for layout, label in LAYOUTS.items()
}


VARIANTS = {**LAYERS, **WINDOWS, **MEMORIES, "unigram": Unigram(data=held_vocabulary), **WIDE}

# --------------------------------------------------------------------------- tables


def properties(results: Results) -> pd.DataFrame:
    """What the contexts of one text are like: rank by two definitions, contraction, memory,
    Phase 1."""
    results = tables.one(results.sound())
    frame = results()
    columns = {
        "er_pct": "effective rank %",
        "covariance_er_pct": "rank without the mean %",
        "noise_gain": "noise left after a token (share)",
        "iterations": "Phase 1 iterations",
        "test_acc_pct": "test accuracy %",
    }
    known = {column: label for column, label in columns.items() if column in frame}
    by_variant = results.named().groupby("variant", sort=False)
    found = by_variant[list(known)].mean().rename(columns=known)
    memory = pd.Series({variant: remembered(rows) for variant, rows in by_variant})
    reported = store.reported(REPORT).pivot(index="row", columns="metric", values="value")
    for name, values in reported.iterrows():
        found.loc[f"report: {name}", "effective rank %"] = values["er_pct"]
        found.loc[f"report: {name}", "test accuracy %"] = values["acc_pct"]
    found = found.round(2)
    found.insert(3, "tokens to cosine 0.99", memory.reindex(found.index))
    return tables.captioned(found.fillna(""), frame)


# --------------------------------------------------------------------------- figures


def draw_perplexity(results: Results) -> Figure:
    """Test perplexity of the layouts and their controls."""
    results = tables.one(results)
    pair = results.names(("every_layer", "first_layer"))
    title, text = " against ".join(pair), f"({tables.corpora(results())})"
    if len(pair) == 2:
        title += f": {percent_interval(change('every_layer', 'first_layer')(results))} %\n{text}"
    else:
        title += f" {text}"
    levels = _unigram(results, "test_ppl")
    return training.intervals(results.named(), results.names(list(LAYERS)), title, floors=levels)


def draw_memory(results: Results) -> Figure:
    """Test perplexity against tokens seen: MLPs, the cell cut to k tokens, the cell uncut."""
    results = tables.one(results)
    frame = results()
    series = {
        "MLP over the last k tokens": _by_k(frame, "window"),
        "the same cell, cut to its last k tokens": _by_k(frame, "cut"),
    }
    if not any(series.values()):
        raise store.Absent("no k-token MLP and no cut cell are among the results")
    labels = results.labels
    shown = ("every_layer", "first_layer", "every_layer_trained")
    levels = {labels[variant]: variant for variant in shown if variant in labels}
    means = frame.groupby("variant")["test_ppl"].mean()
    windows = {k: means[variant] for k, variant in series["MLP over the last k tokens"].items()}
    title = f"How many tokens the context is worth ({tables.corpora(frame)})"
    if windows and "every_layer" in means:
        best = min(windows, key=windows.get)
        without, found = (alternative.short(v) for v in (windows[best], means["every_layer"]))
        title = (
            f"Best without a context: {best} token{'s' * (best > 1)} ({without}); "
            f"with a context: {found}\n({tables.corpora(frame)})"
        )
    return contexts.against_tokens(frame, series, levels, title)


def draw_curves(results: Results) -> Figure:
    """Validation perplexity over the epochs of Phase 2."""
    results = tables.one(results)
    wanted = ["every_layer", "first_layer", "first_layer_matched"]
    names = results.names([*wanted, "every_layer_random", "first_layer_random"])
    curve = results.named("curve")
    last = curve[curve["variant"].isin(names)].groupby(["variant", "seed"])["val_ppl"].min()
    means = last.groupby("variant").mean()
    found = (
        f"Lowest in Phase 2: {means.idxmin()} ({alternative.short(means.min())})"
        if len(means)
        else "Phase 2"
    )
    title = f"{found}\n({tables.corpora(results())})"
    levels = _unigram(results, "val_ppl")
    highest = 1.1 * max(levels.values()) if levels else None  # what begins above it is no model yet
    return training.curves(curve, names, title, levels, highest)


def draw_rank(results: Results) -> Figure:
    """Test perplexity against effective rank, a point a variant."""
    results = tables.one(results)
    frame = results.named()
    measured = set(frame.loc[frame["er_pct"].notna(), "variant"])
    names = [name for name in results.names(list(LAYERS)) if name in measured]
    means = frame[frame["variant"].isin(names)].groupby("variant")[["er_pct", "test_ppl"]].mean()
    title = f"Effective rank and perplexity ({tables.corpora(frame)})"
    if len(means):
        lowest, narrow = means["test_ppl"].idxmin(), means["test_ppl"].idxmax()
        title = (
            f"Lowest perplexity at a rank of {means.loc[lowest, 'er_pct']:.0f} % ({lowest}),\n"
            f"highest at {means.loc[narrow, 'er_pct']:.0f} % ({narrow}; {tables.corpora(frame)})"
        )
    return contexts.rank_against_perplexity(frame, names, title)


def _unigram(results: Results, metric: str) -> dict[str, float]:
    return {k: v for k, v in tables.count_models(results(), metric).items() if k == "unigram"}


def _by_k(frame: pd.DataFrame, kind: str) -> dict[int, str]:
    own = frame[frame["contexts"] == kind].drop_duplicates("variant").sort_values("k")
    return dict(zip(own["k"].astype(int), own["variant"], strict=True))


# --------------------------------------------------------------------------- claims


def best_window(results: Results) -> pd.Series:
    """Test perplexity of the best k-token MLP, chosen on valid, by seed. Raises Absent for none."""
    frame = results()
    windows = frame[frame["contexts"] == "window"]
    if windows.empty:
        raise store.Absent("no k-token MLP among the results")
    chosen = windows.loc[windows.groupby("seed")["val_ppl"].idxmin()].set_index("seed")
    results.used.update(chosen["run_id"])
    return chosen["test_ppl"].sort_index()


POINTS = {"unit": "points of effective rank", "expect": "above"}
claim = on_ultrachat(REPORT, "R3, section 1")

CLAIMS = (
    claim(
        "better",
        "The token at every layer gives a lower perplexity than at the first layer only",
        change("every_layer", "first_layer"),
        "equal data, validation text, head, batch and updates (the report's two rows had none "
        "equal)",
        reported=-37.7,
    ),
    claim(
        "better-matched",
        "The gain remains when both context blocks have equally many parameters",
        change("every_layer", "first_layer_matched"),
        "first-layer block narrowed to the every-layer block's parameter count",
        explains="better",
    ),
    claim(
        "not-widths",
        "A gain remains without the decreasing widths and learned residuals",
        change("every_layer", "first_layer_flat"),
        "first-layer block with equal widths and identity residuals: only the token input differs",
        explains="better",
    ),
    claim(
        "better-untrained",
        "The gain is there without Phase 1 (random blocks)",
        change("every_layer_random", "first_layer_random"),
        "no Phase 1 for either layout",
        explains="better",
    ),
    claim(
        "phase-one-helps",
        "Phase 1 improves the contexts of the every-layer block",
        change("every_layer", "every_layer_random"),
        "the same block left random",
        kind="own",
    ),
    claim(
        "phase-one-helps-first",
        "Phase 1 improves the contexts of the first-layer block",
        change("first_layer", "first_layer_random"),
        "the same block left random",
        kind="own",
    ),
    claim(
        "rank-higher",
        "The token at every layer keeps the effective rank high",
        difference(level("every_layer", "er_pct"), level("first_layer", "er_pct")),
        "both on the same clean test contexts (the report compared a train with a validation rank)",
        reported=67.7,
        **POINTS,
    ),
    claim(
        "rank-by-product",
        "The low rank of the first-layer block comes from its layout, before any training",
        difference(level("every_layer_random", "er_pct"), level("first_layer_random", "er_pct")),
        "ranks of both blocks without Phase 1: if equal, Phase 1 makes the low rank",
        threshold=5.0,
        explains="rank-higher",
        **POINTS,
    ),
    claim(
        "beats-window",
        "The context vector beats MLPs over the last 1 to 6 tokens at this budget",
        ratio(level("every_layer", "test_ppl"), best_window),
        "best k-token MLP, k chosen on valid; same head, batch and updates; longer ones fit worse",
        kind="own",
    ),
    claim(
        "long-memory",
        "The context vector carries more than the last 4 tokens",
        change("every_layer", "every_layer_last_4"),
        "the same cell cut to its last 4 tokens in training and in measuring",
        threshold=-1.0,
        kind="own",
    ),
    claim(
        "near-upper-bound",
        "Unsupervised Phase 1 comes within 5 % of training the cell for the task",
        change("every_layer", "every_layer_trained"),
        "the same cell trained end to end (truncated, 16 tokens), for all its epochs",
        expect="within",
        threshold=5.0,
        kind="own",
    ),
)

ROWS = {
    "token input all layers": "every_layer",
    "token input first layer only": "first_layer",
}
BESIDE = {
    **{(name, "er_pct"): level(variant, "er_pct") for name, variant in ROWS.items()},
    **{(name, "val_ppl"): level(variant, "val_ppl") for name, variant in ROWS.items()},
    **{(name, "acc_pct"): valid_accuracy(variant) for name, variant in ROWS.items()},
}
FEWER = "our text has 56,602 tokens, the report's 251,208 and 529,173"
REMARKS = {
    "token input all layers: er_pct": f"ours of test contexts, the report's of training; {FEWER}",
    "*: er_pct": f"ours of test contexts; {FEWER}",
    "*: val_ppl": FEWER,
    "*: acc_pct": FEWER,
    "*: samples": "our text is counted in tokens, not in samples",
}

E16 = Experiment(
    slug="16_token_input",
    question="Is the token at every layer what makes the context vector useful?",
    parameters=Exp16,
    texts=Exp16.texts,
    variants=VARIANTS,
    baseline="first_layer",
    report=REPORT,
    figures={
        "perplexity": draw_perplexity,
        "memory": draw_memory,
        "curves": draw_curves,
        "rank": draw_rank,
    },
    claims=CLAIMS,
    beside=BESIDE,
    remarks=REMARKS,
    shares={"18_scaling": ("layout", "contexts", "size_place", "k")},  # its controls at our size
)
