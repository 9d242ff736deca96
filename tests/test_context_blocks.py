"""ContextBlock, TokenBlock and heads: equations, widths and the parameter counts of R3."""

import math

import pytest
import torch
from torch import nn

from lib.context.block import (
    ContextBlock,
    TokenBlock,
    gain_matched_std,
    layer_widths,
    matched_context_dim,
    parameter_count,
)
from lib.context.head import NextTokenModel, UntiedHead


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("layout", "context", "token"),
    [("first_layer", 15_394_304, 8_566_272), ("every_layer", 7_091_712, 7_091_712)],
)
def test_parameter_counts_of_the_report(layout, context, token):
    block = ContextBlock(768, 768, 6, layout)
    assert count(block) == context == parameter_count(768, 768, 6, layout)
    assert count(TokenBlock(768, 768, block.widths)) == token


def test_head_and_total_counts_of_the_report():
    head = count(UntiedHead(768, 50257))
    assert head == 38_647_633
    table, norm = 50257 * 768, 2 * 768
    assert 15_394_304 + 8_566_272 + head + table + norm == 101_207_121
    assert 7_091_712 + 7_091_712 + head + table + norm == 91_429_969
    assert 8_566_272 + head + norm == 47_215_441


def test_equal_decrease_widths():
    assert layer_widths(768, 768, 6, "first_layer") == [1408, 1280, 1152, 1024, 896, 768]
    assert layer_widths(128, 128, 6, "first_layer") == [235, 214, 192, 171, 150, 128]
    assert layer_widths(8, 4, 3, "every_layer") == [8, 8, 8]


@pytest.mark.parametrize("layout", ["every_layer", "first_layer", "first_layer_flat"])
def test_forward_is_the_written_equation(layout):
    block = ContextBlock(6, 4, 3, layout, seed=1)
    c, x = torch.randn(5, 6), torch.randn(5, 4)
    outputs = block(c, x)
    h = c
    for index, layer in enumerate(block.layers):
        u = torch.cat([h, x], 1) if layout == "every_layer" or index == 0 else h
        delta = torch.relu(u @ layer.linear.weight.t() + layer.linear.bias)
        r = h if layer.residual is None else layer.residual(h)
        h = nn.functional.layer_norm(r + delta, (delta.shape[1],))
        torch.testing.assert_close(outputs[index], h)
    assert (block.layers[0].residual is not None) == (layout == "first_layer")


def test_same_seed_same_block_and_other_seed_other_block():
    first, again, other = (ContextBlock(4, 4, 2, seed=s) for s in (3, 3, 4))
    assert torch.equal(first.layers[0].linear.weight, again.layers[0].linear.weight)
    assert not torch.equal(first.layers[0].linear.weight, other.layers[0].linear.weight)


def test_gain_matched_std_is_the_report_value_at_the_report_width():
    assert gain_matched_std(1536) == pytest.approx(0.1)
    assert gain_matched_std(384) == pytest.approx(0.2)


def test_matched_width_is_the_nearest():
    target = parameter_count(64, 64, 6, "every_layer")
    width = matched_context_dim(target, 64, 6, "first_layer")
    gap = abs(parameter_count(width, 64, 6, "first_layer") - target)
    for near in (width - 1, width + 1):
        assert gap <= abs(parameter_count(near, 64, 6, "first_layer") - target)


def test_unknown_layout_names_the_allowed_ones():
    with pytest.raises(ValueError, match="every_layer, first_layer"):
        ContextBlock(4, 4, 1, "sideways")


def test_model_takes_one_context_per_layer_and_predicts_uniformly_before_training():
    model = NextTokenModel(TokenBlock(4, 4, [6, 5]), UntiedHead(4, 3))
    targets = torch.tensor([0, 2])
    both = [torch.randn(2, 6), torch.randn(2, 5)]
    assert model.loss(both, torch.randn(2, 4), targets).item() == pytest.approx(math.log(3))
    with pytest.raises(ValueError):
        model.loss(both[:1], torch.randn(2, 4), targets)
