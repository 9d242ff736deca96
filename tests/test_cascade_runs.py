"""One stage and whole cascades as runs: what they measure, how they go on after a kill."""

from dataclasses import replace

import pytest
import torch

from lib.base.pretrained import load_base
from lib.cascade import cascade_stage
from lib.cascade.base_twice_run import BaseTwice, run_base_twice
from lib.cascade.cascade_run import (
    CascadeRun,
    CascadeSpeed,
    ServedRun,
    run_cascade,
    run_served,
    run_speed,
)
from lib.cascade.cascade_stage import Cascade, CascadeStage, TooFewTokens, run_cascade_stage
from lib.cascade.cost import cascade_flops
from lib.cascade.dataset import TokenDataset, instruction_windows, wikitext_windows
from lib.cascade.difficulty import threshold_for
from lib.cascade.evaluation import applied_twice, score_deferred
from lib.cascade.packing import Packs
from lib.cascade.single_token import BlockAdamW
from lib.cascade.stage import new_stage, parameter_count
from lib.cascade.stage_run import StageRun, chosen_packs, run_stage
from lib.runs.task import Place
from lib.runs.tensors import load_tensors
from lib.text.corpus import CorpusUnavailable
from lib.training.loop import Training

COUNTS = {"train": 16, "valid": 4, "test": 6}
TRAINING = Training(
    epochs=4,
    max_updates=4,
    validations=2,
    patience=0,
    batch_size=2,
    learning_rate=1e-3,
    weight_decay=0.0,
    clip=0.0,
)
CLOCKS = ("seconds", "commit", "code_hash", "torch", "device", "epoch_seconds")


@pytest.fixture
def plan(dataset):
    return StageRun(dataset, TRAINING, natural_windows=2, hard_ratio=0.2)


@pytest.fixture
def cascade(dataset):
    training = Training(
        epochs=2, patience=1, batch_size=32, learning_rate=1e-2, weight_decay=0.01, clip=0.0
    )
    return Cascade(dataset, training, 1, 0.6, "embedding_to_final", "single")


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return Place(folder)


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]


def test_a_stage_that_adds_nothing_is_the_base(plan, place):
    still = replace(
        plan,
        head="shared",
        start="identity",
        training=replace(TRAINING, learning_rate=1e-30),
    )
    row = run_stage(still, 0, place).row
    for metric in ("ppl", "inner_ppl", "all_ppl", "all_inner_ppl"):
        ours = {"ppl": "test_ppl"}.get(metric, metric.replace("all", "cascade_all"))
        assert row[ours] == pytest.approx(row[f"base_{metric}"], rel=1e-5), metric
    assert row["base_source"] == "tiny" and len(row["base_sha256"]) == 64


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"selection": "random"},
        {"selection": "first"},
        {"selection": "loss"},
        {"without_ends": True},
        {"arrangement": "single"},
        {"arrangement": "full"},
        {"head": "copied"},
        {"layers": 0},
    ],
)
def test_every_variant_runs_and_repeats(plan, change, tmp_path):
    config = replace(plan, **change)
    rows = []
    for name in "ab":
        (tmp_path / name).mkdir()
        outcome = run_stage(config, 1, Place(tmp_path / name))
        rows.append(outcome.row)
        assert outcome.tables["curve"][-1]["updates"] == 4
    assert rows[0] == rows[1] and rows[0]["hard_tokens"] > 0
    assert rows[0]["val_ppl"] <= rows[0]["last_val_ppl"], "the best of two is kept"


def test_all_selections_have_as_many_tokens_and_are_scored_on_the_same(plan, tmp_path):
    rows = []
    for rule in ("hard", "random", "first", "loss"):
        (tmp_path / rule).mkdir()
        rows.append(run_stage(replace(plan, selection=rule), 0, Place(tmp_path / rule)).row)
    assert len({row["base_ppl"] for row in rows}) == 1
    assert len({row["train_tokens"] for row in rows}) == 1
    assert len({row["test_ppl"] for row in rows}) == 4


def test_without_ends_no_end_of_a_record_is_trained_on(plan):
    data = plan.dataset.open()
    ids, eos = data.features("train").ids, data.base.tokenizer.eos_token_id
    own = replace(plan, arrangement="single", selection="loss")
    with_ends, without = (chosen_packs(c, data, 0) for c in (own, replace(own, without_ends=True)))
    assert (ids[with_ends.index] == eos).any()
    assert not (ids[without.index] == eos).any()
    assert len(without) == len(with_ends), "others take their places"


def test_the_base_applied_twice_is_really_that(dataset, place):
    data = dataset.open()
    features = data.features("test")
    index = torch.arange(256).view(2, 128)
    found = applied_twice(data.base, features, [Packs.whole(index)])
    with torch.no_grad():
        logits = data.base.model(inputs_embeds=features.final[index]).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), features.labels[:256], reduction="none"
    )
    assert torch.allclose(found["loss"], loss, atol=1e-4)
    row = run_base_twice(BaseTwice(dataset, natural_windows=2), 0, place).row
    assert row["test_ppl"] != row["base_ppl"] and 0 <= row["exit_rate"] <= 1


def test_stages_end_where_no_token_is_left(cascade, place):
    few = replace(cascade, hard_ratio=0.05)
    stages = run_cascade(CascadeRun(few, 5), 0, place).row["stages"]
    assert 1 <= stages < 5
    with pytest.raises(TooFewTokens, match="too few tokens for stage 1"):
        run_cascade(CascadeRun(replace(cascade, hard_ratio=0.0), 5), 0, place)


@pytest.mark.parametrize("arrangement", ["single", "packed"])
def test_stages_and_the_served_model_agree(cascade, arrangement, place):
    own = replace(
        cascade, arrangement=arrangement, training=replace(cascade.training, batch_size=8, epochs=1)
    )
    config = CascadeRun(own, 2)
    outcome = run_served(ServedRun(config, 6), 0, place)
    stages, served = outcome.tables["stages"], outcome.tables["served"]
    assert [line["stage"] for line in stages] == [0, 1, 2] == [line["stage"] for line in served]
    assert stages[0]["all_ppl"] == pytest.approx(outcome.row["base_all_ppl"])
    assert stages[-1]["all_ppl"] == pytest.approx(outcome.row["test_ppl"])
    assert served[0]["all_ppl"] == pytest.approx(stages[0]["all_ppl"], rel=1e-4)
    for line, live in zip(stages[1:2], served[1:2], strict=True):
        assert 1 - live["exit_0"] == pytest.approx(line["reached"], abs=2e-3)
    if arrangement == "single":  # the same tokens see the same context in both
        assert served[2]["all_ppl"] == pytest.approx(stages[2]["all_ppl"], rel=1e-3)
    speed = run_speed(CascadeSpeed(config, (1, 2), 3, 1), 0, place).tables["speed"]
    assert [(line["batch"], line["work"]) for line in speed] == [
        (batch, work) for batch in (1, 2) for work in ("prefill", "generation")
    ]
    assert all(line["base_seconds"] > 0 < line["relative_time"] for line in speed)


@pytest.mark.parametrize("change", [{"selection": "random"}, {"arrangement": "full"}])
def test_random_and_full_context_cascades_run(cascade, change, place):
    own = replace(cascade, head="shared", start="identity", **change)
    outcome = run_cascade(CascadeRun(own, 2), 0, place)
    lines = outcome.tables["stages"]
    assert lines[1]["reached"] == pytest.approx(0.6, abs=0.2) and len(lines) == 3
    assert lines[1]["base_ppl"] != lines[1]["test_ppl"]
    if "selection" in change:
        assert lines[1]["reached"] == pytest.approx(0.6, abs=0.01)
        assert lines[1]["threshold"] is None


def test_held_out_tokens_go_on_at_the_very_ratio_or_as_they_are_served(cascade, place):
    outcome = run_cascade(CascadeRun(cascade, 2), 0, place)
    lines = outcome.tables["stages"]
    counts = [line["test_hard"] for line in lines]
    assert counts == [counts[0], round(0.6 * counts[0]), round(0.6 * round(0.6 * counts[0]))]
    assert [line["train_hard"] / lines[0]["train_hard"] for line in lines] == pytest.approx(
        [1, 0.6, 0.36], abs=2e-3
    )
    there = place.need(run_cascade_stage, CascadeStage(cascade, 2), 0, cascade_stage.STAGE)
    _, held, _ = cascade_stage.load_stage(cascade, cascade.dataset.open(), there)
    for part in ("valid", "test"):
        assert held[part].keys() == held[f"{part}_served"].keys()
    assert lines[2]["reached"] * counts[0] == pytest.approx(len(held["test_served"]["position"]))
    assert lines[2]["reached"] != counts[2] / counts[0]
    assert lines[2]["equal_all_ppl"] != lines[2]["all_ppl"]
    assert lines[0]["equal_all_ppl"] == lines[0]["all_ppl"] == outcome.row["base_all_ppl"]


def test_random_tokens_are_served_as_they_are_scored(cascade, place):
    own = replace(cascade, selection="random")
    for line in run_cascade(CascadeRun(own, 2), 0, place).tables["stages"]:
        assert line["equal_all_ppl"] == pytest.approx(line["all_ppl"], rel=1e-6)


def test_a_zero_initialised_cascade_that_learns_nothing_is_the_base(cascade, place):
    still = replace(
        cascade,
        head="shared",
        start="identity",
        training=replace(cascade.training, learning_rate=1e-30, weight_decay=0.0),
    )
    for arrangement in ("single", "full"):
        own = replace(still, arrangement=arrangement)
        outcome = run_cascade(CascadeRun(own, 2), 0, place)
        for line in outcome.tables["stages"]:
            assert line["test_ppl"] == pytest.approx(line["base_ppl"], rel=1e-5)
            assert line["all_ppl"] == pytest.approx(outcome.row["base_all_ppl"], rel=1e-5)


def test_no_stage_follows_one_that_kept_its_start(cascade, place):
    training = replace(cascade.training, weight_decay=0.0, validate_first=True)
    goes = replace(cascade, head="shared", start="identity", weights="best", training=training)
    for rate, stages in ((1e-30, 1), (1e-2, 3)):
        on = replace(goes, training=replace(training, learning_rate=rate))
        whole = run_cascade(CascadeRun(on, 3), 0, place)
        config = CascadeRun(replace(on, ends_untrained=True), 3)
        ended = run_served(ServedRun(config, 2), 0, place)
        lines = ended.tables["stages"]
        assert ended.row["stages"] == stages == len(lines) - 1 == len(ended.tables["served"]) - 1
        assert timeless(lines) == timeless(whole.tables["stages"][: stages + 1])
        assert all((line["best_epoch"] > 0) == (rate > 1e-3) for line in lines[1:])
    chosen = [line["train_hard"] for line in whole.tables["stages"]]
    assert [n / chosen[0] for n in chosen] == pytest.approx([1, 0.6, 0.36, 0.216], abs=2e-3)
    with pytest.raises(ValueError, match="weights 'last', which were trained; allowed: best"):
        replace(cascade, ends_untrained=True)


def test_best_and_last_weights_are_both_scored(cascade, place):
    hot = replace(cascade.training, learning_rate=0.1, epochs=6, patience=6)
    rows = {}
    for weights in ("last", "best"):
        own = replace(cascade, training=hot, weights=weights, train_tokens=40)
        rows[weights] = run_cascade(CascadeRun(own, 1), 0, place).tables["stages"][1]
    last, best = rows["last"], rows["best"]
    assert last["best_epoch"] < 6 == last["epochs"]
    assert last["best_val_ppl"] == best["best_val_ppl"] == best["val_ppl"] < last["val_ppl"]
    assert best["best_all_ppl"] == best["all_ppl"]


class Killed(Exception):
    """Stands for the end of a process."""


def test_a_cascade_killed_inside_stage_three_goes_on_inside_it(cascade, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.training.loop.CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr("lib.training.loop.CHECKPOINT_SHARE", 1e9)
    few = replace(cascade, training=replace(cascade.training, batch_size=128, epochs=1))
    config = CascadeRun(few, 3)
    for name in ("whole", "cut"):
        (tmp_path / name / "run").mkdir(parents=True)
    whole = run_cascade(config, 0, Place(tmp_path / "whole" / "run"))
    updates = [line["updates"] for line in whole.tables["stages"][1:]]
    real, steps = BlockAdamW.step, []

    def dying(self, closure=None):
        if len(steps) == sum(updates[:2]) + 2:
            raise Killed
        steps.append(1)
        return real(self, closure)

    with monkeypatch.context() as patch:
        patch.setattr(BlockAdamW, "step", dying)
        with pytest.raises(Killed):
            run_cascade(config, 0, Place(tmp_path / "cut" / "run"))
    counted = []
    monkeypatch.setattr(
        BlockAdamW, "step", lambda self, closure=None: counted.append(1) or real(self, closure)
    )
    again = run_cascade(config, 0, Place(tmp_path / "cut" / "run"))
    assert len(counted) == updates[2] - 2, "nothing that was done is done again"
    assert timeless(again.tables["stages"]) == timeless(whole.tables["stages"])
    assert timeless(again.tables["curve"]) == timeless(whole.tables["curve"])
    assert again.row == whole.row


def left_by(config: CascadeRun, folder) -> tuple[list, list]:
    """The records of a cascade and of its stages without times, and the tensors of the stages."""
    (folder / "run").mkdir(parents=True)
    place = Place(folder / "run")
    whole = run_cascade(config, 0, place)
    stages = [CascadeStage(config.cascade, number) for number in range(1, config.stages + 1)]
    places = [place.need(run_cascade_stage, stage, 0) for stage in stages]
    records = [timeless([whole.row]), *map(timeless, whole.tables.values())]
    for there in places:
        record = there.record()
        records += [timeless([record["row"]]), *map(timeless, record["tables"].values())]
    return records, [load_tensors(there.folder / cascade_stage.STAGE) for there in places]


@pytest.mark.parametrize("selection", ["hard", "random"])
def test_a_process_goes_on_from_what_it_holds_as_from_files(
    cascade, selection, tmp_path, monkeypatch
):
    config = CascadeRun(replace(cascade, selection=selection), 3)
    with monkeypatch.context() as patch:
        patch.setattr(cascade_stage, "load_stage", None)  # no stage is read again
        records, tensors = left_by(config, tmp_path / "held")
    assert len(cascade_stage._LEFT) == 1, "of one stage alone"
    real, starts = cascade_stage.reached_before, []

    def restarted(*given):
        starts.append(len(cascade_stage._LEFT))
        cascade_stage._LEFT.clear()
        return real(*given)

    monkeypatch.setattr(cascade_stage, "reached_before", restarted)
    others, files = left_by(config, tmp_path / "read")
    assert sum(starts) == 3, "each stage was held, and forgotten here"
    assert records == others
    for (own, about), (other, said) in zip(tensors, files, strict=True):
        assert about == said and own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)


def test_what_is_held_is_of_that_very_run(cascade, tmp_path):
    config = CascadeRun(cascade, 2)
    alone, _ = left_by(config, tmp_path / "alone")
    for number, seed in ((1, 0), (1, 1), (2, 0)):  # another seed's stage between the two
        stage, folder = CascadeStage(cascade, number), tmp_path / "mixed" / "run"
        Place(folder).need(run_cascade_stage, stage, seed)
    mixed, _ = left_by(config, tmp_path / "mixed")
    assert mixed == alone


@pytest.mark.parametrize(
    ("weights", "selection", "passes"),
    [("last", "hard", 7), ("best", "hard", 4), ("last", "random", 4), ("best", "random", 2)],
)
def test_no_way_is_scored_twice_by_the_same_weights(
    cascade, weights, selection, passes, place, monkeypatch
):
    counted, real = [], cascade_stage.stage_scores
    monkeypatch.setattr(
        cascade_stage, "stage_scores", lambda *given: counted.append(1) or real(*given)
    )
    own = replace(cascade, weights=weights, selection=selection)
    outcome = run_cascade_stage(CascadeStage(own, 1), 0, place)
    assert len(counted) == len(outcome.tables["curve"]) + passes
    _, held, _ = cascade_stage.load_stage(own, own.dataset.open(), place)
    assert selection == "hard" or all(
        torch.equal(value, held[f"{part}_served"][name])
        for part in ("valid", "test")
        for name, value in held[part].items()
    )


def test_more_stages_use_those_that_are_there(cascade, place, monkeypatch):
    two = run_cascade(CascadeRun(cascade, 2), 0, place)
    monkeypatch.setattr(cascade_stage, "train", None)  # nothing may be trained
    assert (
        run_cascade(CascadeRun(cascade, 1), 0, place).tables["stages"] == (two.tables["stages"][:2])
    )
    there = place.need(run_cascade_stage, CascadeStage(cascade, 2), 0, cascade_stage.STAGE)
    _, held, _ = cascade_stage.load_stage(cascade, cascade.dataset.open(), there)
    assert len(held["test"]["position"]) == two.tables["stages"][2]["test_hard"]


def test_the_threshold_comes_from_train_alone(plan, tmp_path):
    values = plan.dataset.open().features("train").scalars[plan.criterion]
    row = run_stage(plan, 0, Place(tmp_path)).row
    assert row["threshold"] == threshold_for(values, plan.hard_ratio, plan.criterion)


def test_where_every_token_is_deferred_the_cascade_is_its_stage(dataset):
    features = dataset.open().features("test")
    stage = new_stage(load_base("tiny").model.config, 1, std=0.5, seed=3)
    every = torch.ones(features.tokens, dtype=torch.bool)
    found = score_deferred(stage, features, every, "single", 2, None)
    assert found["cascade_all_accuracy"] == pytest.approx(found["accuracy"])
    assert found["cascade_all_accuracy"] != found["base_all_accuracy"]


def test_flops_of_the_reports_models():
    base = load_base("tiny")
    stage = new_stage(base.model.config, 2)
    alone, same = cascade_flops(base.model, [], [], [])
    assert alone == same
    norms = sum(p.numel() for p in base.model.parameters() if p.ndim == 1)
    assert alone == 2 * (base.parameters - norms)  # the tied matrix once, as the head
    some = cascade_flops(base.model, [stage], [0.1], ["last_layer"])[1]
    layers = sum(p.numel() for layer in stage.layers for p in layer.parameters() if p.ndim == 2)
    assert some == pytest.approx(alone + 0.1 * 2 * layers)
    head = base.model.lm_head.weight.numel()
    asking = cascade_flops(base.model, [stage], [0.1], ["entropy"])[1]
    assert asking == pytest.approx(some + 0.1 * 2 * head)  # its logits were needed to choose
    assert parameter_count(stage) > layers


def test_a_dataset_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("DEPTH_DATA", raising=False)
    base = load_base("tiny")
    with pytest.raises(CorpusUnavailable, match="wikitext-2/test.txt"):
        wikitext_windows(base, 4)
    with pytest.raises(ValueError, match="were asked for"):
        instruction_windows(base, "stream", {"train": 9999, "valid": 1, "test": 1}, "embedded")
    with pytest.raises(ValueError, match="allowed"):
        instruction_windows(base, "rows", COUNTS, "embedded")


def test_a_run_keeps_the_base_on_its_own_device(plan, tmp_path, monkeypatch):
    opened, real = [], TokenDataset.open
    monkeypatch.setattr(
        TokenDataset, "open", lambda self, device=None: opened.append(device) or real(self)
    )
    run_stage(plan, 0, Place(tmp_path, torch.device("cpu:0")))
    assert set(opened) == {torch.device("cpu:0")}
