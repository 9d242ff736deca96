import pytest
import torch
from transformers import DynamicCache

from lib.cascade.modeling import CascadeCache, CascadeConfig, CascadeForCausalLM
from lib.cascade.stage import new_stage

RULE = {"criterion": "last_two_layers", "threshold": 0.78}
SECOND = {"criterion": "input_to_output", "threshold": 0.5}


def cascade(base, rules=(RULE, SECOND), head="scratch", context="compact"):
    stages = [
        new_stage(base.model.config, 2, head=head, std=0.2, seed=i) for i in range(len(rules))
    ]
    return CascadeForCausalLM.assemble(base, stages, list(rules), context)


def ids(batch=3, length=40, seed=0):
    return torch.randint(3, 280, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_no_stages_is_the_base_exactly(base):
    x = ids()
    out = cascade(base, ())(x)
    assert torch.equal(out.logits, base.model(x).logits)
    assert (out.answered_by == 0).all()


@torch.no_grad()
@pytest.mark.parametrize(
    "criterion", ["last_two_layers", "embedding_to_final", "confidence", "entropy", "margin"]
)
def test_a_threshold_that_lets_nothing_pass_is_the_base_exactly(base, criterion):
    nothing = float("inf") if criterion == "entropy" else float("-inf")
    model = cascade(base, ({"criterion": criterion, "threshold": nothing},))
    x = ids()
    assert torch.equal(model(x).logits, base.model(x).logits)
    everything = cascade(base, ({"criterion": criterion, "threshold": -nothing},))
    assert (everything(x).answered_by == 1).all()


@torch.no_grad()
def test_all_models_answer_some_tokens(base):
    answered = cascade(base)(ids()).answered_by
    assert set(answered.unique().tolist()) == {0, 1, 2}


@torch.no_grad()
@pytest.mark.parametrize("context", ["compact", "single"])
def test_steps_with_a_cache_equal_one_pass_without(base, context):
    model, x = cascade(base, context=context), ids()
    whole = model(x)
    cache, steps = CascadeCache(model.config), []
    for part in x.split([17, 1, 1, 5] + [1] * 16, dim=1):
        out = model(part, past_key_values=cache, use_cache=True)
        steps.append((out.logits, out.answered_by))
    assert torch.equal(torch.cat([s[1] for s in steps], 1), whole.answered_by)
    assert torch.allclose(torch.cat([s[0] for s in steps], 1), whole.logits, atol=2e-4)
    if context == "compact":
        for number, stage in enumerate(cache.stages):
            reached = (whole.answered_by > number).sum(1)
            assert torch.equal(stage.lengths, reached)  # only the tokens that reached it


@torch.no_grad()
def test_a_cache_without_room_for_the_stages_is_refused_and_a_used_one_can_be_reset(base):
    model, x = cascade(base), ids()
    with pytest.raises(TypeError, match="no room"):
        model(x, past_key_values=DynamicCache(), use_cache=True)
    cache = CascadeCache(model.config)
    first = model(x, past_key_values=cache, use_cache=True).logits
    cache.reset()
    assert torch.equal(model(x, past_key_values=cache, use_cache=True).logits, first)
    own = model.generate(x[:, :9], max_new_tokens=6, do_sample=False, past_key_values=None)
    assert torch.equal(own, model.generate(x[:, :9], max_new_tokens=6, do_sample=False))


@torch.no_grad()
def test_generation_with_a_cache_equals_generation_without(base):
    model, x = cascade(base), ids(length=12)
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    with_cache = model.generate(x, use_cache=True, **settings)
    without = model.generate(x, use_cache=False, **settings)
    assert torch.equal(with_cache, without)
    assert not torch.equal(with_cache, base.model.generate(x, **settings))  # stages do speak


@torch.no_grad()
def test_left_padding_changes_nothing(base):
    model = cascade(base)
    rows = [ids(1, n, seed=n)[0] for n in (9, 14, 20)]
    width = 20
    padded = torch.stack([torch.cat([torch.full((width - len(r),), 2), r]) for r in rows])
    mask = torch.stack(
        [torch.cat([torch.zeros(width - len(r)), torch.ones(len(r))]) for r in rows]
    ).long()
    out = model(padded, attention_mask=mask)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    together = model.generate(padded, attention_mask=mask, **settings)
    for number, row in enumerate(rows):
        alone = model(row[None])
        assert torch.equal(out.answered_by[number, -len(row) :], alone.answered_by[0])
        assert (out.answered_by[number, : -len(row)] == -1).all()
        assert torch.allclose(out.logits[number, -len(row) :], alone.logits[0], atol=2e-4)
        single = model.generate(row[None], **settings)
        assert torch.equal(together[number, width:], single[0, len(row) :])


@torch.no_grad()
def test_beam_search_carries_the_stage_caches_along(base):
    model, x = cascade(base), ids(2, 8)
    settings = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    assert torch.equal(
        model.generate(x, **settings), model.generate(x, use_cache=False, **settings)
    )


@torch.no_grad()
@pytest.mark.parametrize("head", ["scratch", "shared"])
def test_save_and_load(base, tmp_path, head):
    model, x = cascade(base, head=head), ids()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = CascadeForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.base_sha256 == base.sha256
    assert torch.equal(again(x).logits, model(x).logits)
    weight = again.base.lm_head.weight
    assert weight.data_ptr() == again.base.model.embed_tokens.weight.data_ptr()


@torch.no_grad()
def test_the_last_logits_alone_and_the_loss(base):
    model, x = cascade(base), ids()
    whole = model(x, labels=x)
    last = model(x, logits_to_keep=1).logits
    assert last.shape[1] == 1 and torch.allclose(last[:, 0], whole.logits[:, -1], atol=1e-4)
    loss = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    assert torch.allclose(whole.loss, loss)


@torch.no_grad()
def test_no_token_sees_a_later_one(base):
    model, x = cascade(base), ids()
    changed = x.clone()
    changed[:, 25:] = (changed[:, 25:] + 7) % 277 + 3
    before, after = model(x), model(changed)
    assert torch.equal(before.answered_by[:, :25], after.answered_by[:, :25])
    assert torch.allclose(before.logits[:, :25], after.logits[:, :25], atol=1e-4)


def test_wrong_configurations_say_what_is_allowed(base):
    with pytest.raises(ValueError, match="as many rules"):
        CascadeConfig(stages=[{"layers": 1}], rules=[])
    with pytest.raises(ValueError, match="allowed"):
        cascade(base, ({"criterion": "loss", "threshold": 1.0},))
    with pytest.raises(ValueError, match="compact"):
        CascadeConfig(context="other")
    cache = CascadeCache(cascade(base).config)
    with pytest.raises(NotImplementedError, match="cannot be cut"):
        cache.crop(3)
