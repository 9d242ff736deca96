from dataclasses import replace

import pandas as pd
import pytest
import torch

from lib.cascade.cost import cascade_flops
from lib.cascade.evaluation import applied_twice, hard_mask
from lib.cascade.material import instruction_windows, wikitext_windows
from lib.cascade.packing import Packs
from lib.cascade.stage import new_stage, parameter_count
from lib.cascade.stage_run import BaseTwice, StageRun, run, run_base_twice
from lib.cascade.staged_run import StagedRun
from lib.cascade.staged_run import run as run_staged
from lib.cascade.training import StageTraining
from lib.cascade.experiments import e12_two_layer_stage as exp12_two_layer_stage
from lib.base.pretrained import load_base
from lib.text.corpus import CorpusUnavailable

COUNTS = {"train": 16, "valid": 4, "test": 6}


@pytest.fixture
def plan(handle):
    return StageRun(
        handle, StageTraining(4, 2, 1e-3, report_steps=2), natural_windows=2, hard_ratio=0.2
    )


def test_a_stage_that_adds_nothing_is_the_base(handle, plan, tmp_path):
    still = replace(plan, head="shared", start="identity", training=StageTraining(1, 2, 1e-30))
    row = run(still, 0, tmp_path).row
    assert row["test_ppl"] == pytest.approx(row["base_ppl"], rel=1e-5)
    assert row["cascade_all_ppl"] == pytest.approx(row["base_all_ppl"], rel=1e-5)
    assert row["base_source"] == "tiny" and len(row["base_sha256"]) == 64


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"selection": "random"},
        {"selection": "first"},
        {"selection": "loss"},
        {"arrangement": "single"},
        {"arrangement": "full"},
        {"head": "copied"},
        {"layers": 0},
    ],
)
def test_every_variant_runs_and_repeats(plan, change, tmp_path):
    config = replace(plan, **change)
    first, again = (run(config, 1, tmp_path / name) for name in ("a", "b"))
    assert first.row == again.row
    assert first.row["hard_tokens"] == again.row["hard_tokens"] > 0
    assert first.tables["curve"][-1]["step"] == 4


def test_all_selections_are_scored_on_the_same_tokens(plan, tmp_path):
    rows = [
        run(replace(plan, selection=rule), 0, tmp_path).row
        for rule in ("hard", "random", "first", "loss")
    ]
    assert len({row["base_ppl"] for row in rows}) == 1
    assert len({row["train_tokens"] for row in rows}) == 1
    assert len({row["test_ppl"] for row in rows}) == 4


def test_the_base_applied_twice_is_really_that(handle, tmp_path):
    material = handle.open()
    features = material.features["test"]
    index = torch.arange(256).view(2, 128)
    found = applied_twice(material.base, features, [Packs(index, torch.ones(2, 128).bool())])
    with torch.no_grad():
        logits = material.base.model(inputs_embeds=features.final[index]).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), features.labels[:256], reduction="none"
    )
    assert torch.allclose(found["loss"], loss, atol=1e-4)
    row = run_base_twice(BaseTwice(handle, natural_windows=2), 0, tmp_path).row
    assert row["test_ppl"] != row["base_ppl"] and 0 <= row["exit_rate"] <= 1


def test_stages_end_where_no_token_is_left(handle, tmp_path):
    config = StagedRun(
        handle,
        stages=5,
        layers=1,
        hard_ratio=0.05,
        epochs=1,
        batch=8,
        criterion="embedding_to_final",
        arrangement="single",
        learning_rate=1e-3,
    )
    stages = run_staged(config, 0, tmp_path).row["stages"]
    assert 1 <= stages < 5
    with pytest.raises(ValueError, match="too few tokens for a first stage"):
        run_staged(replace(config, hard_ratio=0.0), 0, tmp_path)


def test_the_double_pass_is_not_among_the_trained_rows():
    frame = pd.DataFrame({"variant": [exp12_two_layer_stage.TWICE, exp12_two_layer_stage.SEED]})
    assert exp12_two_layer_stage.trained(frame)["variant"].tolist() == [exp12_two_layer_stage.SEED]


@pytest.mark.parametrize("arrangement", ["single", "packed"])
def test_stages_and_the_served_model_agree(handle, arrangement, tmp_path):
    config = StagedRun(
        handle,
        stages=2,
        layers=1,
        hard_ratio=0.6,
        epochs=1,
        batch=8,
        criterion="embedding_to_final",
        arrangement=arrangement,
        learning_rate=1e-3,
        served_windows=6,
        speed=True,
    )
    outcome = run_staged(config, 0, tmp_path)
    stages, served = outcome.tables["stages"], outcome.tables["served"]
    assert [line["stage"] for line in stages] == [0, 1, 2] == [line["stage"] for line in served]
    assert stages[0]["all_ppl"] == pytest.approx(outcome.row["base_all_ppl"])
    assert stages[-1]["all_ppl"] == pytest.approx(outcome.row["test_ppl"])
    assert served[0]["all_ppl"] == pytest.approx(stages[0]["all_ppl"], rel=1e-4)
    for line, live in zip(stages[1:2], served[1:2], strict=True):
        assert 1 - live["exit_0"] == pytest.approx(line["reached"], abs=2e-3)
    if arrangement == "single":  # the same tokens see the same context in both
        assert served[2]["all_ppl"] == pytest.approx(stages[2]["all_ppl"], rel=1e-3)
    assert outcome.row["base_generate_seconds"] > 0
    again = run_staged(replace(config, speed=False), 0, tmp_path)
    assert again.tables["stages"] == stages


def test_the_threshold_comes_from_train_alone(handle):
    parts = handle.open().features
    from lib.cascade.difficulty import threshold_for

    values = parts["train"].scalars["last_layer"]
    threshold = threshold_for(values, 0.1, "last_layer")
    assert hard_mask(parts["train"], "last_layer", threshold).sum() == round(0.1 * len(values))
    assert parts["test"].scalars["last_layer"].quantile(0.1).item() != threshold


def test_flops_of_the_seeds_models():
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


def test_material_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("DEPTH_DATA", raising=False)
    base = load_base("tiny")
    with pytest.raises(CorpusUnavailable, match="wikitext-2/test.txt"):
        wikitext_windows(base, 4)
    with pytest.raises(ValueError, match="were asked for"):
        instruction_windows(base, "stream", {"train": 9999, "valid": 1, "test": 1}, "embedded")
    with pytest.raises(ValueError, match="allowed"):
        instruction_windows(base, "rows", COUNTS, "embedded")
