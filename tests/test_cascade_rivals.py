"""Rivals of Experiment 19: wide and joint gates, a stage behind an adapted base, second passes."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from test_cascade_routed import COUNTS, PLAN, TRAINING  # noqa: F401
from transformers import LlamaConfig, LlamaForCausalLM

from lib.base.head import loss_by_token, summed_loss
from lib.cascade import routed_stage_run
from lib.cascade.adaptation_text import text_parts
from lib.cascade.adapted import adapted_part
from lib.cascade.all_tokens import RULES, route_values
from lib.cascade.baseline_run import ADAPTER_FILE, BaselineRun, adapted_tail, run_baseline
from lib.cascade.baselines import Tail, states_under, trained_weights
from lib.cascade.between_rates import at_flops, at_rate, at_share, paired_change
from lib.cascade.cost import matrix_weights, relative_flops, second_pass_flops
from lib.cascade.evaluation import perplexity
from lib.cascade.experiments import e19_cascade_that_works as e19
from lib.cascade.experiments.e19_cascade_that_works import E19, Exp19
from lib.cascade.features import COSINES, TokenFeatures
from lib.cascade.figures import pareto
from lib.cascade.gate import FREQUENCY, SEEN, JointGate, best_wide_gate, joint_loss, with_frequency
from lib.cascade.query_stage import query_stage
from lib.cascade.routed import RoutedForCausalLM
from lib.cascade.routed_stage_run import RoutedStageRun, run_routed_stage
from lib.cascade.second_pass import SecondPass
from lib.cascade.second_pass_run import SecondPassRun, run_second_pass
from lib.parameters import ParameterError
from lib.results import store
from lib.results.claims import NOT_MEASURABLE, decide
from lib.results.legible import WIDEST
from lib.results.store import Absent, Results
from lib.runs.key import described, run_key
from lib.runs.task import Place

WANTED = torch.rand(4, 128, generator=torch.Generator().manual_seed(1)) < 0.3


@pytest.fixture
def every(dataset):
    """A stage on all tokens, routed afterwards."""
    return RoutedStageRun(
        dataset, PLAN, TRAINING, rule="everything", trained="all", layers=2, rates=(0.25, 1.0)
    )


@pytest.fixture
def joint(every):
    rules = (*RULES, "joint_gate")
    return replace(every, rule="joint_gate", trained="joint", rules=rules)


@pytest.fixture
def adapter(dataset):
    return BaselineRun(dataset, PLAN, TRAINING, "low-rank", 3, 1, 3, keep=True)


def run_in(folder, function, config, seed=0):
    folder.mkdir()
    outcome = function(config, seed, Place(folder))
    for row in outcome.tables["curve"]:
        row.pop("epoch_seconds", None)  # no two are alike
    return outcome


# ----------------------------------------------------------------------------- off is the baseline


def test_what_is_off_is_no_part_of_a_key(every, dataset):
    told = described(every)
    assert not {"rules", "holding", "behind"} & set(told)
    assert "keep" not in described(BaselineRun(dataset, PLAN, TRAINING, "tuned"))
    seen = replace(every, rules=(*RULES, "wide_gate"))
    assert run_key(run_routed_stage, seen, 0) != run_key(run_routed_stage, every, 0)


def test_one_rule_more_leaves_all_other_numbers_as_they_are(every, tmp_path):
    plain = run_in(tmp_path / "a", run_routed_stage, every)
    wide = run_in(
        tmp_path / "b",
        run_routed_stage,
        replace(every, rules=(*RULES, "wide_gate")),
    )
    assert plain.row == wide.row and plain.tables["curve"] == wide.tables["curve"]
    own = [line for line in wide.tables["routes"] if line["rule"] != "wide_gate"]
    assert own == plain.tables["routes"]
    at = {line["wanted_rate"]: line for line in wide.tables["routes"] if line not in own}
    assert at[1.0]["test_ppl"] == plain.row["test_ppl"] and 0.1 < at[0.25]["test_rate"] < 0.5


def test_weights_are_kept_without_a_number_moving(adapter, tmp_path):
    kept = run_in(tmp_path / "a", run_baseline, adapter)
    plain = run_in(tmp_path / "b", run_baseline, replace(adapter, keep=False))
    assert kept.row == plain.row
    assert (tmp_path / "a" / ADAPTER_FILE).is_file() != (tmp_path / "b" / ADAPTER_FILE).is_file()


# --------------------------------------------------------------------------------------- wide gate


def tokens(gain_from: str, count: int, seed: int) -> tuple[TokenFeatures, torch.Tensor]:
    """Tokens whose states know nothing of their gain, which follows from one scalar."""
    draw = torch.Generator().manual_seed(seed)
    scalars = {name: 5 * torch.rand(count, generator=draw) + 2 for name in SEEN}
    states = torch.randn(count, 4, generator=draw)
    ids = torch.zeros(count, dtype=torch.long)
    return TokenFeatures(states, scalars, ids, ids, count), 3 * scalars[gain_from]


@pytest.mark.parametrize("name", SEEN)
def test_a_wide_gate_sees_each_of_its_numbers(name):
    train, valid = tokens(name, 400, 0), tokens(name, 200, 1)
    gate = best_wide_gate(train, valid, 0.25)
    assert torch.corrcoef(torch.stack([gate(valid[0]), valid[1]]))[0, 1] > 0.99
    moved = {key: 100 * values - 7 for key, values in train[0].scalars.items()}
    other = best_wide_gate((replace(train[0], scalars=moved), train[1]), valid, 0.25)
    again = replace(valid[0], scalars={k: 100 * v - 7 for k, v in valid[0].scalars.items()})
    found = torch.stack([other(again), gate(valid[0])])
    assert torch.corrcoef(found)[0, 1] > 0.99, "in whatever unit it comes"


def test_a_number_that_is_always_the_same_does_no_harm():
    features, gain = tokens("margin", 50, 0)
    features = replace(features, scalars={**features.scalars, "entropy": torch.ones(50)})
    gate = best_wide_gate((features, gain), (features, gain), 0.5)
    assert gate(features).isfinite().all()


def test_the_frequency_is_of_the_training_text_and_no_token_counts_itself():
    ids = torch.tensor([1, 1, 1, 2])
    text = TokenFeatures(torch.zeros(4, 1), {}, ids, ids, 4)
    inside = with_frequency(text, text, 6, inside=True).scalars[FREQUENCY].exp() * 10
    assert inside.tolist() == pytest.approx([3, 3, 3, 1])
    others = replace(text, ids=torch.tensor([1, 2, 3, 3]))
    found = with_frequency(others, text, 6).scalars[FREQUENCY].exp() * 10
    assert found.tolist() == pytest.approx([4, 2, 1, 1])
    assert inside[3] == found[2], "a token that stands there once is as rare as a new one"


def test_a_wide_gate_pays_the_head_again(base):
    stage = query_stage(base.model, 2)
    head = base.model.lm_head.weight.numel()
    alone = matrix_weights(base.model.model.layers) + head
    for rate in (0.0, 0.5):
        wide, gate = (relative_flops(base.model, stage, rate, f"{n}gate") for n in ("wide_", ""))
        assert wide - gate == pytest.approx((rate * head + len(SEEN)) / alone)
        assert relative_flops(base.model, stage, rate, "joint_gate") == gate


def test_a_gate_that_is_not_there_cannot_order(dataset):
    features = dataset.open().features("valid")
    for rule in ("gate", "wide_gate", "joint_gate", "loss"):
        with pytest.raises(ValueError, match="not known"):
            route_values(features, rule, {}, features.scalars["loss"])


# -------------------------------------------------------------------------------------- joint gate


def random_tokens(count=7, width=5, words=11):
    draw = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    labels = torch.randint(0, words, (count,), generator=draw)
    return normal(count, width), normal(words, width), labels, normal(count).square()


def test_the_gradient_of_the_importance_is_each_tokens_loss():
    states, head, labels, _ = random_tokens()
    weight = torch.rand(7, dtype=torch.float64, requires_grad=True)
    summed_loss(states, head, labels, chunk=3, importance=weight).backward()
    single = [summed_loss(states[i : i + 1], head, labels[i : i + 1]).item() for i in range(7)]
    assert weight.grad.tolist() == pytest.approx(single)


def test_the_gradient_of_the_gate_is_that_of_finite_differences():
    states, head, labels, alone = random_tokens()
    gate = JointGate(torch.full((5,), 1.7), 0.3).double()
    with torch.no_grad():
        gate.weight.copy_(torch.linspace(-1, 1, 5))

    def value() -> torch.Tensor:
        return joint_loss(gate(states), states, head, labels, alone, 0.3, 10.0)

    value().backward()
    step = 1e-6
    for place, parameter in ((0, gate.weight), (3, gate.weight), ((), gate.bias)):
        with torch.no_grad():
            parameter[place] += step
            up = value()
            parameter[place] -= 2 * step
            down = value()
            parameter[place] += step
        assert parameter.grad[place].item() == pytest.approx(
            ((up - down) / (2 * step)).item(), rel=1e-5
        )


def test_the_joint_loss_is_a_mixture_and_a_price_for_another_share():
    states, head, labels, alone = random_tokens()
    for g in (0.0, 0.3, 1.0):
        found = joint_loss(torch.full((7,), g).double(), states, head, labels, alone, 0.3, 10.0)
        mixed = g * summed_loss(states, head, labels) + (1 - g) * alone.sum()
        assert found.item() == pytest.approx((mixed + 7 * 10 * (g - 0.3) ** 2).item())


def test_a_gate_learns_nothing_from_an_untrained_stage(base, dataset):
    """Not even rounding errors, which Adam would blow up to a whole step."""
    text = dataset.open().features("train").windows(0, 4)
    model, labels = base.model, text.labels
    stage, head = query_stage(model, 2), model.lm_head.weight
    gate = JointGate(model.model.norm.weight, 0.25)
    states = stage(text.final.view(4, text.length, -1))
    alone = loss_by_token(text.final, head, labels)
    joint_loss(gate(text.final), states, head, labels, alone, 0.25, 10.0).backward()
    assert gate.weight.grad.abs().max() == 0
    assert torch.allclose(alone, text.scalars["loss"], atol=1e-5)
    assert alone.sum().item() == pytest.approx(summed_loss(text.final, head, labels).item())


def test_an_untrained_gate_is_the_share_and_orders_as_its_read_out(base, dataset):
    gate = JointGate(base.model.model.norm.weight, 0.25)
    final = dataset.open().features("test").final
    assert torch.allclose(gate(final), torch.tensor(0.25))
    with torch.no_grad():
        gate.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gate(final), gate.read_out()(final).sigmoid(), atol=1e-5)
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            JointGate(torch.ones(3), rate)


def test_a_gate_is_trained_with_its_stage(joint, tmp_path):
    # thresholds of routes are set on as many training windows as the gate's own: on all of them
    joint = replace(joint, text=replace(PLAN, look=4))
    first, again = (run_in(tmp_path / name, run_routed_stage, joint, 1) for name in "ab")
    assert first.row == again.row and first.tables == again.tables
    data = joint.dataset.open()
    look = data.features("valid").windows(0, 4)
    assert first.row["start_val_ppl"] == pytest.approx(perplexity(look.scalars["loss"]), rel=1e-6)
    plain = run_in(tmp_path / "c", run_routed_stage, replace(joint, rates=()), 1)
    assert first.row["test_ppl"] == pytest.approx(plain.row["test_ppl"])
    stage = query_stage(data.base.model, 2)
    assert first.row["params"] == trained_weights(stage) + 32 + 1
    at = {(x["rule"], x["wanted_rate"]): x for x in first.tables["routes"]}
    assert at["joint_gate", 0.25]["test_ppl"] == pytest.approx(first.row["test_ppl"])
    assert at["joint_gate", 0.25]["test_rate"] == first.row["rate"] != 0
    assert at["joint_gate", 0.25]["flops"] == pytest.approx(first.row["flops"])
    threshold = at["joint_gate", 0.25]["threshold"]
    model = RoutedForCausalLM.assemble(data.base, tmp_path / "a", "joint_gate", threshold)
    answered = model(data.windows["test"].inputs[:4]).answered_by
    assert answered.float().mean().item() == pytest.approx(first.row["rate"], abs=0.01)


def test_the_mean_of_the_gate_is_held_at_the_share(joint, monkeypatch, tmp_path):
    means = {"free": [], "held": []}

    def watched(g, *rest):
        means["held" if rest[-1] else "free"].append(g.mean().item())
        return joint_loss(g, *rest)

    monkeypatch.setattr(routed_stage_run, "joint_loss", watched)
    for holding in (0.0, 100.0):
        fast = replace(joint.training, learning_rate=0.02, epochs=4)
        config = replace(joint, training=fast, rates=(), holding=holding)
        run_in(tmp_path / f"{holding}", run_routed_stage, config)
    assert means["free"][0] == means["held"][0] == pytest.approx(0.25)
    assert means["free"][-1] > 0.4, "where the stage gains, the gate opens"
    assert means["held"][-1] == pytest.approx(0.25, abs=0.05)


def test_a_joint_gate_and_joint_training_belong_together(every, joint, adapter):
    for wrong in ({"trained": "joint"}, {"rule": "joint_gate"}, {"rules": ("joint_gate",)}):
        with pytest.raises(ValueError, match="together"):
            replace(every, **wrong)
    with pytest.raises(ValueError, match="routed tokens only"):
        replace(joint, context="packed", rates=(), rules=RULES)
    with pytest.raises(ValueError, match="keeps its weights"):
        replace(every, behind=replace(adapter, keep=False))


# --------------------------------------------------------------------------- behind an adapted base


def test_features_of_an_adapted_base_are_the_bases_own_before_training(base, dataset):
    data = dataset.open()
    part = text_parts(data, PLAN)["test"]
    tail = Tail(data.base, 3).low_rank(500, 3, seed=0)
    found = adapted_part(data.base, tail, part, 3)
    assert torch.allclose(found.final, part.features.final, atol=1e-5)
    for name in (*COSINES, "loss", "entropy", "confidence", "margin"):
        assert torch.allclose(found.scalars[name], part.features.scalars[name], atol=1e-4), name
    assert torch.equal(found.ids, part.features.ids) and found.windows(1, 2).tokens == 256


def test_a_stage_stands_behind_an_adapted_base(every, adapter, tmp_path):
    rules = ("entropy", "gate", "oracle")
    config = replace(every, layers=1, rules=rules, behind=adapter)
    outcome = run_in(tmp_path / "stage", run_routed_stage, config, 1)
    made = Place(tmp_path / run_key(run_baseline, adapter, 1))
    alone = made.record()["row"]
    data = config.dataset.open()
    row = outcome.row
    for part in ("val", "test"):
        for kind in ("ppl", "content_ppl"):
            assert row[f"adapted_{part}_{kind}"] == pytest.approx(alone[f"{part}_{kind}"])
            assert row[f"base_{part}_{kind}"] == alone[f"base_{part}_{kind}"]
    stage = query_stage(data.base.model, 1)
    assert row["params"] == alone["params"] + trained_weights(stage)
    assert row["flops"] == relative_flops(data.base.model, stage, 1.0, "everything")
    # untrained, the stage is the adapted base bit for bit
    tail, _ = adapted_tail(adapter, data, 1, made)
    features = adapted_part(data.base, tail, text_parts(data, PLAN)["valid"], 3).windows(0, 2)
    assert row["start_val_ppl"] == perplexity(features.scalars["loss"])
    assert row["start_val_ppl"] != perplexity(data.features("valid").windows(0, 2).scalars["loss"])
    assert {line["rule"] for line in outcome.tables["routes"]} == set(rules)
    with pytest.raises(ValueError, match="another base"):
        RoutedForCausalLM.assemble(data.base, tmp_path / "stage", "gate", 0.0)
    with pytest.raises(ValueError, match="are not those of this adaptation"):
        adapted_tail(replace(adapter, layers=2), data, 1, made)
    again = run_in(tmp_path / "again", run_routed_stage, config, 1)
    assert again.row == row and again.tables == outcome.tables


# ------------------------------------------------------------------------------------ second passes


@pytest.fixture
def moved(base):
    """A second pass that has learnt something, of either kind."""

    def make(feedback: str) -> SecondPass:
        model = SecondPass(base, 3, feedback, 3_000, seed=0)
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        return model

    return make


@pytest.mark.parametrize("feedback", ["mixed", "recirculated"])
def test_an_untrained_second_pass_is_the_base_bit_for_bit(base, dataset, feedback):
    states = states_under(base, dataset.open().windows["valid"], 3)
    model = SecondPass(base, 3, feedback, 3_000, seed=0)
    alone = Tail(base, 3)(states)
    assert torch.equal(model(states), alone.flatten(0, 1))
    assert torch.equal(model(states, WANTED), alone[WANTED])
    assert model(states, torch.zeros(4, 128).bool()).shape == (0, 32)
    assert not any(p.requires_grad for p in base.model.parameters())


@pytest.mark.parametrize("feedback", ["mixed", "recirculated"])
def test_a_second_pass_sees_the_past_and_who_is_not_chosen_stands_still(base, moved, feedback):
    model = moved(feedback)
    states = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(4))
    other = states.clone()
    other[0, 7:] += 1
    one, two = model(states), model(other)
    assert torch.allclose(one[:7], two[:7], atol=1e-5)
    assert not torch.allclose(one[7:], two[7:], atol=1e-2)
    wanted = torch.zeros(1, 12).bool()
    wanted[0, 9] = True
    alone = model(states, wanted)
    # by hand: one token's second pass over states of the first one
    held = [states]
    turn = {
        "position_embeddings": model.tail.model.rotary_emb(
            states, position_ids=torch.arange(12)[None]
        )
    }
    for layer in base.model.model.layers[-3:]:
        held.append(layer(held[-1], **turn))
    if feedback == "mixed":
        x = states + model.mix * (held[-1] - states)
    else:
        x = states + model.up(model.down(base.model.model.norm(held[-1])))
    x = x[:, 9]
    for still, layer in zip(held, model.tail.model.layers, strict=False):
        seen = still.clone()
        seen[:, 9] = x
        x = layer(seen, **turn)[:, 9]
    assert torch.allclose(alone, base.model.model.norm(x), atol=1e-5)
    assert not torch.allclose(alone, one[9:10], atol=1e-2), "its past stands still"


def test_led_back_whole_a_second_pass_runs_on_where_the_first_ended(base):
    model = SecondPass(base, 3, "mixed", 3_000, seed=0)
    states = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        model.mix.fill_(1.0)
    tail = Tail(base, 3)
    norm, tail.model.norm = tail.model.norm, torch.nn.Identity()
    assert torch.allclose(model(states), norm(tail(tail(states))).flatten(0, 1), atol=1e-4)


def test_flops_of_a_second_pass(base):
    head = base.model.lm_head.weight.numel()
    layers = base.model.model.layers
    alone, last = matrix_weights(layers) + head, matrix_weights(layers[-3:])
    cost = second_pass_flops
    assert cost(base.model, 3, 1.0, "everything") == pytest.approx(1 + last / alone)
    keys = 3 * 2 * 32 * 16
    assert cost(base.model, 3, 0.0, "everything") == pytest.approx(1 + keys / alone)
    half = 1 + (0.5 * (last + 70 + head) + 0.5 * keys) / alone
    assert cost(base.model, 3, 0.5, "entropy", feedback=70) == pytest.approx(half)
    with pytest.raises(ValueError, match="between 0 and 1"):
        cost(base.model, 3, 1.5, "entropy")


@pytest.mark.parametrize("feedback", ["mixed", "recirculated"])
@pytest.mark.parametrize("rule", ["everything", "entropy"])
def test_second_passes_train_and_repeat(dataset, feedback, rule, tmp_path):
    config = SecondPassRun(dataset, PLAN, TRAINING, feedback, rule, 0.25, 3, 2)
    first, again = (run_in(tmp_path / name, run_second_pass, config, 1) for name in "ab")
    assert first.row == again.row
    row = first.row
    assert row["test_ppl"] != row["base_test_ppl"]
    look = dataset.open().features("valid").windows(0, 2)
    assert row["start_val_ppl"] == pytest.approx(perplexity(look.scalars["loss"]), rel=1e-6)
    assert row["flops"] > 1 and (row["rate"] == 1) == (rule == "everything")
    if rule == "entropy":
        assert 0 < row["rate"] < 1 and row["routed_ppl"] != row["base_routed_ppl"]


def test_an_unknown_feedback_is_refused(base, dataset):
    with pytest.raises(ValueError, match="allowed"):
        SecondPassRun(dataset, PLAN, TRAINING, "looped")
    with pytest.raises(ValueError, match="allowed"):
        SecondPass(base, 2, "looped", 100, 0)


# ------------------------------------------------------------------------------------- experiment


def test_rivals_have_equally_many_trained_weights(dataset):
    """At the widths of SmolLM2-135M, of which five layers are enough to count."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=5,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=8,
        tie_word_embeddings=True,
    )
    base = SimpleNamespace(model=LlamaForCausalLM(config).requires_grad_(False))
    one_layer = trained_weights(Tail(base, 1).tune())
    parameters = Exp19(wikitext_windows=0)

    def config_of(name):
        return E19.variants[name].config(parameters, dataset)

    def stage(own):
        return trained_weights(query_stage(base.model, own.layers))

    def low_rank(own):
        trained = own.equal_layers * one_layer
        return trained_weights(Tail(base, own.under).low_rank(trained, own.layers, 0))

    def again(own):
        trained = own.equal_layers * one_layer
        return trained_weights(SecondPass(base, own.layers, own.feedback, trained, 0))

    behind, joint = config_of("behind"), config_of("joint")
    found = {
        "low_rank_long": low_rank(config_of("low_rank_long")),
        "behind": stage(behind) + low_rank(behind.behind),
        "joint": stage(joint) + 577,
        "wide_gate": stage(config_of("wide_gate")),
        **{name: again(config_of(name)) for name in e19.SECOND},
    }
    whole = low_rank(config_of("low_rank"))
    for name, weights in found.items():
        assert weights == pytest.approx(whole, rel=0.05), name
    half = config_of("low_rank_half")
    assert half == behind.behind, "one run, not two"
    assert low_rank(half) == pytest.approx(whole / 2, rel=0.05)


def test_rivals_have_equal_text_and_updates(dataset):
    parameters = Exp19(wikitext_windows=0)
    for name in e19.RIVALS:
        own = E19.variants[name].config(parameters, dataset)
        training = replace(own.training, learning_rate=1e-3)
        epochs = 2 if name == "low_rank_long" else 1
        assert training == replace(parameters.training(1e-3), epochs=epochs), name
        assert own.text == parameters.text
    wide, stage = (E19.variants[n].config(parameters, dataset) for n in ("wide_gate", "all_1"))
    assert replace(wide, rules=RULES) == stage, "the very stage that the gate is compared on"


def test_a_study_leaves_held_out_what_its_adapter_does_not_learn(dataset):
    parameters = Exp19(wikitext_windows=0)
    own = E19.variants[e19.study_id("behind", 1e-3)].config(parameters, dataset)
    assert own.text == own.behind.text and own.text.train == parameters.study_windows
    half = e19.study_id("low_rank_half", parameters.half_learning_rate)
    assert E19.variants[half].config(parameters, dataset) == own.behind


def test_conditions_choose_rows_and_a_wrong_number_of_rates_is_refused(dataset):
    def ids(conditions):
        parameters = Exp19.at("tiny").changed(conditions=conditions, study_windows=0)
        return {task.labels["variant"] for task in E19.tasks(parameters, [dataset])}

    rivals, decisive = ids("rivals"), ids("decisive")
    assert rivals - decisive == set(e19.RIVALS) and decisive < rivals < ids("all")
    with pytest.raises(ParameterError, match="4 numbers, one for each second pass"):
        Exp19.checked({"pass_learning_rates": "0.001"})


def test_the_large_size_is_more_text_and_nothing_else():
    full, large = Exp19.at("full"), Exp19.at("large")
    assert large.text_windows * 128 >= 100_000 and large.size == "large"
    apart = {n for n in Exp19.names() if getattr(full, n) != getattr(large, n)}
    assert apart == {"train_windows", "text_windows", "study_windows", "conditions"}
    assert replace(large.text, train=full.text_windows) == full.text


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Rivals, and what they are compared with, at the tiny size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPTH_KEEP", str(tmp_path_factory.mktemp("keep")))
        patch.setenv("DEPTH_CACHE", str(tmp_path_factory.mktemp("cache")))
        parameters = Exp19.at("tiny").changed(conditions="rivals", study_windows=0)
        return E19.run(parameters)


def test_tables_figure_and_claims_have_the_rivals(results):
    assert set(e19.rivals_table(results).index) >= {e19.LABELS[name] for name in e19.SECOND}
    assert list(e19.gates_table(results)) == list(e19.GATES_SHOWN)
    labels = results.labels
    figure = E19.figures["pareto"](results)
    assert {labels[n] for n in e19.MARKS} <= set(figure.axes[0].get_legend_handles_labels()[1])
    plt.close("all")
    missing = [
        row["id"]
        for claim in E19.claims
        for row in decide(claim, results)
        if row["verdict"] == NOT_MEASURABLE
    ]
    # the tiny head is most of the tiny base: a rule that pays it again gets nowhere as cheap
    assert set(missing) - {"cascade_works-wide-gate-cost"} == {
        *(c.id for c in E19.claims if "wikitext" in c.id or "reversed" in c.id),
        "cascade_works-full-context",  # of the ablations
    }


def test_a_share_that_is_wanted_does_not_pass_for_one_that_is_routed(results):
    routes = results("routes")
    for table, title, variant, rule in (
        (e19.routes_table(results), "oracle (sees the gain)", "all_1", "oracle"),
        (e19.gates_table(results), "entropy behind LoRA", "behind", "entropy"),
    ):
        own = routes[(routes["variant"] == variant) & (routes["rule"] == rule)]
        means = own.groupby("wanted_rate")[["test_ppl", "test_rate"]].mean()
        told = [f"{ppl:.2f} ({100 * share:.1f} %)" for ppl, share in means.to_numpy()]
        assert table.index.name == "share wanted" and list(table[title]) == told
        assert (means["test_rate"] != means.index).any(), "the two do differ"
        assert "share of test tokens that is routed" in table.attrs["caption"]
        assert table.index.nlevels + len(table.columns) <= WIDEST


def test_rivals_that_are_outstanding_are_said_to_be():
    committed = store.committed(E19.slug)
    frame = committed()
    without = {
        name: table[~table["variant"].isin(e19.RIVALS)] for name, table in committed.frames.items()
    }
    old = Results(committed.slug, without)
    assert e19.rivals_table(old).empty and e19.gates_table(old).empty
    assert not set(e19.DECISIVE) - set(frame["variant"]) - {"all_4"}
    for claim in E19.claims:
        if claim.id.split("-", 1)[1].startswith(("wide", "joint", "behind", "second-pass")):
            for row in decide(claim, old):
                assert row["verdict"] == NOT_MEASURABLE
                assert "no routes of" in row["reason"] or "no second pass" in row["reason"]
    figure = E19.figures["pareto"](old)
    assert "light blue" not in " ".join(text.get_text() for text in figure.texts)
    plt.close("all")


def test_rates_are_not_refused_while_a_study_is_outstanding(capsys):
    frame = pd.DataFrame(
        {"variant": [e19.study_id("low_rank", rate) for rate in e19.STUDY_RATES],
         "val_ppl": [4.0, 3.0, 2.0, 3.0, 9.0]}
    )  # fmt: skip
    e19.check_rates(Results("slug", {"": frame}), Exp19())
    printed = capsys.readouterr().out
    assert "LoRA: learning rate 0.001, best of 5" in printed
    assert "Second pass: its study of learning rates is outstanding" in printed
    for size in ("tiny", "large"):
        e19.check_rates(Results("slug", {"": frame}), Exp19.at(size))
        assert (
            capsys.readouterr().out.strip() == "learning rates are checked at the full size alone"
        )


def routes_of(lines) -> Results:
    """Two seeds of a stage before a base of 16: rate, FLOPs and perplexity at each of its rates."""
    main = pd.DataFrame({"variant": "s", "seed": [0, 1], "base_test_ppl": 16.0, "run_id": "r"})
    routes = pd.DataFrame(
        {"variant": "s", "seed": seed, "rule": "gate", "wanted_rate": wanted, "test_rate": rate,
         "flops": 1 + rate, "test_ppl": ppl, "run_id": "r"}
        for seed in (0, 1)
        for wanted, rate, ppl in lines
    )  # fmt: skip
    return Results("slug", {"": main, "routes": routes})


def test_between_two_rates_the_loss_is_straight():
    results = routes_of([(0.25, 0.2, 8.0), (0.5, 0.4, 2.0)])
    assert at_share(results, "s", "gate", 0.3).tolist() == pytest.approx([4.0, 4.0])
    assert at_share(results, "s", "gate", 0.1)[0] == pytest.approx(128**0.5), "from the base on"
    assert at_rate(results, "s", "gate", 0.5, "flops").tolist() == [1.4, 1.4]
    assert at_flops(results, "s", "gate", pd.Series({0: 1.3}))[0] == pytest.approx(4.0)
    with pytest.raises(Absent, match="not measured at 1.5"):
        at_flops(results, "s", "gate", pd.Series({0: 1.5}))
    with pytest.raises(Absent, match="no routes of 's' by 'entropy'"):
        at_share(results, "s", "entropy", 0.3)
    with pytest.raises(Absent, match="at 0.7"):
        at_rate(results, "s", "gate", 0.7, "flops")
    old, new = pd.Series({1: 2.0, 2: 2.0}), pd.Series({0: 5.0, 1: 3.0})
    assert paired_change(new, old).tolist() == pytest.approx([50.0])
    with pytest.raises(Absent, match="no seed"):
        paired_change(new, old[[2]])


def test_nothing_routed_is_what_the_stage_stands_behind():
    results = routes_of([(0.5, 0.5, 2.0)])
    results.frames[""]["adapted_test_ppl"] = 8.0
    assert at_share(results, "s", "gate", 0.25).tolist() == pytest.approx([4.0, 4.0])


def test_rivals_do_not_enter_the_choice_of_the_routed_stage():
    routes = pd.DataFrame(
        [("all_1", "gate", 0.5, 1.1, 9.0), ("behind", "gate", 0.5, 1.1, 2.0)],
        columns=["variant", "rule", "wanted_rate", "val_flops", "val_ppl"],
    )
    assert e19.best_routed(routes, 1.15) == ("all_1", 0.5)
    assert e19.best_routed(routes, 1.15, ("behind",)) == ("behind", 0.5)
    with pytest.raises(Absent):
        e19.best_pass(pd.DataFrame({"variant": ["all_1"], "val_ppl": [1.0]}))


def test_the_heading_names_the_lowest_point_of_lines_too():
    mean = pd.DataFrame(
        {"test_ppl": [9.0, 8.0, 8.5], "flops": [1.1, 1.2, 1.3]}, index=[0.1, 0.5, 1]
    )
    assert pareto._lowest("Stage", mean) == ("Stage, 50 % routed", 8.0, 1.2)
    assert pareto._lowest("Stage", mean.tail(1)) == ("Stage", 8.5, 1.3)


def test_every_further_mark_of_the_figure_has_a_shape():
    assert len(pareto.FURTHER) == len(e19.MARKS)


def test_a_share_beyond_what_was_measured_is_not_made_up():
    with pytest.raises(Absent, match="not measured at a share of 0.25"):
        at_share(routes_of([(0.1, 0.08, 8.0), (0.25, 0.2, 4.0)]), "s", "gate", 0.25)


def test_seeds_of_an_unfinished_sweep_are_paired():
    main = pd.DataFrame(
        {"variant": name, "seed": seed, "test_ppl": ppl, "base_test_ppl": 10.0, "flops": 1.0,
         "val_ppl": 1.0, "rate": 0.25, "run_id": f"{name}{seed}"}
        for name, seed, ppl in (("all_1", 0, 6.0), ("all_1", 2, 9.0), ("routed", 1, 5.0),
                                ("routed", 2, 10.0), ("tuned", 0, 8.0), ("tuned", 1, 8.0))
    )  # fmt: skip
    routes = pd.DataFrame(
        {"variant": "all_1", "seed": seed, "rule": rule, "wanted_rate": 0.25, "test_rate": 0.25,
         "val_flops": 1.0, "val_ppl": 1.0, "test_ppl": ppl, "run_id": f"all_1{seed}"}
        for rule in ("gate", "entropy") for seed, ppl in ((0, 6.0), (2, 9.0))
    )  # fmt: skip
    results = Results("slug", {"": main, "routes": routes})
    assert e19.all_against_routed(results) == pytest.approx([-10.0]), "seed 2, which both have"
    alone = Results("slug", {"": main[main["variant"] != "all_1"], "routes": routes})
    assert e19.gate_against_unrouted(alone) == pytest.approx([-25.0]), "seed 0"
