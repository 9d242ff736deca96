"""Mechanism off means baseline, bit for bit."""

import pytest
import torch

from lib.character.models.lct import LCTConfig
from lib.character.models.transformer import TransformerConfig
from lib.character.objectives import (
    Dispersion,
    LayerLosses,
    Segments,
    Standard,
    Visits,
    dispersion,
)
from lib.character.run import WindowWork
from lib.text.windows import Windows
from lib.training.loop import Training, train


def trained(corpus, objective, config=None, **numbers):
    """Weights after two epochs from one start."""
    torch.manual_seed(3)
    model = (config or TransformerConfig(layers=2)).build(97)
    windows = tuple(
        Windows.cut(corpus.alphabet.encode(text), 64) for text in (corpus.train, corpus.valid)
    )
    training = Training(epochs=2, **numbers)
    record = train(WindowWork(model, objective, windows, training, 0), training)
    return model.state_dict(), record


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_off_is_standard_training_and_what_is_on_is_not(corpus):
    off = [Segments(1), Segments(1, joint=True), Segments(1, joint=True, most=1)]
    off += [LayerLosses((0, 1)), Visits((0, 1))]
    on = [Segments(2), LayerLosses((1, 1)), Visits((0, 1, 1))]
    standard = trained(corpus, Standard())[0]
    found = [equal(trained(corpus, objective)[0], standard) for objective in (*off, *on)]
    assert found == [True] * len(off) + [False] * len(on)


def test_a_zero_state_changes_nothing():
    model = TransformerConfig().build(97)
    symbols = torch.randint(97, (2, 64))
    with torch.no_grad():
        plain = model(symbols)
        zero = model.segment(symbols, torch.zeros(1, 64, 64))[0]
    assert torch.equal(plain, zero)


def test_updates_are_counted(corpus):
    windows = (len(corpus.train) - 1) // 64
    batches = -(-windows // 16)
    assert trained(corpus, Standard())[1].updates == 2 * batches
    assert trained(corpus, Standard(updates=2))[1].updates == 4 * batches
    assert trained(corpus, Segments(2))[1].updates == 4 * batches
    assert trained(corpus, Segments(2, joint=True))[1].updates == 2 * batches


def test_layer_weights_must_fit_the_model(corpus):
    with pytest.raises(ValueError, match="3 weights for a model of 2 layers"):
        trained(corpus, LayerLosses((1, 1, 1)))
    with pytest.raises(ValueError, match="nothing to train"):
        trained(corpus, LayerLosses((0, 0)))


def test_dispersion_is_its_formula():
    contexts = torch.randn(50, 8)
    mean = contexts.mean(0)
    expected = -(contexts - mean).norm() / 50 + 0.1 * mean.norm() ** 2
    torch.testing.assert_close(dispersion(contexts, 0.1), expected)


def test_the_h_block_steps_every_second_segment(corpus):
    torch.manual_seed(0)
    model = LCTConfig(2).build(97)
    symbols = torch.randint(97, (2, 64))
    state = model.begin(symbols)
    first = model.contexts(symbols, state)
    second = model.contexts(symbols, first)
    assert torch.equal(first.high, state.high.expand_as(first.high))
    assert not torch.equal(second.high, first.high)
    objective = Dispersion(4)
    objective.begin_epoch()
    assert len(list(objective.losses(model, symbols, symbols))) == 4
