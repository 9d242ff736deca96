import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from transformers import DynamicCache

from lib.cascade.adaptation_text import TextPlan, text_parts
from lib.cascade.all_tokens import RULES, rule_mask, template_mask
from lib.cascade.baseline_run import BaselineRun, run_baseline
from lib.cascade.baselines import Tail, states_under, trained_weights
from lib.cascade.cost import matrix_weights, relative_flops
from lib.cascade.dataset import WIKITEXT
from lib.cascade.evaluation import perplexity
from lib.cascade.experiments import e19_cascade_that_works as e19
from lib.cascade.experiments.e19_cascade_that_works import E19, Exp19
from lib.cascade.features import TokenFeatures
from lib.cascade.gate import fit_gate
from lib.cascade.query_stage import Keys, query_stage, stream_scale
from lib.cascade.routed import RoutedConfig, RoutedForCausalLM
from lib.cascade.routed_stage_run import RoutedStageRun, run_routed_stage
from lib.cascade.routes import cut
from lib.cascade.speed_run import SpeedRun, run_route_speed
from lib.results.store import Absent
from lib.runs.task import Place
from lib.training.loop import Training

COUNTS = {"train": 12, "valid": 4, "test": 6}
PLAN = TextPlan(train=12, valid=4, look=2, scored=4)
TRAINING = Training(
    epochs=1,
    patience=0,
    batch_size=2,
    learning_rate=1e-2,
    weight_decay=0.0,
    schedule="linear",
    validations=2,
    validate_first=True,
)


@pytest.fixture
def plan(dataset):
    return RoutedStageRun(dataset, PLAN, TRAINING, layers=2)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def trained_stage(base):
    """A stage whose output projections are not zero."""
    stage = query_stage(base.model, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in stage.layers:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                module.weight.normal_(0, 0.2, generator=generator)
    return stage.eval()


def test_an_untrained_stage_is_the_base_bit_for_bit(base, dataset):
    scale = stream_scale(base.model, torch.arange(20)[None])
    stage = query_stage(base.model, 3, scale)
    final = dataset.open().features("test").final.view(-1, 128, 32)
    assert torch.equal(stage(final), final.flatten(0, 1))
    wanted = torch.rand(final.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.3
    assert torch.equal(stage(final, wanted), final[wanted])
    assert scale > 0 and stage.scale == pytest.approx(scale)


def test_an_answer_does_not_depend_on_who_else_is_routed(trained_stage):
    final = torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(2))
    everything = trained_stage(final).view(3, 20, 32)
    wanted = torch.rand(3, 20, generator=torch.Generator().manual_seed(3)) < 0.4
    wanted[1] = False  # a row without any
    assert torch.allclose(trained_stage(final, wanted), everything[wanted], atol=1e-5)
    assert not torch.allclose(everything, final, atol=1e-2)
    assert trained_stage(final, torch.zeros(3, 20).bool()).shape == (0, 32)


def test_a_stage_sees_the_past_and_nothing_else(trained_stage):
    final = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(4))
    other = final.clone()
    other[0, 7:] += 1
    one, two = trained_stage(final), trained_stage(other)
    assert torch.equal(one[:7], two[:7]) and not torch.allclose(one[7:], two[7:])
    earlier = final.clone()
    earlier[0, 0] += 1
    assert not torch.allclose(trained_stage(earlier)[11], one[11])


def test_a_cache_gives_the_same_states(trained_stage):
    final = torch.randn(2, 10, 32, generator=torch.Generator().manual_seed(5))
    whole = trained_stage(final).view(2, 10, 32)
    cache = DynamicCache()
    first = trained_stage(final[:, :6], keys=Keys(cache, 0, 0))
    rest = trained_stage(final[:, 6:], keys=Keys(cache, 0, 6))
    assert torch.allclose(first.view(2, 6, 32), whole[:, :6], atol=1e-5)
    assert torch.allclose(rest.view(2, 4, 32), whole[:, 6:], atol=1e-5)


def test_a_loss_that_is_no_number_is_never_a_perplexity():
    for broken in (math.nan, math.inf):
        with pytest.raises(FloatingPointError, match="mean loss of 2"):
            perplexity(torch.tensor([1.0, broken]))
    assert perplexity(torch.tensor([])) is None


def test_packed_stages_cannot_learn_from_tokens_that_they_do_not_hold():
    for more in ({"trained": "all"}, {"trained": "weighted"}, {"rates": (0.5,)}):
        with pytest.raises(ValueError, match="routed tokens only"):
            RoutedStageRun(None, None, None, context="packed", **more)


def test_stage_refusals(base):
    with pytest.raises(ValueError, match="never below"):
        RoutedConfig(base.model.config.to_dict(), 1, "confidence", -0.8)
    with pytest.raises(ValueError, match="cannot be copied from 4"):
        query_stage(base.model, 5)
    with pytest.raises(ValueError, match="1 or more"):
        RoutedForCausalLM(RoutedConfig(base.model.config.to_dict(), 0))


def test_a_gate_finds_confident_mistakes():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 8, generator=generator)
    gain = 3 * states[:, 2] + 1
    gate = fit_gate(states, gain, 1e-3)
    assert torch.allclose(gate(states), gain, atol=1e-2)
    assert fit_gate(states, gain, 1e9).weight.abs().max() < 1e-4
    with pytest.raises(ValueError, match="not positive"):
        fit_gate(states, gain, 0.0)


def test_thresholds_route_the_asked_share():
    values = torch.arange(100.0)
    for rate in (0.0, 0.01, 0.25, 1.0):
        assert (values > cut(values, rate)).float().mean() == pytest.approx(rate)


def test_template_tokens_are_the_section_titles(dataset):
    data = dataset.open()
    features = data.features("test")
    mask = template_mask(features, data.base.tokenizer)
    titles = data.base.tokenizer.decode(features.labels[mask].tolist())
    assert 0 < mask.float().mean() < 0.5 and titles.count("###") > 3
    assert "###" not in data.base.tokenizer.decode(features.labels[~mask].tolist())
    # a title that the last tokens begin does not reach round to the first
    marker = data.base.tokenizer("###", add_special_tokens=False).input_ids
    plain = features.labels[~mask][:20]
    ends = replace(
        features,
        labels=torch.cat([plain, torch.tensor(marker)]),
        final=features.final[: 20 + len(marker)],
    )
    found = template_mask(ends, data.base.tokenizer)
    assert not found[:20].any() and found[20:].all()


def test_flops_count_what_a_routed_token_costs(base):
    stage = query_stage(base.model, 2)
    alone = matrix_weights(base.model.model.layers) + base.model.lm_head.weight.numel()
    every = relative_flops(base.model, stage, 1.0, "everything")
    assert every == pytest.approx(1 + matrix_weights(stage.layers) / alone)
    keys = 2 * 2 * 32 * 16 / alone  # two layers, keys and values, 32 -> 16
    none = relative_flops(base.model, stage, 0.0, "everything")
    assert none == pytest.approx(1 + keys)
    assert relative_flops(base.model, stage, 0.0, "random", "packed") == 1
    head = base.model.lm_head.weight.numel() / alone
    assert relative_flops(base.model, stage, 1.0, "entropy") == pytest.approx(every + head)
    with pytest.raises(ValueError, match="between 0 and 1"):
        relative_flops(base.model, stage, 1.5, "gate")


def test_tail_is_the_upper_part_of_the_base(base, dataset):
    windows = dataset.open().windows["valid"]
    states = states_under(base, windows, 3)
    final = dataset.open().features("valid").final
    assert torch.allclose(Tail(base, 3)(states).flatten(0, 1), final, atol=1e-5)
    assert torch.equal(states, states_under(base, windows, 3))
    tuned = Tail(base, 3).tune(2)
    low = Tail(base, 3).low_rank(trained_weights(tuned), 3, seed=0)
    assert torch.equal(low(states), Tail(base, 3)(states))  # B = 0: starts at the base
    assert trained_weights(low) == pytest.approx(trained_weights(tuned), rel=0.1)
    assert not any(p.requires_grad for p in base.model.parameters())
    with pytest.raises(ValueError, match="no part"):
        states_under(base, windows, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"start": "report", "context": "packed", "rule": "last_two_layers"},
        {"start": "report-shared-head", "context": "packed"},
        {"start": "residual", "context": "packed", "own_positions": False},
        {"context": "packed"},
        {"rule": "random", "trained": "random"},
        {"trained": "loss"},
        {"trained": "all"},
        {"trained": "weighted"},
    ],
)
def test_every_condition_trains_and_repeats(plan, change, tmp_path):
    config = replace(plan, **change)
    for name in "ab":
        (tmp_path / name).mkdir()
    first, again = (run_routed_stage(config, 1, Place(tmp_path / name)) for name in "ab")
    assert first.row == again.row
    assert first.row["base_test_ppl"] != first.row["test_ppl"]
    if config.start in ("residual", "copied"):
        assert first.row["start_val_ppl"] == pytest.approx(
            perplexity(_look(config).scalars["loss"]), rel=1e-5
        )
    assert 0 < first.row["rate"] < 1 and first.row["flops"] > 1


def test_what_a_stage_is_trained_on_and_where_it_stands_change_it(plan, tmp_path):
    changes = [{"trained": t} for t in ("routed", "random", "loss", "all", "weighted")]
    packed = {"context": "packed"}
    changes += [packed, {**packed, "own_positions": False}]
    found = set()
    for number, change in enumerate(changes):
        (tmp_path / str(number)).mkdir()
        config = replace(plan, layers=1, **change)
        found.add(run_routed_stage(config, 1, Place(tmp_path / str(number))).row["test_ppl"])
    assert len(found) == len(changes)


def test_the_threshold_of_a_rule_is_that_of_the_training_text():
    ids = torch.zeros(100, dtype=torch.long)

    def text(low: float) -> TokenFeatures:
        entropy = low + torch.arange(100.0)
        return TokenFeatures(torch.zeros(100, 1), {"entropy": entropy}, ids, ids, 100)

    # half of entropies 0 to 99 lie above 49.5; of 30 to 129 eight tenths do
    assert rule_mask(text(30), "entropy", 0.5, text(0), 0).sum() == 80


def _look(config: RoutedStageRun) -> TokenFeatures:
    return config.dataset.open().features("valid").windows(0, config.text.look)


def test_conditions_that_cannot_be_are_refused(plan):
    with pytest.raises(ValueError, match="needs start 'copied'"):
        replace(plan, start="report")
    with pytest.raises(ValueError, match="allowed"):
        rule_mask(_look(plan), "loss", 0.1, _look(plan), 0)


def test_routes_agree_with_the_run_they_come_from(plan, place):
    config = replace(plan, rule="everything", trained="all", rates=(0.0, 0.3, 1.0))
    outcome = run_routed_stage(config, 0, place)
    lines = outcome.tables["routes"]
    assert {line["rule"] for line in lines} == set(RULES)
    for line in lines:
        if line["wanted_rate"] == 1:
            assert line["test_ppl"] == pytest.approx(outcome.row["test_ppl"])
        if line["wanted_rate"] == 0:
            assert line["test_ppl"] == pytest.approx(outcome.row["base_test_ppl"])
            assert line["test_chance_ppl"] == pytest.approx(line["test_ppl"])
    at = {line["rule"]: line for line in lines if line["wanted_rate"] == 0.3}
    assert at["oracle"]["val_ppl"] == min(line["val_ppl"] for line in at.values())


@pytest.mark.parametrize("kind", ["tuned", "low-rank", "none"])
def test_baselines_run_and_repeat(dataset, kind, tmp_path):
    config = BaselineRun(dataset, PLAN, TRAINING, kind, 2, 2, 3)
    rows = []
    for name in "ab":
        (tmp_path / name).mkdir()
        rows.append(run_baseline(config, 0, Place(tmp_path / name)).row)
    assert rows[0]["flops"] == 1 and rows[0] == rows[1]
    assert (rows[0]["test_ppl"] == rows[0]["base_test_ppl"]) == (kind == "none")


def test_the_finished_model_serves_and_loads(dataset, plan, place, tmp_path):
    every = replace(plan, rule="everything", trained="all", rates=(0.5, 1.0))
    run_routed_stage(every, 0, place)
    base = dataset.open().base
    ids = dataset.open().windows["test"].inputs[:2, :24]
    alone = base.model(ids).logits
    model = RoutedForCausalLM.assemble(base, tmp_path, "gate", float("inf"))
    assert torch.equal(model(ids).logits, alone)  # nothing routed: the base, bit for bit
    model.config.threshold = float("-inf")
    assert (model(ids).answered_by == 1).all()
    model.config.threshold = model.gate(base.model.model(ids).last_hidden_state).median().item()
    out = model(ids)
    stays = out.answered_by == 0
    assert 0 < stays.float().mean() < 1
    assert torch.allclose(out.logits[stays], alone[stays], atol=1e-5)
    assert not torch.allclose(out.logits[~stays], alone[~stays], atol=1e-3)
    model.save_pretrained(tmp_path / "model")
    loaded = RoutedForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(loaded(ids).logits, out.logits)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    cached = loaded.generate(ids, **settings)
    assert torch.equal(cached, loaded.generate(ids, use_cache=False, **settings))
    assert loaded.generate(ids, num_beams=2, **settings).shape == cached.shape
    padded = torch.cat([torch.full((2, 3), 2), ids], dim=1)
    mask = torch.cat([torch.zeros(2, 3).long(), torch.ones_like(ids)], dim=1)
    left = loaded(padded, attention_mask=mask)
    assert torch.allclose(left.logits[:, 3:], out.logits, atol=1e-4)
    assert (left.answered_by[:, :3] == -1).all()
    for rule in ("entropy", "confidence"):
        model.config.rule, model.config.threshold = rule, 0.5
        assert model(ids).logits.isfinite().all()
    with pytest.raises(ValueError, match="allowed"):
        RoutedConfig(rule="loss")
    with pytest.raises(ValueError, match="left no joint_gate"):
        RoutedForCausalLM.assemble(base, tmp_path, "joint_gate", 0.0)


def test_the_clock_counts_every_rate(dataset, place):
    outcome = run_route_speed(SpeedRun(dataset, 2, (0.0, 0.5, 1.0), 2, 1), 0, place)
    clock = outcome.tables["clock"]
    assert [line["rate"] for line in clock] == [0.0, 0.5, 1.0]
    assert clock[0]["flops"] == 1 and all(line["milliseconds"] > 0 for line in clock)


def test_each_step_of_the_ablations_changes_one_thing(dataset):
    parameters = Exp19(wikitext_windows=0)
    steps = [E19.variants[name].config(parameters, dataset) for name in e19.CUMULATIVE]
    for before, after in zip(steps, steps[1:], strict=False):
        assert sum(vars(before)[name] != vars(after)[name] for name in vars(before)) == 1
    routed = steps[-1]
    for name in e19.ABLATIONS:
        own = E19.variants[name].config(parameters, dataset)
        assert sum(vars(own)[key] != vars(routed)[key] for key in vars(routed)) == 1, name


def test_parameters_leave_rows_out(dataset):
    def ids(**changes):
        parameters = Exp19.at("tiny").changed(**changes)
        return {task.labels["variant"] for task in E19.tasks(parameters, [dataset])}

    everything = ids()
    assert "all_4" in everything and not any(name.endswith("_reversed") for name in everything)
    assert "all_4" not in ids(depths="1,2", all_learning_rates="0.001,0.001")
    assert not any(name.startswith("study_") for name in ids(study_windows=0))
    few = ids(conditions="decisive", study_windows=0)
    assert few == {"base", "routed", "random", "all_1", "all_2", "all_4", "tuned", "low_rank"}


def test_the_two_directions_share_held_out_text_and_no_training_text(dataset):
    data = dataset.open()
    more = dict(zip(WIKITEXT, ("test", "train", "valid"), strict=True))
    both = replace(
        data,
        windows=data.windows | {name: data.windows[own] for name, own in more.items()},
        held={name: data.features(own) for name, own in more.items()},
    )
    plan = TextPlan(train=4, valid=4, look=2, scored=4)
    forward, back = (
        text_parts(both, replace(plan, learnt_from=source))
        for source in ("instructions", "wikitext")
    )
    for part in ("test", "wikitext"):
        assert torch.equal(forward[part].windows.inputs, back[part].windows.inputs)
    spans = replace(plan, learnt_from="wikitext").spans()
    assert len({source for source, _, _ in spans.values()}) == len(spans)
    assert len(back["train"].features.labels) == 4 * 128
    with pytest.raises(ValueError, match="which has 12"):
        text_parts(both, replace(plan, train=13, learnt_from="wikitext"))
    with pytest.raises(ValueError, match="no 'wikitext_train'"):
        text_parts(data, replace(plan, learnt_from="wikitext"))


def test_the_best_routed_model_is_chosen_on_valid_within_the_budget():
    routes = pd.DataFrame(
        [
            ("A", "gate", 0.5, 1.1, 9.0),
            ("A", "gate", 1.0, 1.1, 7.0),  # every token: not routed
            ("B", "gate", 0.5, 1.3, 6.0),  # over the budget
            ("B", "gate", 0.1, 1.05, 8.0),
            ("B", "oracle", 0.1, 1.05, 1.0),
            ("C" + e19.REVERSED, "gate", 0.1, 1.05, 2.0),
        ],
        columns=["variant", "rule", "wanted_rate", "val_flops", "val_ppl"],
    )
    assert e19.best_routed(routes, 1.15) == ("B", 0.1)
    assert e19.best_routed(routes, 1.15, ("A",)) == ("A", 0.5)
    with pytest.raises(Absent, match="1.01"):
        e19.best_routed(routes, 1.01)
    frame = pd.DataFrame(
        {"variant": ["tuned", "all_1"], "flops": [1.0, 1.05], "val_ppl": [8.0, 7.0]}
    )
    assert e19.best_unrouted(frame, 1.02) == "tuned"
    assert e19.best_unrouted(frame, 1.1) == "all_1"
