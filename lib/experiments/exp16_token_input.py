"""Experiment 16: is the token at every layer what makes the context vector useful?"""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lib.context.block import matched_context_dim, parameter_count
from lib.context.language_run import LanguageRun, UnigramRun, run_unigram
from lib.context.language_run import run as run_language
from lib.context.phase_two import PhaseTwoSettings
from lib.context.sources import Recurrent, TruncatedBptt, Window
from lib.context.token_stream import StreamChoice
from lib.experiments.context_vector import ContextParameters, ContextText, seed_phase_one
from lib.figures import contexts, training
from lib.parameters import whole
from lib.results import store, tables
from lib.results.claims import Claim, by_seed, change
from lib.training.sweep import Task, sweep

EXPERIMENT, SLUG = "context_token_input", "16_token_input"
EVERY, FIRST = "token at every layer", "token at first layer"
MATCHED, FLAT = f"{FIRST}, equal parameters", f"{FIRST}, flat widths"
NO_PHASE_ONE = ", no Phase 1"
TRAINED = ", end to end"
UNIGRAM = "unigram"


@dataclass(frozen=True)
class Exp16(ContextParameters):
    """Shared parameters; `wide_tokens` > 0 adds both layouts at the table's own width, one seed."""

    windows: int = whole(6, 1, 16)
    memories: int = whole(4, 1, 16)
    wide_tokens: int = whole(8_000, 0, 1_000_000)

    QUICK = {
        "tokens": 3_000,
        "valid_tokens": 600,
        "test_tokens": 1_000,
        "width": 64,
        "layers": 3,
        "seeds": 2,
        "batch": 256,
        "epochs": 4,
        "windows": 3,
        "memories": 2,
        "wide_tokens": 0,
    }
    TINY = {**ContextParameters.TINY, "windows": 2, "memories": 1, "wide_tokens": 0}


PARAMETERS = Exp16


def window_name(count: int) -> str:
    return f"{count}-token MLP"


def memory_name(count: int) -> str:
    return f"{EVERY}, last {count} only"


def sources(run: Exp16, width: int) -> dict[str, Recurrent | Window | TruncatedBptt]:
    """Every variant at one width: the seed's two rows and the controls that decide them."""
    phase_one = seed_phase_one(width)

    def block(layout: str, **changes) -> Recurrent:
        fields = {"layout": layout, "layers": run.layers, "width": width, "phase_one": phase_one}
        return Recurrent(**{**fields, **changes})

    target = parameter_count(width, width, run.layers, "every_layer")
    narrow = matched_context_dim(target, width, run.layers, "first_layer")
    found: dict[str, Recurrent | Window | TruncatedBptt] = {
        EVERY: block("every_layer"),
        FIRST: block("first_layer"),
        MATCHED: block("first_layer", width=narrow, phase_one=seed_phase_one(narrow)),
        FLAT: block("first_layer_flat"),
        EVERY + NO_PHASE_ONE: block("every_layer", phase_one=None),
        FIRST + NO_PHASE_ONE: block("first_layer", phase_one=None),
        EVERY + TRAINED: _trained("every_layer", run, width),
        FIRST + TRAINED: _trained("first_layer", run, width),
    }
    for count in range(1, run.windows + 1):
        found[window_name(count)] = Window(count, run.layers)
    for count in range(1, run.memories + 1):
        found[memory_name(count)] = block("every_layer", memory=count)
    return found


def _trained(layout: str, run: Exp16, width: int) -> TruncatedBptt:
    window = min(16, run.batch)
    return TruncatedBptt(layout, run.layers, width, max(1, run.batch // window), window)


def schedule(run: Exp16) -> PhaseTwoSettings:
    """Phase 2 without early stopping: equal updates for every variant, best epoch on valid."""
    return PhaseTwoSettings(run.batch, run.learning_rate, run.epochs, patience=0)


def run(text: ContextText, parameters: Exp16) -> pd.DataFrame:
    """Train every variant with every seed; write and return the main table."""
    width = parameters.width or text.embedding_width
    data = text.choose(parameters)
    tasks = [
        _task(name, data, source, parameters, seed)
        for seed in range(parameters.seeds)
        for name, source in sources(parameters, width).items()
    ]
    tasks.append(Task(run_unigram, UnigramRun(data), 0, _labels(UNIGRAM)))
    if parameters.wide_tokens:
        tasks += _wide(text, parameters)
    return store.write(SLUG, sweep(tasks, parameters.workers), parameters.size)


def _wide(text: ContextText, parameters: Exp16) -> list[Task]:
    """Both layouts at the table's own width on fewer tokens: one seed, a check of the scaling."""
    width, tokens = text.embedding_width, parameters.wide_tokens
    data = text.choose(parameters, tokens=tokens, vocabulary_tokens=tokens, width=0)
    chosen = sources(parameters, width)
    return [
        _task(wide_name(name, width), data, chosen[name], parameters, 0) for name in (EVERY, FIRST)
    ]


def wide_name(name: str, width: int) -> str:
    return f"{name}, width {width}"


def _task(
    name: str,
    data: StreamChoice,
    source: Recurrent | Window | TruncatedBptt,
    parameters: Exp16,
    seed: int,
) -> Task:
    config = LanguageRun(data, source, schedule(parameters))
    return Task(run_language, config, seed, _labels(name))


def _labels(variant: str) -> dict[str, str]:
    return {"experiment": EXPERIMENT, "variant": variant}


def main_variants(frame: pd.DataFrame) -> list[str]:
    """The two layouts and their controls, without windows, cut memories and the wide rows."""
    wanted = [EVERY, EVERY + NO_PHASE_ONE, EVERY + TRAINED, FIRST, FIRST + NO_PHASE_ONE]
    wanted += [FIRST + TRAINED, MATCHED, FLAT]
    return [name for name in wanted if name in set(frame["variant"])]


def draw_perplexity(size: str) -> Figure:
    frame = store.read(SLUG, size=size)
    title = f"Where the token enters, and the controls ({tables.corpora(frame)})"
    return training.intervals(frame, main_variants(frame), title, floors=_floor(frame))


def draw_memory(size: str) -> Figure:
    """Test perplexity against tokens seen: MLPs, the cell cut to k tokens, the cell uncut."""
    frame = store.read(SLUG, size=size)
    series = {
        "MLP over the last k tokens": _series(frame, window_name),
        "the same cell, cut to its last k tokens": _series(frame, memory_name),
    }
    levels = {EVERY: EVERY, FIRST: FIRST, f"{EVERY}{TRAINED}": EVERY + TRAINED}
    title = f"How many tokens the context is worth ({tables.corpora(frame)})"
    return contexts.against_tokens(frame, series, levels, title)


def draw_curves(size: str) -> Figure:
    curve = store.read(SLUG, "curve", size)
    frame = store.read(SLUG, size=size)
    names = [EVERY, FIRST, MATCHED, EVERY + NO_PHASE_ONE, FIRST + NO_PHASE_ONE]
    title = f"Validation in Phase 2 ({tables.corpora(frame)})"
    return training.curves(curve, names, title, floors=_floor(frame, "val_ppl"))


def draw_rank(size: str) -> Figure:
    frame = store.read(SLUG, size=size)
    names = [name for name in main_variants(frame) if frame_has(frame, name, "er_pct")]
    title = f"Effective rank and perplexity ({tables.corpora(frame)})"
    return contexts.rank_against_perplexity(frame, names, title)


def frame_has(frame: pd.DataFrame, variant: str, column: str) -> bool:
    return bool(frame.loc[frame["variant"] == variant, column].notna().any())


def _floor(frame: pd.DataFrame, metric: str = "test_ppl") -> dict[str, float]:
    return {k: v for k, v in tables.floors(frame, metric).items() if k == UNIGRAM}


def _series(frame: pd.DataFrame, name) -> dict[int, str]:
    known = set(frame["variant"])
    return {count: name(count) for count in range(1, 17) if name(count) in known}


FIGURES = {
    "perplexity": draw_perplexity,
    "memory": draw_memory,
    "curves": draw_curves,
    "rank": draw_rank,
}


def best_window(metric_tables):
    """Percent change from the best k-token MLP (chosen on valid, per seed) to the context row."""
    frame = metric_tables()
    own = by_seed(frame, EVERY, "test_ppl")
    windows = frame[frame["variant"].str.endswith("-token MLP")]
    if windows.empty:
        raise KeyError("no k-token MLP among the results")
    chosen = windows.loc[windows.groupby("seed")["val_ppl"].idxmin()].set_index("seed")
    return (100 * (own / chosen["test_ppl"].reindex(own.index) - 1)).to_numpy()


def reported_gain() -> float:
    """Percent change from 536 to 334, the seed's two rows."""
    rows = [f"token input {place}" for place in ("all layers", "first layer only")]
    new, old = (store.reported_value(EXPERIMENT, row, "val_ppl") for row in rows)
    return 100 * (new / old - 1)


def _claim(name: str, statement: str, measure, expect: str, control: str, **more) -> Claim:
    fields = {"reported": None, "unit": "% change of perplexity", "source": "seed 003, section 1"}
    return Claim(
        id=f"{EXPERIMENT}-{name}",
        experiment=EXPERIMENT,
        slug=SLUG,
        statement=statement,
        measure=measure,
        expect=expect,
        control=control,
        min_seeds=3,
        **{**fields, **more},
    )


def rank_gap(metric_tables):
    """Effective rank of the every-layer contexts minus that of first-layer ones, in points."""
    frame = metric_tables()
    return (by_seed(frame, EVERY, "er_pct") - by_seed(frame, FIRST, "er_pct")).to_numpy()


CLAIMS = (
    _claim(
        "better",
        "The token at every layer gives a lower perplexity than at the first layer only",
        change(EVERY, FIRST),
        "below",
        "equal data, validation text, head, batch and updates (the seed's two rows had none equal)",
        reported=-37.7,
    ),
    _claim(
        "better-matched",
        "The gain remains when both context blocks have equally many parameters",
        change(EVERY, MATCHED),
        "below",
        "first-layer block narrowed to the every-layer block's parameter count",
    ),
    _claim(
        "not-widths",
        "The gain is the token input, not the decreasing widths and learned residuals",
        change(EVERY, FLAT),
        "below",
        "first-layer block with equal widths and identity residuals: only the token input differs",
    ),
    _claim(
        "better-untrained",
        "The gain is there without Phase 1 (random blocks)",
        change(EVERY + NO_PHASE_ONE, FIRST + NO_PHASE_ONE),
        "below",
        "no Phase 1 for either layout",
    ),
    _claim(
        "phase-one-helps",
        "Phase 1 improves the contexts of the every-layer block",
        change(EVERY, EVERY + NO_PHASE_ONE),
        "below",
        "the same block left random",
    ),
    _claim(
        "phase-one-helps-first",
        "Phase 1 improves the contexts of the first-layer block",
        change(FIRST, FIRST + NO_PHASE_ONE),
        "below",
        "the same block left random",
    ),
    _claim(
        "rank-higher",
        "The token at every layer keeps the effective rank high",
        rank_gap,
        "above",
        "both on the same clean test contexts (the seed compared a train with a validation rank)",
        reported=67.7,
        unit="points of effective rank",
    ),
    _claim(
        "rank-by-product",
        "The low rank of the first-layer block comes from its layout, before any training",
        lambda found: (
            by_seed(found(), EVERY + NO_PHASE_ONE, "er_pct")
            - by_seed(found(), FIRST + NO_PHASE_ONE, "er_pct")
        ).to_numpy(),
        "above",
        "ranks of both blocks without Phase 1: if equal, Phase 1 makes the low rank",
        threshold=5.0,
        unit="points of effective rank",
    ),
    _claim(
        "beats-window",
        "The context vector beats a fixed window of the last 1 to 6 tokens",
        best_window,
        "below",
        "best k-token MLP, k chosen on valid; same head, batch and updates",
    ),
    _claim(
        "long-memory",
        "The context vector carries more than the last 4 tokens",
        change(EVERY, memory_name(4)),
        "below",
        "the same cell cut to its last 4 tokens in training and in measuring",
        threshold=-1.0,
    ),
    _claim(
        "near-upper-bound",
        "Unsupervised Phase 1 comes within 5 % of training the cell for the task",
        change(EVERY, EVERY + TRAINED),
        "within",
        "the same cell trained end to end (truncated, 16 tokens) with as many updates",
        threshold=5.0,
    ),
)
