"""The context experiments: recipes, measures of claims, checks that can fail, costs."""

import dataclasses
import itertools
import math
import subprocess
import sys
from contextlib import nullcontext

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from figure_checks import collisions, painted
from matplotlib.colors import to_hex

from lib.checks import CheckFailed
from lib.context import checks, cost_plan, scaling_run
from lib.context import figures as drawings
from lib.context.block import ContextBlock
from lib.context.claims import remembered
from lib.context.experiments import e16_token_input as e16
from lib.context.experiments import e17_parallel_contexts as e17
from lib.context.experiments import e18_scaling as e18
from lib.context.forgetting import noise_gain
from lib.context.parameters import REPORT_TOKENS, ContextParameters, report_phase_one
from lib.context.phase_two import recipe
from lib.context.scaling_run import Recipe, chosen_columns, column, last_column, run_scaling
from lib.context.sources import Recurrent
from lib.figures import alternative, methods, style
from lib.parameters import ParameterError
from lib.results import store, tables
from lib.results.claims import level, ratio
from lib.results.schema import check
from lib.results.store import Absent, Results
from lib.runs.places import ROOT
from lib.runs.task import Place

matplotlib.use("Agg")
EXPERIMENTS = (e16.E16, e17.E17, e18.E18)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEPTH_CACHE", str(tmp_path / "cache"))


def tiny(experiment, **changes):
    """Parameters of a run that needs no network."""
    values = {**experiment.parameters.TINY, "corpus": "embedded", **changes}
    return experiment.parameters.checked(values)


def results(rows, **tables):
    frames = {name: pd.DataFrame(own) for name, own in tables.items()}
    shared = {"run_id": "x", "status": "ok"}
    frame = pd.DataFrame([{**shared, "label": row["variant"], **row} for row in rows])
    return Results("18_scaling", {"": frame, **frames})


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_sizes_are_named_and_claims_have_a_control(experiment):
    for size in ("full", "third", "tenth", "small", "quick", "tiny"):
        assert experiment.parameters.at(size).size == size
    assert all(claim.control for claim in experiment.claims)
    assert all(claim.reported is None or claim.kind == "reported" for claim in experiment.claims)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_committed_rows_are_valid_and_claims_can_be_decided(experiment):
    found = store.committed(experiment.slug)
    check(found())
    assert set(found()["variant"]) <= set(experiment.variants)
    small = found.on(size="small")
    small = small.on(small.corpora[0])
    for claim in experiment.claims:
        try:
            assert np.isfinite(claim.measure(small)).all()
        except Absent:
            assert claim.id == "context_cache-lanes-faster"  # not timed at that size


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_every_figure_of_the_committed_results_can_be_read(experiment):
    with plt.rc_context():
        style.use()
        found, drawn = store.committed(experiment.slug), set()
        for text, (what, draw) in itertools.product(found.corpora, experiment.figures.items()):
            try:
                figure = draw(found.on(text))
            except Absent:  # runs on this text are outstanding
                continue
            drawn.add(what)
            assert collisions(figure) == [], what
            for name, colour in painted(figure):
                method = methods.method_of(name)
                assert method is None or colour == to_hex(method), (what, name)
            plt.close(figure)
        assert drawn == experiment.figures.keys()


@pytest.mark.parametrize(
    ("experiment", "shown"),
    [
        (e17.E17, (e17.agreement_table, e17.positions_table, e17.cache_table)),
        (e18.E18, (e18.scaling_table, e18.sizes_table, e18.controls_table)),
    ],
    ids=("17", "18"),
)
def test_a_second_text_changes_no_figure_and_no_table(experiment, shown):
    found = store.committed(experiment.slug)
    other = {n: f.assign(corpus="zz", test_ppl=9.0, cos_mean=0.1) for n, f in found.frames.items()}
    frames = {n: pd.concat([f, other[n]], ignore_index=True) for n, f in found.frames.items()}
    both = Results(experiment.slug, frames)
    for make in (*experiment.figures.values(), *shown):
        one, two = make(found), make(both)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, two)
        else:
            assert alternative.text(one) == alternative.text(two)
    plt.close("all")


def test_a_figure_is_of_one_text_at_its_largest_size():
    rows = [("wikipedia", "full", 1500.0), ("wikipedia", "small", 60.0), ("other", "small", 40.0)]
    frame = pd.DataFrame(rows, columns=["corpus", "size", "test_ppl"])
    frame = frame.assign(variant="every_layer", label="ours", seed=0, contexts="phase 1", k=None)
    given = Results("16_token_input", {"": frame})
    assert tables.one(given)()["test_ppl"].tolist() == [1500.0]
    assert "(wikipedia, 1 seed)" in e16.draw_perplexity(given).get_suptitle()
    with pytest.raises(Absent, match="no k-token MLP"):
        e16.draw_memory(given)
    plt.close("all")


def test_forgetting_is_not_drawn_of_no_block():
    found = store.committed(e17.E17.slug)
    frame = found()
    trained = {"": frame[frame["rate"].astype(str) != "0"]}
    only = Results(e17.E17.slug, {**found.frames, **trained})
    with pytest.raises(Absent, match="no random block was compared"):
        e17.draw_forgetting_untrained(only)
    assert e17.draw_forgetting(only).axes
    plt.close("all")


def test_a_way_stands_in_the_table_before_its_clock_has_run():
    found = store.committed(e17.E17.slug)
    frames = {name: frame for name, frame in found.frames.items() if name != "clock"}
    whole, untimed = e17.cache_table(found), e17.cache_table(Results(e17.E17.slug, frames))
    quality = ["n", "test PPL", "sweeps", "MB"]
    assert untimed[quality].equals(whole.loc[untimed.index, quality]) and len(untimed)
    assert set(untimed["seconds"]) == set(untimed["times faster"]) == {""}


def test_states_that_have_met_are_counted_below_one_hundredth():
    rows = [("a", 0, 0, 0.2), ("a", 0, 1, 0.995), ("b", 0, 0, 0.2), ("b", 0, 1, 0.98)]
    curve = pd.DataFrame(rows, columns=["variant", "seed", "tokens_seen", "cos"])
    (axes,) = drawings.forgetting(curve, ["a", "b"], "blocks have forgotten").axes
    assert axes.get_title() == "After 1 common tokens 1 of 2 blocks have forgotten"
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.8, 0.005])
    plt.close("all")


def test_the_figure_of_laws_tells_the_exponents_of_the_table():
    results = store.committed(e18.E18.slug)
    table = e18.scaling_table(results)
    figure = e18.draw_laws(results)
    told = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    for label in e18.LAYOUTS.values():
        row = next(
            row for name, row in table.iterrows() if name.startswith(f"{label}: fixed batch, f")
        )
        for name in ("exponent", "exponent with floor"):
            mean = float(row[name].split(" [")[0])
            assert f"{mean:.2f}".replace("-", "−") in told, (label, name)
    plt.close("all")


def test_exponents_stand_beside_the_reports():
    figure = drawings.exponents({"one": [-0.3, -0.5]}, (-0.46, -0.58, -0.34), "title")
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_yticklabels()][0] == "one"
    marks = {line.get_marker(): line.get_xdata()[0] for line in axes.lines}
    assert marks["|"] == pytest.approx(-0.4) and marks["D"] == pytest.approx(-0.46)
    plt.close("all")


def test_full_size_is_the_reports_own():
    p = e18.Exp18()
    assert tuple(p.numbers("text_sizes")) == REPORT_TOKENS and p.width == 0 and p.layers == 6
    assert e16.Exp16().tokens == e17.Exp17().tokens == REPORT_TOKENS[0]
    assert [p.seeds_at(place) for place in (1, 2, 3, 4)] == [5] * 4


def test_a_text_that_is_too_short_gives_all_it_has(own_cache):
    p = tiny(e18.E18)
    text = dataclasses.replace(p.load(), available=450)
    tasks = e18.E18.tasks(p, [text])
    sizes = {task.labels["size_place"]: task.config.data.tokens for task in tasks}
    assert sizes == {1: 150, 2: 300, 3: 450}
    assert {task.config.data.vocabulary_tokens for task in tasks} == {450}


def test_sizes_that_a_short_text_would_make_equal_are_refused(own_cache, monkeypatch):
    p = tiny(e18.E18, text_sizes="150,300,600")
    text = p.load()
    for available, refused in ((301, False), (300, True)):
        short = dataclasses.replace(text, available=available)
        monkeypatch.setattr(ContextParameters, "load", lambda self, short=short: short)
        with pytest.raises(ParameterError, match="holds 300") if refused else nullcontext():
            assert p.load() is short


def test_a_readers_comparison_has_a_line_of_its_own():
    table = [{"variant": "every_layer_2", "label": "ours", "layout": "every_layer", "rate": "0"}]
    table.append({"variant": "mine", "label": "mine (yours)", "layout": "first_layer_flat"})
    common = {"layers": 2, "seed": 0, "cos_mean": 0.99, "corpus": "embedded", "size": "tiny"}
    figure = e17.draw_agreement(results([{**common, **row} for row in table]))
    told = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"token at every layer, rate 0", "mine (yours)"} <= told
    own = e17.Agreement("first_layer_flat", 2, True)
    assert own.factors == {"layout": "first_layer_flat", "layers": 2, "rate": "report"}
    plt.close("all")


def test_a_diverged_run_is_in_no_mean_of_the_tables():
    rows = sized({"test_ppl": lambda t: 1e4 * t**-0.5, "er_pct": lambda t: 9.0})
    for row in rows:
        lost = row["variant"] == "first_layer_size_1" and row["seed"] == 1
        row |= dict.fromkeys((*e18.SCHEDULES.values(), "unigram_test_ppl"), row["test_ppl"])
        row["test_acc_pct"] = 5.0
        row |= {"corpus": "embedded", "corpus_sha256": "0" * 64, "device": "cpu"}
        row |= {"status": "diverged", "test_ppl": 9e6, "run_id": "lost"} if lost else {}
    found = results(rows)
    assert e18.sizes_table(found)["n"].tolist() == [1, 2, 2]
    assert e18.controls_table(found).iloc[0, 0] == pytest.approx(1e4 * 1000**-0.5, abs=0.1)
    law = e18.scaling_table(found).filter(like="fixed epochs, 3", axis=0).iloc[0]
    assert law["exponent"].startswith("-0.500") and law["sizes, n"] == "3, 1"


def test_the_plan_of_another_study_or_size_is_refused_in_one_sentence(capsys):
    cases = {"03": "choose from", "18 huge": "allowed: full", "": "required: number"}
    for given, sentence in cases.items():
        with pytest.raises(SystemExit):
            cost_plan.main(given.split())
        assert sentence in capsys.readouterr().err


def test_rows_that_are_equal_in_two_experiments_are_computed_once(own_cache):
    one = tiny(e16.E16, tokens=300, vocabulary_tokens=600, scoring="full")
    other = tiny(e18.E18, text_sizes="300,500,600", controls=1, windows=2, scoring="full")
    other = other.changed(vocabulary_tokens=600, batch=one.batch)
    text = one.load()

    def keys(experiment, parameters):
        return {t.labels["variant"]: t.key() for t in experiment.tasks(parameters, [text])}

    ours, theirs = keys(e16.E16, one), keys(e18.E18, other)
    for name in ("window_2", "first_layer_random", "first_layer_matched", "every_layer_random"):
        assert ours[name] == theirs[f"{name}_size_1"] != theirs[f"{name}_size_2"]


@pytest.mark.parametrize(("first", "then"), [(e16.E16, e18.E18), (e18.E18, e16.E16)])
def test_a_run_that_another_experiment_has_committed_is_not_trained_again(
    first, then, own_cache, kept, tmp_path, monkeypatch, capsys
):
    assert then.shares.keys() == {first.slug}
    factors = {name for entry in first.variants.values() for name in entry.factors}
    assert set(then.shares[first.slug]) == factors
    common = {"scoring": "full", "vocabulary_tokens": 600, "device": "cpu"}
    one = tiny(e16.E16, tokens=300, **common)
    sizes = {"text_sizes": "300,500,600", "controls": 1, "windows": 2, "batch": one.batch}
    asked = {"16": one, "18": tiny(e18.E18, **sizes, **common)}
    shared = ("window_2", "first_layer_random", "first_layer_matched", "every_layer_random")
    names = {"16": shared, "18": tuple(f"{name}_size_1" for name in shared)}
    text, pairs = one.load(), []
    for place, task in enumerate(first.tasks(asked[first.number], [text], names[first.number])):
        row = {"corpus": "embedded", "corpus_sha256": "0" * 64, "code_hash": "x", "device": "cpu"}
        row |= {"seconds": 1.0, "val_ppl": 5.0 + place, "test_ppl": 6.0 + place}
        curve = [{"epoch": 1, "val_ppl": 5.0 + place}]
        pairs.append((task, {"row": row, "tables": {"curve": curve}, "key": task.key()}))
    monkeypatch.setattr(store, "TABLES", tmp_path)
    store.publish(Results(first.slug, store.assemble(pairs, "full")))
    monkeypatch.setenv("DEPTH_RECORDED", "1")
    found = then.run(asked[then.number], [text], only=names[then.number])
    assert "nothing is left to train" in capsys.readouterr().out
    assert not (kept / "runs").exists()
    rows = found().set_index("variant").loc[list(names[then.number])]
    assert rows["run_id"].to_list() == [record["key"] for _, record in pairs]
    assert rows["test_ppl"].to_list() == [6.0, 7.0, 8.0, 9.0]
    assert found("curve").set_index("variant")["val_ppl"].to_dict() == rows["val_ppl"].to_dict()
    for variant, row in rows.iterrows():
        entry = then.variants[variant]
        assert row["label"] == entry.label and row["experiment"] == then.report
        own = row[list(entry.factors)]
        assert own.where(own.notna(), None).to_dict() == dict(entry.factors)
    assert ("size_place" in rows) == (then is e18.E18)


def test_controls_come_after_the_main_rows_of_all_seeds_and_keep_their_keys(own_cache):
    p = tiny(e18.E18, controls=2, windows=2, seeds=3, largest_seeds=2)
    tasks = e18.E18.tasks(p, [p.load()])
    main = [task for task in tasks if task.labels["contexts"] == "phase 1"]
    assert [task.labels["variant"] in e18.MAIN for task in tasks] == [True] * 16 + [False] * 30
    assert tasks[:16] == main and [task.seed for task in main] == [0] * 6 + [1] * 6 + [2] * 4
    together = [dataclasses.replace(own, turn=0) for own in e18.CONTROLS.values()]
    turned = dict(zip(e18.CONTROLS, together, strict=True))
    asked = dataclasses.replace(e18.E18, variants={**e18.MAIN, **turned})
    keys = {task.key() for task in asked.tasks(p, [p.load()])}
    assert {task.key() for task in tasks} == keys and len(keys) == 46


def test_phase_one_of_the_report_at_its_own_width_and_scaled():
    own = report_phase_one(768)
    assert (own.chunk, own.learning_rate) == (8000, pytest.approx(0.002))
    narrow = report_phase_one(192)
    assert (narrow.chunk, narrow.learning_rate) == (2000, pytest.approx(0.004))
    assert own.chunk / 768 == pytest.approx(narrow.chunk / 192)  # equal size of the dispersion


def test_matched_variant_has_about_equal_parameters_and_flat_changes_only_the_input():
    p = e16.Exp16()
    names = ("every_layer", "first_layer_matched", "first_layer_flat")
    blocks = [e16.VARIANTS[name].contexts(p, 192).block(192, 0) for name in names]
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02
    assert sizes[0] - sizes[2] == 5 * 192 * 192  # the token half of five later layers
    assert blocks[2].layers[1].residual is None


def test_updates_an_epoch_follow_the_report():
    batches = [e18.report_batch(t, i, 4) for i, t in enumerate(REPORT_TOKENS)]
    updates = [-(-(t - 1) // b) for t, b in zip(REPORT_TOKENS, batches, strict=True)]
    assert updates == list(e18.REPORT_UPDATES_PER_EPOCH)
    assert e18.report_batch(100, 1, 3) < 100


def test_an_equal_budget_is_spent_at_every_size():
    p = e18.Exp18()
    for place, tokens in enumerate(REPORT_TOKENS):
        _, _, budget = e18.recipes(p, "first_layer", tokens, place)
        assert budget.name == "equal_updates"
        per_epoch = -(-(tokens - 1) // budget.training.batch_size)
        assert per_epoch * budget.training.epochs >= budget.training.max_updates == 1_110
    assert [r.name for r in e18.recipes(p, "every_layer", 56_602, 0)] == ["fixed"]


WRONG_SIZES = ["100,600", "300,200,600", "600", "200,200,600", "1,2,3,4,5,6,600"]


@pytest.mark.parametrize("sizes", WRONG_SIZES)
def test_sizes_must_be_three_to_six_rise_and_end_at_tokens(sizes):
    with pytest.raises(ParameterError, match="sizes"):
        e18.Exp18.checked({"tokens": 600, "text_sizes": sizes})
    with pytest.raises(ParameterError, match="largest"):
        e18.Exp18.checked({"tokens": 1000})


def test_the_wide_rows_count_as_tokens_and_a_batch_fits_into_the_text():
    wide = e16.Exp16.checked({"tokens": 2_000, "wide_tokens": 9_000})
    assert wide.most_tokens == 9_000 and e16.Exp16().most_tokens == 56_602
    assert e16.wide(e16.Exp16()) is None
    with pytest.raises(ParameterError, match="'batch' is 512; allowed: below tokens"):
        e16.Exp16.checked({"tokens": 512})


def test_a_memory_beyond_the_curve_is_not_averaged_away():
    rows = pd.DataFrame({"iterations": [7.0, 7.0, 7.0], "memory_tokens": [2.0, 3.0, 4.0]})
    assert remembered(rows) == "3.00"
    rows.loc[1, "memory_tokens"] = None
    assert remembered(rows) == "> 8"
    assert remembered(rows.assign(iterations=None)) == ""


def replayed():
    """Rows and curves of two sizes as `chosen_columns` makes them."""
    rows, curves = [], []
    recipes = [
        Recipe(name, recipe(updates=9 * (name == "equal_updates")), rules)
        for name, rules in e18.RULES.items()
    ]
    for place, tokens in enumerate((1000, 2000), start=1):
        row = {"variant": f"first_layer_size_{place}", "seed": 0, "corpus": "text", "size": "small"}
        for own in recipes:
            curve = [
                {"epoch": i, "updates": 3 * i, "valid_loss": v, "val_ppl": math.exp(v)}
                | {"test_acc": 0.1, "test_ppl": 100.0 * i + tokens}
                for i, v in enumerate([3.0, 3.5, 2.0], start=1)
            ]
            row |= chosen_columns(own, curve)
            curves += [{"recipe": own.name, **row} | entry for entry in curve]
        rows.append(row)
    return rows, curves


def test_reported_epochs_are_checked_against_the_curves(capsys):
    rows, curve = replayed()
    e18.check_replay(results(rows, curve=curve))
    assert "9 updates with every training text" in capsys.readouterr().out
    both = [{**row, "size": size} for size in ("small", "full") for row in rows]
    lines = [{**line, "size": size} for size in ("small", "full") for line in curve]
    e18.check_replay(results(both, curve=lines))
    assert "text, size full: reported epochs" in capsys.readouterr().out
    for name in (
        column("fixed", 0, "test_ppl"),
        column("fixed", 1, "val_ppl"),
        column("report", 1, "test_ppl"),
        column("equal_updates", 0, "test_ppl"),
        last_column("equal_updates", "test_ppl"),
        last_column("equal_updates", "updates"),
    ):
        with pytest.raises(CheckFailed, match=name):
            wrong = [{**row, name: row[name] * 1.1} for row in rows]
            e18.check_replay(results(wrong, curve=curve))
    # chosen on test: epoch 1 is lowest there, epoch 3 on valid; whatever is said of valid
    for name in ("fixed", "fixed_patience3", "equal_updates"):
        for said in ({}, {f"{name}_val_ppl": math.exp(3.0)}):
            peeped = {f"{name}_epoch": 1, f"{name}_test_ppl": 1_100.0, **said}
            with pytest.raises(CheckFailed, match=r"epoch 1 has .* of 20.0855, epoch 3 the lower"):
                e18.check_replay(results([{**rows[0], **peeped}, rows[1]], curve=curve))
    with pytest.raises(CheckFailed, match="epoch 3 is after 2"):
        late = [{**row, "fixed_patience1_epoch": 3} for row in rows]
        e18.check_replay(results(late, curve=curve))


def sized(values, seeds=(0, 1), sizes=(1000, 4000, 16000), skip=()):
    """Main rows of the first-layer layout: columns of functions of tokens.

    Of the tiny size, which asks for three sizes of text, or of the full one, which asks for four.
    """
    size = {3: "tiny", 4: "full"}[len(sizes)]
    return [
        {"variant": f"first_layer_size_{place}", "layout": "first_layer", "contexts": "phase 1"}
        | {"seed": s, "tokens": t, "size": size, "size_place": place}
        | {name: value(t) for name, value in values.items()}
        for place, t in enumerate(sizes, start=1)
        for s in seeds
        if (place, s) not in skip
    ]


def test_steepness_is_compared_at_one_patience_and_both_together_says_so():
    rows = sized(
        {
            "report_patience1_test_ppl": lambda t: 1e4 * t**-0.5,
            "fixed_patience1_test_ppl": lambda t: 1e4 * t**-0.4,
            "fixed_test_ppl": lambda t: 1e4 * t**-0.3,
        }
    )
    claims = {claim.id.split("-", 1)[1]: claim for claim in e18.CLAIMS}
    for name, gap in (("recipe-steepens", -0.1), ("recipe-and-stopping-steepen", -0.2)):
        assert claims[name].measure(results(rows)) == pytest.approx([gap] * 2)
    assert "differ together" in claims["recipe-and-stopping-steepen"].control


def test_exponents_and_steps_come_from_the_grid():
    rows = sized({"test_ppl": lambda t: 1e4 * t**-0.5, "er_pct": lambda t: 10 + t / 1e4})
    assert e18.exponents("first_layer")(results(rows)) == pytest.approx([-0.5] * 2)
    assert e18.rank_spread(results(rows)) == pytest.approx([1.5, 1.5])
    assert e18.step("first_layer", "er_pct")(results(rows)) == pytest.approx([1.2] * 2)
    with pytest.raises(Absent, match="token at every layer has no test_ppl"):
        e18.exponents("every_layer")(results(rows))
    with pytest.raises(KeyError, match="test_pll") as misspelt:
        e18.exponents("first_layer", "test_pll")(results(rows))
    assert not isinstance(misspelt.value, Absent)


def test_fewer_seeds_at_the_largest_size_mix_nothing():
    sizes = (1000, 2000, 4000, 8000)
    bent = {"test_ppl": lambda t: 100.0 if t == 8000 else 1e4 * t**-0.5}
    found = results(sized(bent, (0, 1, 2), sizes, skip=((4, 1), (4, 2))))
    common = e18.grid(found, "first_layer", "test_ppl", whole_range=False)
    assert list(common.columns) == [1000, 2000, 4000] and len(common) == 3
    assert e18.exponents("first_layer", whole_range=False)(found) == pytest.approx([-0.5] * 3)
    whole = e18.grid(found, "first_layer", "test_ppl")
    assert list(whole.index) == [0] and len(whole.columns) == 4
    table = e18.scaling_table(
        results(
            [
                row
                | {m: row["test_ppl"] for m in e18.SCHEDULES.values()}
                | {"corpus": "embedded", "corpus_sha256": "0" * 64, "device": "cpu"}
                for row in found().to_dict("records")
            ]
        )
    )
    assert {"4, 1", "3, 3"} <= set(table["sizes, n"])


WHOLE = {"falls", "rank-constant", "accuracy-dips", "early-stopping-costs", "patience-3-helps"}
COMMON = {"falls-common", "steepness", "recipe-steepens", "recipe-and-stopping-steepen"}
COMMON |= {"equal-budget", "equal-updates-last"}
FIRST = {"smallest-beats-unigram"}
# what is published so far, the claims that it decides, and "sizes, n" of the fits it shows
PARTS = {
    "only the other layout": (lambda f: f["layout"] == "every_layer", set(), {"4, 3"}),
    "size 1": (lambda f: f["size_place"] == 1, FIRST, set()),
    "sizes 1 and 2": (lambda f: f["size_place"] <= 2, FIRST, set()),
    "seed 0, and size 1 of seed 1": (
        lambda f: (f["seed"] == 0) | (f["seed"] == 1) & (f["size_place"] == 1),
        WHOLE | FIRST,
        {"4, 1"},
    ),
    "all but the largest size": (lambda f: f["size_place"] <= 3, COMMON | FIRST, {"3, 3"}),
}


@pytest.mark.parametrize("part", PARTS)
def test_tables_that_are_published_part_by_part_decide_what_they_can(part):
    chosen, decided, fitted = PARTS[part]
    found = store.committed(e18.E18.slug).on(size="small")
    main = found()[chosen(found())].dropna(axis="columns", how="all")
    curve = found("curve").merge(main[["variant", "seed"]])
    found = Results(found.slug, {"": main, "curve": curve})
    measured = {}
    for name, measure in {c.id: c.measure for c in e18.CLAIMS}.items() | e18.BESIDE.items():
        try:
            values = np.asarray(measure(found), float)
        except Absent as missing:
            assert len(missing.args[0].split()) > 3
            continue
        assert np.isfinite(values).all()
        measured[name] = len(values)
    assert {name.split("-", 1)[1] for name in measured if isinstance(name, str)} == decided
    if WHOLE <= decided:
        assert measured["context_scaling-falls"] == measured["fit", "alpha"] == 1  # one seed
    # what is there is shown, and what cannot be fitted is left out
    shown = e18.scaling_table(found)["sizes, n"].iloc[1:]
    assert set(shown) == fitted
    assert len(e18.sizes_table(found)) == main["variant"].nunique()
    assert int(e18.controls_table(found).notna().sum().sum()) == main["variant"].nunique()
    told = alternative.text(e18.draw_laws(found))
    whole = {"4, 1", "4, 3"} & set(shown)
    assert ("exponent −" in told) == bool(whole) and ("no law before" in told) != bool(whole)
    assert ("lie between" in alternative.text(e18.draw_schedules(found))) == (WHOLE <= decided)
    plt.close("all")


def test_the_sizes_of_a_readers_own_set_are_those_that_it_asks_for(own_cache):
    def saved(text_sizes, places):
        p = tiny(e18.E18, text_sizes=text_sizes, seeds=2, largest_seeds=2)
        tasks = [t for t in e18.E18.tasks(p, [p.load()]) if t.labels["layout"] == "first_layer"]
        pairs = []
        for task in tasks:
            tokens = task.config.data.tokens
            row = {"corpus": "embedded", "corpus_sha256": "0" * 64, "tokens": tokens}
            row |= {"test_ppl": 1e4 * tokens**-0.5, "seconds": 1.0, "device": "cpu"}
            record = {"row": row | {"code_hash": "x"}, "tables": {}, "key": task.key()}
            if task.labels["size_place"] in places:
                pairs.append((task, record))
        found = store.save_set(e18.E18.slug, p, [task.key() for task in tasks], pairs)
        assert found.sizes == ["custom"]
        return found.on("embedded")

    falls = e18.exponents("first_layer")
    for sizes, places in (("200,400,600", (1, 2, 3)), ("150,300,450,600", (1, 2, 3, 4))):
        assert falls(saved(sizes, places)) == pytest.approx([-0.5] * 2)
    unfinished = saved("150,300,450,600", (1, 2, 3))
    with pytest.raises(Absent, match="no seed of token at first layer has all 4 sizes of text"):
        falls(unfinished)
    assert e18.exponents("first_layer", whole_range=False)(unfinished) == pytest.approx([-0.5] * 2)
    by_hand = dataclasses.replace(unfinished, folder=None)  # nothing says that a size is missing
    assert falls(by_hand) == pytest.approx([-0.5] * 2)
    with pytest.raises(Absent, match="token at first layer has fewer than 3 sizes of text"):
        e18.laws(saved("200,400,600", (1, 2)), "first_layer", "test_ppl")


def test_chosen_columns_replay_the_rule():
    curve = [
        {"valid_loss": v, "val_ppl": 10 * v, "test_ppl": 20 * v, "test_acc": 0.1, "updates": i}
        for i, v in enumerate([3.0, 2.0, 2.5, 1.0], start=1)
    ]
    found = chosen_columns(Recipe("fixed", recipe(), (0, 1)), curve)
    assert found["fixed_test_ppl"] == 20 and found[column("fixed", 1, "test_ppl")] == 40
    assert (found["fixed_epoch"], found["fixed_patience1_epoch"]) == (4, 2)
    assert last_column("fixed", "updates") not in found
    curve.append({**curve[0], "updates": 5})
    limited = chosen_columns(Recipe("equal", recipe(updates=5)), curve)
    assert (limited["equal_updates"], limited[last_column("equal", "updates")]) == (4, 5)
    assert limited[last_column("equal", "test_ppl")] == 60


def test_replayed_patience_equals_really_stopping(tmp_path, own_cache):
    p = tiny(e18.E18)
    rules = (
        Recipe("fixed", recipe(64, 0.05, 8, patience=0), (0, 1)),
        Recipe("stopped", recipe(64, 0.05, 8, patience=1), (0,)),
    )
    config = scaling_run.ScalingRun(
        p.load().choose(p), Recurrent("every_layer", 2, 16, None), rules
    )
    row = run_scaling(config, 0, Place(tmp_path)).row
    assert row["fixed_patience1_test_ppl"] == row["stopped_test_ppl"]
    assert row["fixed_patience1_epoch"] == row["stopped_epoch"] < 8


@pytest.mark.parametrize("limit", [24, 30, 80])
def test_a_recipe_that_only_ends_earlier_is_read_off_the_first_one(
    limit, tmp_path, own_cache, monkeypatch
):
    p = tiny(e18.E18)
    positions, data = 599, p.load().choose(p)
    first = Recipe("fixed", recipe(64, 0.05, 8, patience=0), (0, 1))  # 10 updates an epoch
    short = Recipe("equal", recipe(64, 0.05, 3 if limit < 80 else 8, 0, limit))
    config = scaling_run.ScalingRun(data, Recurrent("every_layer", 2, 16, None), (first, short))
    assert data.tokens == positions + 1
    assert scaling_run.beginning(config.recipes, positions) is short
    runs, real = [], scaling_run.phase_two

    def counted(*given, **named):
        runs.append(given[-1])
        return real(*given, **named)

    def found(name):
        outcome = run_scaling(config, 0, Place(tmp_path / name))
        curve = [{**row, "epoch_seconds": 0} for row in outcome.tables["curve"]]
        return outcome.row, curve

    monkeypatch.setattr(scaling_run, "phase_two", counted)
    row, curve = found("shared")
    assert runs == ["checkpoint_fixed"]
    monkeypatch.setattr(scaling_run, "beginning", lambda recipes, positions: None)
    assert found("alone") == (row, curve) and len(runs) == 3
    assert row[last_column("equal", "updates")] == limit


def test_other_recipes_are_trained_by_themselves():
    first = Recipe("fixed", recipe(64, 0.05, 8, patience=0))
    others = (
        recipe(64, 0.05, 8, patience=1),
        recipe(32, 0.05, 8, patience=0, updates=20),
        recipe(64, 0.01, 8, patience=0, updates=20),
        recipe(64, 0.05, 9, patience=0, updates=81),
    )
    for other in others:
        assert scaling_run.beginning((first, Recipe("other", other)), 599) is None
    earlier = Recipe("other", recipe(64, 0.05, 1, patience=0, updates=20))
    assert scaling_run.beginning((first, earlier), 599) is None, "one epoch ends after ten updates"
    for changed in ({"patience": 1}, {"schedule": "linear"}, {"validations": 4}):
        whole, short = (
            Recipe(
                name,
                dataclasses.replace(recipe(64, 0.05, 8, patience=0, updates=updates), **changed),
            )
            for name, updates in (("whole", 0), ("short", 20))
        )
        assert scaling_run.beginning((whole, short), 599) is None, changed


def test_best_window_is_chosen_on_validation():
    rows = []
    for seed in (0, 1):
        for variant, contexts, val, test in (
            ("every_layer", "phase 1", 1.0, 90.0),
            ("window_1", "window", 50.0, 100.0),
            ("window_2", "window", 60.0, 80.0),
        ):
            own = {"variant": variant, "contexts": contexts, "seed": seed}
            rows.append({**own, "val_ppl": val, "test_ppl": test})
    over = ratio(level("every_layer", "test_ppl"), e16.best_window)
    assert list(over(results(rows))) == pytest.approx([-10, -10])
    assert list(over(results(rows[:4]))) == pytest.approx([-10])  # the windows of one seed to come
    with pytest.raises(Absent):
        e16.best_window(results(rows[:1]))


def test_speed_is_a_ratio_to_the_sequential_way():
    clock = [
        {"variant": "every_layer_sequential", "seed": 0, "way": way, "collect_seconds": s}
        for way, s in (("sequential", 6.0), ("table", 0.5))
    ]
    found = results(
        [{"variant": "every_layer_sequential", "seed": 0}],
        clock=[{**c, "run_id": "c"} for c in clock],
    )
    assert e17.speed("every_layer", "table")(found) == pytest.approx([12.0])
    with pytest.raises(Absent, match="was not timed"):
        e17.speed("every_layer", "lanes")(found)


def test_the_clock_runs_alone_beside_the_sequential_row(own_cache):
    p = tiny(e17.E17, tokens=3_000)
    tasks = e17.E17.tasks(p, [p.load()])
    clocks = [task for task in tasks if task.side]
    assert {task.labels["variant"] for task in clocks} == {
        "every_layer_sequential",
        "first_layer_sequential",
    }
    assert all(task.alone and task.config.names[-1] == "lanes" for task in clocks)
    assert not any(task.alone for task in tasks if not task.side)
    # a text that holds fewer tokens than are asked for: shorter documents, no lanes
    for task in e17.E17.tasks(p, [dataclasses.replace(p.load(), available=400)]):
        if task.side:
            names, documents = task.config.names, task.config.choices[1].document
            assert (names[-1], documents) == ("table", 50)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.slug)
def test_costs_are_planned_before_anything_is_trained(experiment, own_cache):
    rates = cost_plan.Rates(products=1e9, adam=1e9, streamed=1e9)
    p = tiny(experiment, controls=1) if experiment is e18.E18 else tiny(experiment)
    text = p.load()
    rows = cost_plan.plan(experiment, p, [text], rates)
    assert rows and all(row["total"] > 0 for row in rows)
    longer = p.changed(epochs=3)
    more = cost_plan.plan(experiment, longer, [text], rates)
    assert sum(row["total"] for row in more) > sum(row["total"] for row in rows)
    slower = cost_plan.Rates(products=5e8, adam=5e8, streamed=5e8)
    twice = cost_plan.plan(experiment, p, [text], slower)
    assert sum(r["total"] for r in twice) == pytest.approx(2 * sum(r["total"] for r in rows))
    lines = cost_plan.report(rows, rates).splitlines()
    assert len(lines) == len(rows) + 2 and rows[0]["variant"] in lines[2]


def test_a_block_that_two_runs_share_is_paid_for_once(own_cache):
    p = tiny(e17.E17)
    rows = cost_plan.plan(e17.E17, p, [p.load()], cost_plan.Rates(1e9, 1e9, 1e9))
    paid = [row["variant"] for row in rows if row["phase_one"] > 0]
    assert "every_layer_2" in paid and "every_layer_sequential" not in paid


def test_checks_pass_and_can_fail(monkeypatch, capsys):
    checks.check_causal(2)
    checks.check_ways(2)
    assert "causal" in capsys.readouterr().out
    monkeypatch.setattr(checks, "sequential", lambda block, x: x.flip(0))
    with pytest.raises(CheckFailed, match="differ"):
        checks.check_ways(2)
    with pytest.raises(CheckFailed, match="later tokens"):
        checks.check_causal(2)


def test_benchmark_prints_ratios_and_small_errors_for_exact_ways():
    command = [sys.executable, str(ROOT / "tools" / "bench_context.py"), "--width", "16"]
    command += ["--tokens", "64", "--rounds", "1", "--layers", "2", "--documents", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = {line[:34].strip(): line[34:].split() for line in done.stdout.splitlines()[2:]}
    assert float(lines["sequential, token half ahead"][2]) < 1e-4
    assert float(lines["4 documents batched"][2]) < 1e-4
    assert float(lines["parallel, 1 sweep"][2]) > 1e-3


def test_narrow_random_cell_forgets_like_the_wide_one():
    """Why weights are scaled: with the report's literal 0.1 a narrow cell forgets faster."""
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.layer_norm(torch.randn(300, 96, generator=generator), (96,))
    scaled = noise_gain(ContextBlock(96, 96, 6, seed=0), x)
    literal = noise_gain(ContextBlock(96, 96, 6, weight_std=0.1, seed=0), x)
    assert np.isfinite(scaled) and abs(scaled - 0.2155) < abs(literal - 0.2155)


def test_a_text_shorter_than_a_size_asks_for_is_taken_whole():
    parameters = e16.E16.parameters.at("tenth").changed(corpus="embedded", base="tiny", width=0)
    (text,) = parameters.texts()
    choice = text.choose(parameters)
    assert choice.valid_tokens == choice.test_tokens == text.held_out < parameters.valid_tokens
    assert choice.vocabulary_tokens == text.available
