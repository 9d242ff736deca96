"""The block against an independent reference, exact parameter counts, causality."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaMLP,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from lib.character.models.block import CausalSelfAttention, FeedForward, RMSNorm, linear_deviation
from lib.character.models.hrm import HRMConfig
from lib.character.models.lct import LCTConfig
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import LayerLosses, Segments, Standard
from lib.checks import CheckFailed, causal, future_influence

WIDTH, HEADS = 64, 4


def parameters(config, symbols: int) -> int:
    return sum(p.numel() for p in config.build(symbols).parameters())


@pytest.mark.parametrize(
    ("config", "symbols", "count"),
    [
        (TransformerConfig(), 97, 78_080),
        (TransformerConfig(layers=4), 97, 275_072),
        (TransformerConfig(initial_state=True), 97, 82_176),
        (TransformerConfig(layers=4, initial_state=True), 97, 279_168),
        (TransformerConfig(layers=1), 30, 69_504),
        (TransformerConfig(layers=3), 30, 200_832),
        (TransformerConfig(layers=4), 30, 266_496),
        (HRMConfig(width=48), 97, 89_472),
        (HRMConfig(), 97, 152_064),
        (HRMConfig(update="original"), 97, 152_064),
        (HRMConfig(memory="input"), 97, 168_452),
        (HRMConfig(memory="hidden"), 97, 193_024),
        (LCTConfig(1), 97, 78_080),
        (LCTConfig(2), 97, 149_952),
    ],
)
def test_parameter_counts_are_those_of_the_report(config, symbols, count):
    assert parameters(config, symbols) == count


def test_attention_equals_llama():
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    ours, theirs = CausalSelfAttention(WIDTH, HEADS), LlamaAttention(config, layer_idx=0).eval()
    with torch.no_grad():
        for mine, other in zip(
            (ours.query, ours.key, ours.value, ours.output),
            (theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj),
            strict=True,
        ):
            other.weight.copy_(mine.weight)
        x = torch.randn(2, 17, WIDTH)
        positions = LlamaRotaryEmbedding(config)(x, torch.arange(17)[None])
        mask = torch.full((17, 17), float("-inf")).triu(1)[None, None]
        expected = theirs(x, position_embeddings=positions, attention_mask=mask)[0]
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_feed_forward_and_norm_equal_llama():
    config = LlamaConfig(hidden_size=WIDTH, intermediate_size=4 * WIDTH)
    ours, theirs = FeedForward(WIDTH), LlamaMLP(config)
    with torch.no_grad():
        theirs.gate_proj.weight.copy_(ours.gate.weight)
        theirs.up_proj.weight.copy_(ours.up.weight)
        theirs.down_proj.weight.copy_(ours.down.weight)
        x = torch.randn(3, 5, WIDTH)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)
        norm = LlamaRMSNorm(WIDTH, eps=1e-6)
        torch.testing.assert_close(RMSNorm(WIDTH)(x), norm(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (TransformerConfig(layers=2), Standard()),
        (TransformerConfig(initial_state=True), Segments(2)),
        (TransformerConfig(layers=4), LayerLosses((1, 1, 1, 1))),
        (HRMConfig(), Segments(2)),
        (HRMConfig(update="original"), Segments(2)),
        (HRMConfig(memory="input", causal_memory=True), Segments(2)),
        (LCTConfig(2), Segments(4)),
    ],
)
def test_no_model_sees_the_future(config, objective):
    causal(config, objective)


def test_infini_memory_sees_the_future_as_the_report_ran_it():
    # a property of the report's algorithm that notebook 02 states
    leaking = HRMConfig(memory="input")
    assert future_influence(leaking, Segments(2)) > 1e-5
    assert future_influence(leaking, Segments(1)) == 0
    with pytest.raises(CheckFailed, match="sees the future"):
        causal(leaking, Segments(2))


def test_initialisations():
    for name, deviation in (("A", 0.125), ("B", 0.02)):
        assert linear_deviation(name, WIDTH) == deviation
        torch.manual_seed(0)
        model = TransformerConfig(initialisation=name).build(97)
        assert model.blocks[0].feed_forward.down.weight.std().item() == pytest.approx(
            deviation, rel=0.02
        )
        assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="allowed: A, B"):
        linear_deviation("C", WIDTH)


def test_a_width_that_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="does not split"):
        CausalSelfAttention(30, 4)
