"""Experiments 12 to 15 and 19: the reports' own sizes, shared runs, claims, figures, cost plan."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from figure_checks import collisions, painted

from lib.base.pretrained import BaseUnavailable, load_base
from lib.cascade import claims, cost_plan, tables
from lib.cascade.cascade_run import CascadeRun, CascadeSpeed, ServedRun, run_cascade
from lib.cascade.cost_plan import Rate, plan, variants_of
from lib.cascade.dataset import TokenDataset, _opened
from lib.cascade.experiments import (
    e12_two_layer_stage,
    e13_hard_against_all,
    e14_staged_training,
    e15_all_tokens,
    e19_cascade_that_works,
)
from lib.cascade.figures import by_stage, hard_tokens, pareto
from lib.cascade.packing import Packs
from lib.cascade.stage_run import StageRun, windows_a_step
from lib.figures import style
from lib.parameters import ParameterError
from lib.results import store
from lib.results.claims import decide
from lib.results.store import Absent, Results

E12, E13 = e12_two_layer_stage.E12, e13_hard_against_all.E13
E14, E15 = e14_staged_training.E14, e15_all_tokens.E15
E19 = e19_cascade_that_works.E19
STAGED = (E12, E13, E14, E15)


def dataset(parameters) -> TokenDataset:
    """A name for text that nobody opens."""
    counts = tuple(sorted(parameters.counts().items()))
    return TokenDataset("alpaca", "0" * 64, "tiny", parameters.cut, counts, "auto", "")


def configs(experiment, size="full"):
    parameters = experiment.parameters.at(size)
    text = dataset(parameters)
    return {name: v.config(parameters, text) for name, v in experiment.variants.items()}


def test_only_a_quick_run_without_a_named_base_shows_the_random_one(tmp_path, monkeypatch, capsys):
    def only_tiny(source):
        if source != "tiny":
            raise BaseUnavailable(f"{source} is not to be had.")
        return load_base("tiny")

    monkeypatch.setattr("lib.cascade.dataset._base", only_tiny)
    _opened.cache_clear()
    own = {"corpus": "embedded", "train_windows": 8, "valid_windows": 2, "test_windows": 2}
    e13, quick = E13.parameters, {**E13.parameters.QUICK, "corpus": "embedded"}
    assert e13.checked(quick).texts()[0].base == "tiny"
    assert "auto is not to be had. The quick run is made with" in capsys.readouterr().out
    (tmp_path / "mine").mkdir()
    for given in (
        {},
        own,  # a custom size
        {**e13.LADDER["tenth"], "corpus": "embedded"},
        {**quick, "base": str(tmp_path / "mine")},
        {**quick, "base": "hub"},
    ):
        with pytest.raises(BaseUnavailable, match="is not to be had"):
            e13.checked(given).texts()
    _opened.cache_clear()


def test_r0_has_the_reports_numbers():
    parameters = E13.parameters.at("full")
    assert parameters.train_windows * 128 == 86_784 and parameters.valid_windows * 128 == 17_280
    assert parameters.count == 10_082 and parameters.steps == 10 * -(-10_082 // 32) == 3_160
    hard = configs(E13)["hard"]
    numbers = hard.training
    assert (numbers.batch_size, numbers.learning_rate, numbers.weight_decay) == (32, 1e-4, 0.01)
    assert (numbers.clip, numbers.schedule, numbers.restore) == (0.0, "constant", "best")
    assert hard.layers == 0 and hard.arrangement == "single"
    found = configs(E13)
    longer = found.pop("all_epochs")
    assert longer.training.max_updates == 10 * -(-86_784 // 32) == 27_120, "ten epochs too"
    assert replace(longer, training=numbers) == found["all"]
    for config in found.values():
        assert config.training == numbers, "equal updates, batch and rate"


def test_r2_has_the_reports_numbers_and_equal_controls():
    parameters = E12.parameters.at("full")
    assert parameters.train_windows * 128 == 192_512 and parameters.valid_windows * 128 == 20_480
    assert round(0.1 * parameters.train_windows * 128) // 128 == 150
    found = configs(E12)
    assert found["hard"] == found["report"], "one run, not two"
    report = found["report"].training
    assert (report.max_updates, report.batch_size, report.learning_rate) == (100, 16, 5e-5)
    assert (report.clip, report.schedule, report.weight_decay) == (1.0, "linear", 0.0)
    for name, config in found.items():
        if isinstance(config, StageRun):
            batch = config.training.batch_size
            assert replace(config.training, batch_size=16) == report, name
            assert batch == (2048 if name == "single" else 16), "equal tokens an update"


def test_r1_has_the_reports_numbers_and_is_shared():
    found = configs(E14)
    nine, six = found["ratio_09"], found["ratio_06"]
    assert dict(nine.cascade.dataset.counts)["train"] * 128 == 128_000
    numbers = nine.cascade.training
    assert (numbers.epochs, numbers.patience, numbers.batch_size) == (10, 1, 32)
    assert (numbers.learning_rate, numbers.weight_decay, numbers.clip) == (1e-4, 0.01, 0.0)
    assert (nine.stages, nine.cascade.layers, nine.cascade.weights) == (5, 8, "last")
    assert replace(six.cascade, hard_ratio=0.9) == nine.cascade
    served = configs(E15)
    assert served["scratch"].cascade == six, "the same stages by key"
    assert served["zero"].cascade == found["zero_06"]


@pytest.mark.parametrize("experiment", STAGED)
def test_smaller_sizes_follow_the_full_one(experiment):
    full = experiment.parameters.at("full")
    for size, share in (("third", 1 / 3), ("tenth", 0.1)):
        own = experiment.parameters.at(size)
        assert own.train_windows == pytest.approx(full.train_windows * share, rel=0.01)
        for name in ("learning_rate", "batch", "seeds"):
            assert getattr(own, name) == getattr(full, name)
        if hasattr(full, "steps"):
            assert own.steps == pytest.approx(full.steps * share, rel=0.02)
    assert experiment.parameters.at("small").size == "small"


def test_a_batch_in_full_context_holds_as_many_trained_tokens():
    index = torch.arange(1280).view(10, 128)
    counted = torch.zeros(10, 128, dtype=torch.bool)
    counted[:, ::8] = True  # 16 a window
    assert windows_a_step(Packs(index, counted), 128, 2, "full") == 16
    assert windows_a_step(Packs(index, counted), 1, 32, "full") == 2
    assert windows_a_step(Packs(index, counted), 128, 2, "packed") == 2


@pytest.mark.parametrize("experiment", (E12, E13, E14, E15))
def test_claims_look_at_variants_that_are_there(experiment):
    for claim in experiment.claims:
        assert variants_of(claim, experiment), claim.id
        assert not claim.statement.startswith("..."), claim.id


def test_depths_and_rates_without_a_row_are_refused():
    with pytest.raises(ParameterError, match="allowed: some of 1, 2, 4"):
        E19.parameters.checked({"depths": "1,3"})
    with pytest.raises(ParameterError, match="study_rates"):
        E19.parameters.checked({"study_rates": "0.002"})


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Folders of their own for runs and features of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_KEEP", str(tmp_path_factory.mktemp("keep")))
        patch.setenv("DEPTH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def results(kept):
    """Experiments 12 to 14 at the tiny size."""
    return {e.slug: e.run(e.parameters.at("tiny")) for e in (E12, E13, E14)}


@pytest.mark.parametrize("experiment", (E12, E13, E14))
def test_tables_and_figures_can_be_made(experiment, results):
    found = results[experiment.slug]
    for what, draw in experiment.figures.items():
        if (experiment.slug, what) != (E14.slug, "epochs"):  # one epoch is no curve
            assert draw(found).axes
            plt.close("all")
    module = {"12": e12_two_layer_stage, "13": e13_hard_against_all, "14": e14_staged_training}
    table = module[experiment.number].reported_table(found)
    assert (table["report"] != "").any() and (table["ours"] != "").all()


def test_further_epochs_are_drawn_once_there_are_some(results):
    found = results[E14.slug]
    with pytest.raises(Absent, match="trained for one epoch"):
        E14.figures["epochs"](found)
    curve = found("curve")
    longer = pd.concat([curve, curve.assign(epoch=2)], ignore_index=True)
    two = replace(found, frames={**found.frames, "curve": longer})
    assert E14.figures["epochs"](two).axes
    plt.close("all")


@pytest.mark.parametrize(
    ("experiment", "tables_of"),
    [
        (E14, (e14_staged_training.stages_table, e14_staged_training.reported_table)),
        (
            E15,
            (e15_all_tokens.served_table, e15_all_tokens.cost_table, e15_all_tokens.reported_table),
        ),
    ],
    ids=("14", "15"),
)
def test_a_cascade_that_ends_after_its_first_stage_is_told_like_others(
    kept, experiment, tables_of, monkeypatch
):
    parameters = experiment.parameters.at("tiny").changed(base_head_rate=1e-30, epochs=2)
    found = experiment.run(parameters)
    counts = found().set_index("variant")["stages"]
    zero = counts.index.str.startswith("zero")
    assert (counts[zero] == 1).all() and (counts[~zero] == 2).all() and zero.sum() == 2
    for table in tables_of:
        assert len(table(found))
    for draw in experiment.figures.values():
        assert draw(found).axes
        plt.close("all")
    decided = [row for claim in experiment.claims for row in decide(claim, found)]
    absent = {row["id"] for row in decided if not row["n"]}
    assert absent == {f"{E14.report}-smaller-ratio{e}" for e in ("", "-base")} & {
        claim.id for claim in experiment.claims
    }, "these ask for a third stage"
    if experiment is E14:
        # the cascade's own record is what was not written: its stages have ended it
        real = cost_plan._finished
        monkeypatch.setattr(
            cost_plan,
            "_finished",
            lambda function, *given: function is not run_cascade and real(function, *given),
        )
        (text,) = experiment.texts(parameters)
        assert plan(experiment, parameters.changed(stages=3), text, flat)["hours"].sum() > 0
        rows = plan(experiment, parameters.changed(stages=3), text, flat).set_index("condition")
        assert not rows.index.str.contains("starts as the base").any() and len(rows) == 4


def test_a_figure_ends_where_each_seed_does():
    rows = [("a", 0, 0, 10.0), ("a", 0, 1, 20.0), ("a", 1, 0, 30.0), ("a", 1, 1, 50.0)]
    frame = pd.DataFrame([*rows, ("a", 1, 2, 60.0)], columns=["variant", "seed", "stage", "ppl"])
    assert by_stage._ends(frame, "ppl") == {"a": (20 + 60) / (10 + 30)}
    assert by_stage._ends(frame.assign(base=[1.0, 2, 3, 5, 8]), "ppl", "base") == {"a": 80 / 10}


def test_ours_is_as_precise_as_the_reports_figure():
    assert tables._as_precise(0.17324, 0.1786) == "0.1732"
    assert tables._as_precise(1629.3, 84.43) == "1,629"
    assert tables._as_precise(0.026541, None) == "0.0265"
    assert tables._as_precise(12.416, 12.5) == "12.4"


def test_every_figure_has_its_twin_without_ends_of_records(results):
    frame = results[E12.slug]()
    for name in ("base_ppl", "cascade_all_ppl", "base_all_ppl"):
        assert name.replace("_ppl", "_inner_ppl") in frame
    assert frame["inner_ppl"].notna().all()
    stages = results[E14.slug]("stages")
    assert {"test_inner_ppl", "base_inner_ppl", "all_inner_ppl"} <= set(stages)


def flat(kind) -> Rate:
    """A second an update, nothing else."""
    return Rate(1.0, 0.0, 0.0)


def test_the_plan_leaves_out_what_is_finished_and_puts_the_decisive_first(results, monkeypatch):
    parameters = E13.parameters.at("tiny").changed(seeds=2)
    (text,) = E13.texts(parameters)
    table = plan(E13, parameters, text, flat).set_index("condition")
    assert (table["seeds left"] == 1).all(), "seed 0 is finished"
    updates = 8 * (len(E13.variants) - 1) + parameters.steps_of_whole
    assert table["hours"].sum() * 3600 == pytest.approx(updates)
    assert set(table.index[:2]) == {"Hard tokens", "All tokens (first N)"}
    assert (table["weight"].diff().dropna() <= 0).all()
    staged = E14.parameters.at("tiny").changed(seeds=2)
    (text,) = E14.texts(staged)
    rows = plan(E14, staged, text, flat)
    assert (rows["seeds left"] == 1).all() and len(rows) == len(E14.variants)
    deeper = plan(E14, staged.changed(seeds=1, stages=3), text, flat)
    assert 0 < deeper["hours"].sum() < rows["hours"].sum(), "two stages of three are finished"


def test_the_plan_counts_a_stages_own_tokens_and_no_way_twice():
    counts = {"train": 10, "valid": 3, "test": 5}
    cascade = replace(configs(E14, "tiny")["ratio_06"].cascade, train_tokens=0)
    cascade = replace(cascade, dataset=replace(cascade.dataset, counts=tuple(counts.items())))

    def windows(number: int = 1, **changes) -> float:
        own = replace(cascade, **changes)
        seconds = cost_plan.cascade_seconds(own, number, lambda kind: Rate(0.0, 0.0, 1.0))
        return seconds / (128 * 0.6**number)

    assert windows() == pytest.approx(10 + 3 * (1 + 1 + 2) + 5 * 4)
    assert windows(3) == pytest.approx(windows()), "stages before it are not run again"
    assert windows(weights="best") == pytest.approx(10 + 3 * (1 + 2) + 5 * 2)
    assert windows(selection="random") == pytest.approx(10 + 3 * (1 + 1 + 1) + 5 * 2)


def test_the_calibration_times_every_kind_of_stage(base):
    measure = cost_plan.calibration(base)
    for kind in (
        cost_plan.Kind(0, "scratch", "random", "single", 0.0),
        cost_plan.Kind(2, "scratch", "random", "single", 0.0),
        cost_plan.Kind(2, "shared", "identity", "full", 0.0, 0.5),
        cost_plan.Kind(1, "scratch", "random", "packed", 1.0),
    ):
        rate = measure(kind)
        assert rate.update(1) > 0 and rate.scored > 0
    assert cost_plan.feature_rate(base) > 0


def test_the_plan_is_printed(kept, capsys, monkeypatch):
    monkeypatch.setattr(cost_plan, "calibration", lambda base: flat)
    monkeypatch.setattr(cost_plan, "_finished", lambda function, config, seed: False)
    cost_plan.main(["13", "--size", "tiny"])
    printed = capsys.readouterr().out
    assert "core-hours of training are left" in printed and "Hard tokens" in printed
    with pytest.raises(SystemExit):
        cost_plan.main(["19"])
    assert "allowed: 12, 13, 14" in capsys.readouterr().err


def test_a_stage_that_kept_its_start_has_no_gain_to_share():
    frame = pd.DataFrame(
        {
            "variant": "stage",
            "label": "Stage",
            "size": "quick",
            "run_id": ["a", "b"],
            "corpus": "text",
            "corpus_sha256": "0",
            "seed": [0, 1],
        }
    )
    frame[["base_test_ppl", "base_test_content_ppl"]] = 9.0
    routes = pd.DataFrame(
        {
            "variant": "stage",
            "size": "quick",
            "corpus": "text",
            "run_id": run_id,
            "seed": seed,
            "rule": "gate",
            "wanted_rate": rate,
            "test_rate": rate,
            "test_ppl": 9.0 - rate * gained,
            "test_content_ppl": 9.0,
        }
        for seed, run_id, gained in ((0, "a", 1.0), (1, "b", 0.0))
        for rate in (0.5, 1.0)
    )
    left, right = pareto.kept_gain("stage")(Results("slug", {"": frame, "routes": routes})).axes
    ends = [line.get_ydata()[-1] for line in left.lines if len(line.get_ydata()) == 3]
    assert ends == [1.0]  # the seed that gained keeps all of it; the other one is left out
    assert not left.texts and "differs" in right.texts[0].get_text()


@pytest.mark.parametrize("table", ["stages", "curve"])
def test_what_15_serves_is_what_14_trained(table):
    found = []
    for experiment, variant in ((E14, "ratio_06"), (E15, "scratch")):
        frame = store.committed(experiment.slug)(table)
        own = frame[(frame["variant"] == variant) & (frame["size"] == "full")]
        kept = ["seed", "stage"] + [c for c in own.columns if c.endswith("ppl") or c == "epoch"]
        found.append(own[kept].reset_index(drop=True))
    assert len(found[0]) and set(found[0]["seed"]) == set(range(5))
    pd.testing.assert_frame_equal(*found)


def test_an_epoch_is_compared_where_a_seed_has_both():
    rows = [(0, 1, 100.0), (0, 2, 90.0), (1, 1, 50.0)]
    curve = pd.DataFrame(rows, columns=["seed", "epoch", "val_ppl"])
    results = Results("14", {"curve": curve.assign(variant="v", stage=2, run_id="r")})
    assert claims.epoch_change("v", 2, 1, 2)(results) == pytest.approx([-10.0])
    with pytest.raises(Absent, match="stage 2 of 'v' has no epoch 3"):
        claims.epoch_change("v", 2, 1, 3)(results)


@pytest.mark.parametrize("experiment", (*STAGED, E19), ids=lambda e: e.slug)
def test_every_figure_of_the_committed_results_can_be_read(experiment):
    colours: dict[str, set[str]] = {}
    with plt.rc_context():
        style.use()
        for what, draw in experiment.figures.items():
            figure = draw(store.committed(experiment.slug))
            assert collisions(figure) == [], what
            found = painted(figure)
            if len({colour for _, colour in found}) > 1:  # else it tells nothing apart
                for name, colour in found:
                    colours.setdefault(name, set()).add(colour)
            plt.close(figure)
    assert {name for name, found in colours.items() if len(found) > 1} == set()


def stages_of(values: dict[str, list[float]]) -> Results:
    """Variants with one perplexity a seed, beside a base of 10."""
    frame = pd.DataFrame(
        {"variant": name, "label": name, "seed": seed, "test_ppl": value, "base_ppl": 10.0,
         "base_test_ppl": 10.0, "corpus": "text", "size": "full", "corpus_sha256": "0"}
        for name, own in values.items()
        for seed, value in enumerate(own)
    )  # fmt: skip
    return Results("slug", {"": frame})


def test_a_stage_counts_as_better_where_its_interval_lies_below_the_base():
    results = stages_of({"better": [7.9, 8.0, 8.1], "wide": [2.0, 15.0, 9.0], "once": [5.0]})
    figure = hard_tokens.against_base("test_ppl", told={"once": "one run"})(results)
    (axes,) = figure.axes
    assert figure.get_suptitle().startswith("1 of 3 are better than the base on hard test tokens")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["better", "wide", "one run"]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "|"]
    assert means == pytest.approx([0.8, 26 / 30, 0.5])
    plt.close("all")


def test_stages_that_few_seeds_reach_are_compared_within_these():
    rows = [(seed, 1, 100.0 + seed) for seed in range(5)] + [(0, 3, 50.0)]
    stages = pd.DataFrame(rows, columns=["seed", "stage", "test_ppl"])
    stages = stages.assign(variant="a", run_id="r")
    results = Results("slug", {"": stages, "stages": stages})
    assert list(claims.stage_change("a", 1, 3, "test_ppl")(results)) == [-50.0]
    assert list(claims.stage_difference("a", 3, 1, "test_ppl")(results)) == [-50.0]


def test_amounts_of_text_are_those_of_a_named_size():
    measure = claims.chosen(E13.parameters, lambda p: p.train_windows)
    assert list(measure(stages_of({"a": [1.0]}))) == [678.0]
    own = stages_of({"a": [1.0]})
    own().loc[:, "size"] = "custom"
    with pytest.raises(Absent, match="of the size custom"):
        measure(own)


def test_single_runs_stand_apart_from_steps_with_intervals():
    results = stages_of({"first": [20.0, 22.0], "second": [8.0, 8.2], "other": [9.0]})
    figure = pareto.steps(("first", "second", "other"))(results)
    assert [axes.get_title().split(",")[0] for axes in figure.axes] == [
        "One change after the other",
        "Single changes",
    ]
    assert "from “second” on" in figure.get_suptitle()
    plt.close("all")


def test_stages_are_divided_by_the_base_of_their_own_seed():
    rows = [("a", 0, 0, 10.0), ("a", 0, 1, 20.0), ("a", 1, 0, 5.0), ("a", 1, 1, 10.0)]
    frame = pd.DataFrame(rows, columns=["variant", "seed", "stage", "all_ppl"])
    assert by_stage._over_base(frame, ["all_ppl"])["all_ppl"].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert by_stage._ends(frame, "all_ppl") == {"a": 2}
    assert by_stage._range({"a": 2.0, "b": 106.4, "c": 1.0}) == "1 to 106"
    assert by_stage._range({"a": 2.0}) == "2"


def test_a_line_of_fewer_seeds_than_the_title_says_so():
    main = stages_of({"first": [20.0, 22.0], "other": [9.0]})
    lines = pd.concat([main().assign(stage=stage) for stage in (0, 1)])
    results = Results("slug", {"": main(), "stages": lines})
    (axes,) = by_stage.by_stage({"test_ppl": "all"}, "A title")(results).axes
    names = [line.get_label() for line in axes.lines]
    assert {"other (1 seed): 1", "first: 1"} <= set(names)
    plt.close("all")


def test_a_stage_is_set_against_the_base_on_the_same_tokens():
    rows = [("a", 0, 0, 10.0, 10.0), ("a", 0, 1, 60.0, 20.0)]
    columns = ["variant", "seed", "stage", "test_ppl", "base_ppl"]
    frame = pd.DataFrame(rows, columns=columns).assign(
        label="a", corpus="text", size="full", corpus_sha256="0"
    )
    figure = E14.figures["own"](Results("slug", {"": frame, "stages": frame}))
    assert (
        "\n3 times the base's perplexity on the same tokens after the last stage\n"
        in figure.get_suptitle()
    )
    assert "a: 3" in figure.axes[0].get_legend_handles_labels()[1]
    plt.close("all")


@pytest.mark.parametrize(
    ("experiment", "given"),
    [
        (E14, {"criterion": "input_to_output"}),  # of a stage: the base has none
        (E15, {"criterion": "input_to_output"}),
        (E15, {"criterion": "loss"}),  # a served model sees no label
        (E15, {"arrangement": "full"}),  # nor tokens that did not reach a stage
    ],
)
def test_what_cannot_be_trained_or_served_is_refused_before_training(experiment, given):
    (name,) = given
    with pytest.raises(ParameterError, match=f"parameter '{name}' .*; allowed: .*(single|margin)"):
        experiment.parameters.checked(given)


@pytest.mark.parametrize(
    "change", [{"selection": "random"}, {"arrangement": "full"}, {"criterion": "loss"}]
)
def test_a_cascade_that_no_model_can_serve_is_refused(change):
    cascade = replace(configs(E14)["ratio_06"].cascade, **change)
    for kind in (lambda whole: ServedRun(whole, 1), CascadeSpeed):
        with pytest.raises(ValueError, match="cannot be served"):
            kind(CascadeRun(cascade, 1))
