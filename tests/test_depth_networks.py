"""The networks of the depth study: their layers, adapters, exits, gates, second passes, models."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lib.depth import forward, reading, work
from lib.depth.adapters import Adapters, adapted, for_use, frozen
from lib.depth.exit_gate import ExitGate
from lib.depth.experiments.e20_adaptive_or_fixed_depth import VARIANTS
from lib.depth.generation import Policy, Session, Stop, write
from lib.depth.llama import FEW, MAPS, Map, of_base
from lib.depth.methods import Again, Gated, Method, last_removed, middle_removed
from lib.depth.modeling import DepthLlamaForCausalLM, as_model
from lib.depth.reading import mean_loss, token_losses
from lib.depth.toys import cost_of_exits
from lib.depth.variants import HEAD_LAYERS, left
from lib.depth.work import exit_weights
from lib.runs.fetch import Unfit

EXITS = (1, 2, 3)
EXITING = Method(4, exits=EXITS)


@pytest.fixture(scope="module")
def llama(base):
    return of_base(base.model)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 280, (3, 20), generator=torch.Generator().manual_seed(1))


def moved(method, base, rank=2):
    """A network whose adapters are not zero, merged."""
    torch.manual_seed(3)
    network = frozen(base.model, method)
    adapters = Adapters(network, method, rank)
    with torch.no_grad():
        for p in adapters.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return network, adapters, for_use(network, adapters)


def test_the_layers_are_those_of_transformers(base, llama, ids):
    with torch.no_grad():
        theirs = base.model(ids, output_hidden_states=True)
    states = forward.through(llama, ids)
    for ours, hidden in zip(states[:-1], theirs.hidden_states[:-1], strict=True):
        torch.testing.assert_close(ours, hidden, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(llama.logits(states[-1]), theirs.logits, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [0, 1, 2, 5, FEW, FEW + 1])
def test_a_few_tokens_are_multiplied_as_many_are(tokens):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, 1, 48, generator=draw)
    linear = Map(torch.randn(64, 48, generator=draw))
    with torch.no_grad():
        torch.testing.assert_close(linear(x), F.linear(x, linear.weight))
    assert torch.equal(linear(x), F.linear(x, linear.weight)), "in training to the bit"


def test_a_weight_that_was_changed_is_laid_out_again():
    linear, x = Map(torch.ones(3, 4)), torch.ones(2, 4)
    with torch.no_grad():
        linear(x)
        linear.weight.mul_(2)
        torch.testing.assert_close(linear(x), torch.full((2, 3), 8.0))


def test_a_weight_is_laid_out_once_for_a_few_tokens(monkeypatch):
    """Where oneDNN is: whatever else a build has, the plain product."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    made, real = [], torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_linear_weight", lambda *a: made.append(1) or real(*a)
    )
    linear = Map(torch.randn(8, 4))
    with torch.inference_mode():
        for tokens in (1, 5, FEW + 1):
            linear(torch.randn(tokens, 4))
    assert made == [1]


def test_kept_layers_are_a_shorter_transformers_model(base, ids):
    method = middle_removed(4, 3)
    assert method.kept == (0, 1, 3)
    model = as_model(base.model, frozen(base.model, method), method)
    logits = frozen(base.model, method).logits(forward.through(frozen(base.model, method), ids)[-1])
    assert len(model.model.layers) == 3
    with torch.no_grad():
        plain = super(DepthLlamaForCausalLM, model).forward(ids).logits
    torch.testing.assert_close(plain, logits, atol=5e-5, rtol=1e-5)


def test_untrained_adapters_change_no_bit(llama, base, ids):
    adapters = Adapters(llama, EXITING, 2)
    before, after = (forward.through(x, ids)[-1] for x in (llama, adapted(llama, adapters)))
    assert torch.equal(before, after.detach())


def test_merged_adapters_are_those_of_peft(base):
    from peft import LoraConfig, get_peft_model

    network, adapters, merged = moved(Method(4), base)
    own = LlamaForCausalLM(base.model.config)
    own.load_state_dict(base.model.state_dict())
    names = [f"{n}_proj" for n in MAPS]
    theirs = get_peft_model(own, LoraConfig(r=2, lora_alpha=4, target_modules=names))
    with torch.no_grad():
        for i, layer in enumerate(theirs.base_model.model.model.layers):
            for name in MAPS:
                part = layer.self_attn if name in "qkvo" else layer.mlp
                linear = getattr(part, f"{name}_proj")
                linear.lora_A["default"].weight.copy_(adapters.layers[i][f"{name}_a"])
                linear.lora_B["default"].weight.copy_(adapters.layers[i][f"{name}_b"])
    plain = theirs.merge_and_unload().model.layers
    for layer, other in zip(merged.layers, plain, strict=True):
        torch.testing.assert_close(layer.maps["q"].weight, other.self_attn.q_proj.weight)
        torch.testing.assert_close(layer.maps["down"].weight, other.mlp.down_proj.weight)


def test_merged_weights_give_what_the_adapters_give(base, ids):
    network, adapters, merged = moved(Method(4), base)
    apart = forward.through(adapted(network, adapters), ids)[-1]
    torch.testing.assert_close(forward.through(merged, ids)[-1], apart, atol=1e-4, rtol=1e-4)


def test_all_methods_train_about_as_many_numbers():
    shapes = {"q": (576, 576), "k": (192, 576), "v": (192, 576), "o": (576, 576)}
    shapes |= {"gate": (1536, 576), "up": (1536, 576), "down": (576, 1536)}
    counts = {}
    for name, variant in VARIANTS.items():
        method = variant.make(30)
        if method.trained:
            rank = max(1, round(8 * 30 / method.depth))
            extra = 577 if method.gated or method.again else 0
            per_layer = sum(rank * (a + b) for a, b in shapes.values()) + 2 * 576
            counts[name] = method.depth * per_layer + 576 + extra
    assert len(counts) == 15
    for name, count in counts.items():
        assert abs(count / counts["adapted"] - 1) < 0.05, name


def test_a_cut_base_costs_what_it_is_cut_to():
    costs = cost_of_exits.SMOLLM2
    assert costs.head / costs.layer == pytest.approx(HEAD_LAYERS, abs=0.01)
    for cost in (0.5, 0.7, 0.9):
        assert left(30, cost) == round((cost * costs.base - costs.head) / costs.layer)
        assert costs.relative(left(30, cost)) == pytest.approx(cost, abs=0.014)
    assert costs.relative(30) == 1


def naive(llama, ids, depths):
    """One token after the other, layer by layer, every token with keys and values of its own.

    ids [T], depths [T]: layers of each token -> last states [T, d].
    """
    rotation = llama.rotation(0, len(ids))
    group = llama.heads // llama.kv_heads
    keys = [[] for _ in llama.layers]
    values = [[] for _ in llama.layers]
    found = []
    for t, token in enumerate(ids):
        cos, sin = rotation[0][t], rotation[1][t]

        def turn(x, cos=cos, sin=sin):
            half = x.shape[-1] // 2
            return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

        x = llama.embedding[token]
        for number, layer in enumerate(llama.layers):
            normed = F.rms_norm(x, (llama.width,), layer.norm1, llama.eps)
            keys[number].append(turn(layer.maps["k"](normed).view(llama.kv_heads, -1)))
            values[number].append(layer.maps["v"](normed).view(llama.kv_heads, -1))
            if number >= depths[t]:
                continue  # stopped: it only leaves keys and values
            queries = turn(layer.maps["q"](normed).view(llama.heads, -1))
            mixed = []
            for head in range(llama.heads):
                k = torch.stack([key[head // group] for key in keys[number]])
                v = torch.stack([value[head // group] for value in values[number]])
                weights = (k @ queries[head] / llama.head_width**0.5).softmax(0)
                mixed.append(weights @ v)
            x = x + layer.maps["o"](torch.cat(mixed))
            normed = F.rms_norm(x, (llama.width,), layer.norm2, llama.eps)
            inner = F.silu(layer.maps["gate"](normed)) * layer.maps["up"](normed)
            x = x + layer.maps["down"](inner)
        found.append(x)
    return torch.stack(found)


def test_propagated_keys_are_those_of_tokens_run_one_by_one(llama, ids):
    depths = torch.randint(1, 5, ids.shape, generator=torch.Generator().manual_seed(2))

    def decide(layers, recent, active):
        return depths == layers

    with torch.no_grad():
        states, at = forward.with_exits(llama, ids, EXITS, decide)
        assert torch.equal(at, depths)
        for row, own in enumerate(ids):
            slow = naive(llama, own, depths[row])
            torch.testing.assert_close(states[row], slow, atol=2e-5, rtol=1e-4)
        full = forward.through(llama, ids)
    later = (depths == 4)[:, 1:]
    assert not torch.allclose(states[:, 1:][later], full[-1][:, 1:][later], atol=1e-3)
    assert torch.allclose(states[depths == 1], full[1][depths == 1], atol=2e-5)


def test_nothing_that_stops_is_the_plain_network(llama, ids):
    states, depth = forward.with_exits(llama, ids, EXITS, lambda n, r, a: torch.zeros_like(a))
    assert torch.equal(states, forward.through(llama, ids)[-1]) and bool((depth == 4).all())


def test_an_open_gate_is_the_plain_network_and_a_shut_one_skips_the_block(base, llama, ids):
    method = Method(4, gated=Gated(1, 3))
    network = adapted(llama, Adapters(llama, method, 1))
    with torch.no_grad():
        states, _, moved = forward.through_gated(network, ids, method.gated, lambda x: x > -1)
        assert torch.equal(states, forward.through(llama, ids)[-1]) and bool(moved.all())
        states, _, moved = forward.through_gated(network, ids, method.gated, lambda x: x > 1)
        short = of_base(base.model, (0, 3))
        torch.testing.assert_close(states, forward.through(short, ids)[-1])


def test_the_gate_of_a_block_learns_from_what_the_block_adds(llama, ids):
    method = Method(4, gated=Gated(1, 3))
    adapters = Adapters(llama, method, 1)
    network = adapted(llama, adapters)
    states, _, _ = forward.through_gated(network, ids, method.gated, lambda x: x > -1)
    mean_loss(network, states, ids).backward()
    assert adapters.extras["gate"].grad.abs().sum() > 0


@pytest.mark.parametrize("block", [Again(2, 4), Again(1, 3)])
def test_a_second_pass_without_mix_changes_nothing(llama, ids, block):
    active = torch.rand(ids.shape) < 0.5
    before, after, pairs = forward.first_pass(llama, ids, block)
    states = forward.second_pass(llama, block, before, after, pairs, active, 0.0)
    full = forward.through(llama, ids)[-1]
    torch.testing.assert_close(states, full, atol=2e-5, rtol=1e-4)
    mixed = forward.second_pass(llama, block, before, after, pairs, active, 0.5)
    assert (mixed - full)[active].abs().max() > 0.1
    if block.last == 4:  # what is not run again is exactly what it was
        assert torch.equal(mixed[~active], after[~active])


METHODS = {
    "plain": (Method(4), Policy()),
    "cut": (last_removed(4, 2), Policy()),
    "confidence": (EXITING, Policy("confidence", 0.02, (1, 3))),
    "entropy": (EXITING, Policy("entropy", -5.0, (1, 2))),
    "margin": (EXITING, Policy("margin", 0.01, (2,))),
    "similarity": (EXITING, Policy("similarity", 0.8, (1, 2, 3))),
    "gate": (EXITING, Policy("gate", 0.0, (1, 2), ExitGate(torch.eye(3, 32), torch.zeros(3)))),
    "gated": (Method(4, gated=Gated(1, 3)), Policy(threshold=0.0)),
    "again": (Method(4, again=Again(1, 3)), Policy()),
    "hard": (Method(4, again=Again(2, 4, "hard", 0.5)), Policy(threshold=4.0)),
    "untrained": (Method(4, again=Again(2, 4), trained=False), Policy(mix=0.5)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_cache_gives_what_the_whole_text_gives(name, base, ids):
    method, policy = METHODS[name]
    _, _, merged = moved(method, base) if method.trained else (0, 0, frozen(base.model, method))
    whole = Session(merged, method, policy)
    with torch.inference_mode():
        logits = whole.logits(ids)
        session = Session(merged, method, policy)
        parts = [session.feed(ids[:, :12])]
        parts += [session.feed(ids[:, t : t + 1]) for t in range(12, 20)]
    torch.testing.assert_close(torch.stack(parts, 1), logits[:, 11:], atol=2e-4, rtol=1e-3)


def test_the_policies_of_the_cache_test_stop_some_tokens_and_not_all(base, ids):
    for name in ("confidence", "entropy", "margin", "similarity", "gate"):
        method, policy = METHODS[name]
        llama = moved(method, base)[2]
        with torch.inference_mode():
            stop = Stop(llama, method, policy)
            _, depth = forward.with_exits(llama, ids, policy.exits, stop)
        assert len(depth.unique()) > 1, name


@pytest.mark.parametrize("name", METHODS)
def test_models_come_back_from_a_folder_and_write(name, base, ids, tmp_path):
    method, policy = METHODS[name]
    merged = moved(method, base)[2] if method.trained else frozen(base.model, method)
    as_model(base.model, merged, method, policy).save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, DepthLlamaForCausalLM)
    with torch.inference_mode():
        logits = Session(merged, method, policy).logits(ids)
    torch.testing.assert_close(again(ids).logits, logits, atol=1e-5, rtol=1e-5)
    written = again.generate(ids, max_new_tokens=5)
    assert torch.equal(written[:, 20:], write(Session(merged, method, policy), ids, 5))
    assert torch.equal(written[:, :20], ids)
    half = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.generate(ids, max_new_tokens=2).shape == (len(ids), 22)


def test_a_model_lays_its_weights_out_once_and_follows_their_changes(base, ids):
    model = as_model(base.model, of_base(base.model), Method(4))
    few = ids[:1, :5]
    before = model(few).logits
    assert model.network() is model.network()
    model.model.layers[0].mlp.down_proj.weight.mul_(2)
    moved = model(few).logits
    fresh = as_model(base.model, model.network(), Method(4))(few).logits
    assert not torch.allclose(before, moved)
    torch.testing.assert_close(moved, fresh)
    assert model.double()(few).logits.dtype == torch.float64, "made again where weights are others"


def test_plain_writing_is_that_of_transformers(base, ids):
    model = as_model(base.model, of_base(base.model), Method(4))
    theirs = base.model.generate(ids, max_new_tokens=12, do_sample=False, min_new_tokens=12)
    # theirs bans the end of sequence: compare where ours did not write it
    ours = model.generate(ids, max_new_tokens=12)
    free = ~(ours[:, 20:] == 2).any(1)
    assert bool(free.any()) and torch.equal(ours[free], theirs[free])


def test_a_saved_network_refuses_what_it_would_pass_over(base, ids):
    model = as_model(base.model, of_base(base.model), Method(4))
    whole = torch.ones_like(ids)
    plain = model.generate(ids, max_new_tokens=2)
    assert torch.equal(model.generate(ids, attention_mask=whole, max_new_tokens=2), plain)
    padded = whole.index_fill(1, torch.tensor([0]), 0)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="equally long"):
            call(ids, attention_mask=padded)
    with pytest.raises(ValueError, match="generate has no num_beams here; allowed: input_ids"):
        model.generate(ids, num_beams=4)
    assert torch.equal(model.generate(ids, max_new_tokens=0), ids)
    with pytest.raises(ValueError, match="max_new_tokens is -3; allowed"):
        model.generate(ids, max_new_tokens=-3)
    with pytest.raises(ValueError, match="the prompt is empty"):
        model.generate(ids[:, :0], max_new_tokens=2)


@pytest.mark.parametrize(
    "other", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}]
)
def test_a_llama_that_would_be_run_wrongly_is_refused(base, other):
    config = LlamaConfig(**{**base.model.config.to_dict(), **other})
    with pytest.raises(Unfit, match=next(iter(other))):
        of_base(LlamaForCausalLM(config))


def test_methods_refuse_what_cannot_be():
    for wrong in (
        {"exits": (3, 2)},
        {"exits": (2, 2)},
        {"exits": (4,)},
        {"kept": (5,)},
        {"gated": Gated(3, 3)},
        {"again": Again(1, 3, "hard", 0.5)},
        {"exit_loss": "falling"},
        {"exits": (1,), "gated": Gated(1, 3)},  # one of them would be passed over
        {"gated": Gated(1, 3), "again": Again(1, 3)},
        {"layer_dropout": 0.1, "again": Again(1, 3)},
    ):
        with pytest.raises(ValueError):
            Method(4, **wrong)
    with pytest.raises(ValueError, match="allowed: all, hard, random"):
        Again(1, 2, "some")


def test_losses_in_pieces_are_the_plain_ones(llama, ids, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 7)
    states = forward.through(llama, ids)[-1]
    plain = F.cross_entropy(llama.logits(states).flatten(0, 1), ids.flatten(), reduction="none")
    torch.testing.assert_close(token_losses(llama, states, ids).flatten(), plain)
    torch.testing.assert_close(mean_loss(llama, states, ids), plain.mean())


def test_a_gate_pays_for_missing_its_rate(base, ids):
    def loss(penalty: float) -> float:
        method = Method(4, gated=Gated(1, 3, 0.9, penalty))
        _, _, llama = moved(method, base)
        return work.loss_of(llama, method, ids, ids).item()

    free, once, twice = (loss(penalty) for penalty in (0.0, 10.0, 20.0))
    assert free < once < twice and twice - once == pytest.approx(once - free, rel=1e-3)


def test_exits_share_the_loss_evenly_or_by_their_depth():
    even, rising = Method(4, exits=(1, 2)), Method(4, exits=(1, 2), exit_loss="rising")
    assert exit_weights(even) == {1: 1 / 3, 2: 1 / 3, 4: 1 / 3}
    assert exit_weights(rising) == {1: 1 / 7, 2: 2 / 7, 4: 4 / 7}


def test_adapters_of_another_depth_are_refused(base):
    with pytest.raises(ValueError, match="4 layers"):
        frozen(base.model, replace(Method(4), layers=5))
