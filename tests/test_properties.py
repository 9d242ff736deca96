"""Properties that hold for any text, any weights and any order, tried on drawn examples."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.base.pretrained import load_base
from lib.cascade.difficulty import CRITERIA, HARD_IS_HIGH, is_hard, threshold_for
from lib.cascade.gate import best_gate
from lib.cascade.modeling import CascadeForCausalLM
from lib.cascade.stage import new_stage
from lib.character.models.hrm import HRMConfig
from lib.character.models.transformer import TransformerConfig
from lib.character.ngrams import unigram_perplexity
from lib.character.objectives import Segments, Standard
from lib.character.run import mean_loss
from lib.depth import exit_gate
from lib.depth.rules import stops
from lib.runs.task import Diverged
from lib.text.alphabet import Alphabet
from lib.text.windows import Windows
from lib.training.loop import perplexity

SYMBOLS, LENGTH = 17, 12
MODELS = [
    (TransformerConfig(layers=2), Standard()),
    (TransformerConfig(initial_state=True), Segments(2)),
    (TransformerConfig(initial_state=True), Segments(2, joint=True)),
    (HRMConfig(width=48), Segments(2)),
]
few = settings(max_examples=15, deadline=None, derandomize=True)


def built(which: int, seed: int):
    torch.manual_seed(seed)
    config, objective = MODELS[which]
    return config.build(SYMBOLS).eval(), objective


models = st.integers(0, len(MODELS) - 1)
seeds = st.integers(0, 2**16)


@few
@given(models, seeds, st.integers(1, LENGTH - 1))
def test_no_model_sees_the_future(which, seed, cut):
    model, objective = built(which, seed)
    text = torch.randint(SYMBOLS, (3, LENGTH))
    other = text.clone()
    other[:, cut:] = torch.randint(SYMBOLS, (3, LENGTH - cut))
    with torch.no_grad():
        before, after = (objective.predict(model, x)[:, :cut] for x in (text, other))
    assert torch.allclose(before, after, atol=1e-5)


@few
@given(models, seeds, st.permutations(range(5)))
def test_rows_of_a_batch_do_not_know_of_each_other(which, seed, order):
    model, objective = built(which, seed)
    text = torch.randint(SYMBOLS, (5, LENGTH))
    with torch.no_grad():
        whole = objective.predict(model, text)
        turned = objective.predict(model, text[list(order)])
        alone = objective.predict(model, text[:1])
    assert torch.allclose(whole[list(order)], turned, atol=1e-5)
    assert torch.allclose(whole[:1], alone, atol=1e-5)


@few
@given(st.integers(2, 400), st.integers(2, 9), seeds)
def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large(size, length, seed):
    torch.manual_seed(seed)
    windows = Windows.cut(torch.randint(size, (5 * length + 1,)), length)
    loss = mean_loss(lambda x: torch.zeros(*x.shape, size), windows)
    assert math.isclose(perplexity(loss), size, rel_tol=1e-4)


@few
@given(st.integers(2, 50), st.integers(1, 20))
def test_counts_of_an_even_text_are_as_perplexed_as_it_has_symbols(size, times):
    text = torch.arange(size).repeat(times)
    assert math.isclose(unigram_perplexity(text, text, size), size, rel_tol=1e-6)


@few
@given(st.text(min_size=1))
def test_a_text_in_its_own_alphabet_comes_back(text):
    alphabet = Alphabet.of(text)
    assert alphabet.decode(alphabet.encode(text)) == text and alphabet.unknown(text) == 0


@few
@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 9), seeds)
def test_every_window_is_seen_once_in_whatever_order(symbols, length, size, seed):
    if symbols <= length:
        return
    windows = Windows.cut(torch.arange(symbols), length)
    order = torch.Generator().manual_seed(seed)
    pieces = list(windows.batches(size, order))
    inputs = torch.cat([x for x, _ in pieces])
    assert torch.equal(inputs.flatten().sort().values, torch.arange(len(windows) * length))
    assert all(torch.equal(y, x + 1) and len(x) <= size for x, y in pieces)


@few
@given(st.lists(st.floats(0, 50), min_size=1, max_size=6), seeds)
def test_the_mean_loss_does_not_depend_on_how_windows_are_batched(shift, seed):
    torch.manual_seed(seed)
    table = nn.Embedding(SYMBOLS, SYMBOLS)
    windows = Windows.cut(torch.randint(SYMBOLS, (len(shift) * LENGTH + 1,)), LENGTH)
    with torch.no_grad():
        whole = mean_loss(table, windows)
        parts = [
            mean_loss(table, Windows(windows.inputs[i : i + 1], windows.targets[i : i + 1]))
            for i in range(len(windows))
        ]
    assert math.isclose(whole, sum(parts) / len(parts), rel_tol=1e-5)


@few
@given(
    st.sampled_from(CRITERIA),
    st.lists(st.floats(-5, 5), min_size=1, max_size=60),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_what_is_hard_at_a_ratio_is_hard_at_every_larger_one(criterion, numbers, one, other):
    values, ratios = torch.tensor(numbers, dtype=torch.float64), sorted((one, other))
    thresholds = [threshold_for(values, ratio, criterion) for ratio in ratios]
    few_hard, more_hard = (is_hard(values, threshold, criterion) for threshold in thresholds)
    assert (more_hard | ~few_hard).all()
    assert few_hard.sum() <= round(ratios[0] * len(numbers)), "never more than the ratio asks for"
    sign = -1 if criterion in HARD_IS_HIGH else 1
    assert sign * thresholds[0] <= sign * thresholds[1]


@few
@given(st.integers(1, 5), st.integers(1, 30), st.floats(-2, 2), st.floats(-2, 2), seeds)
def test_a_token_stops_no_earlier_at_a_higher_threshold(exits, tokens, one, other, seed):
    torch.manual_seed(seed)
    scores, chosen = torch.randn(exits, tokens), tuple(range(exits))
    low, high = (stops(scores, chosen, threshold) for threshold in sorted((one, other)))
    assert (low <= high).all()


BASE = load_base("tiny")


@few
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 6), seeds)
def test_padding_on_the_left_changes_no_answer(lengths, more, seed):
    torch.manual_seed(seed)
    stage = new_stage(BASE.model.config, 1, std=0.2, seed=seed)
    rule = {"criterion": "last_two_layers", "threshold": 0.78}
    model = CascadeForCausalLM.assemble(BASE, [stage], [rule])
    width = max(lengths) + more
    padded, mask = torch.full((len(lengths), width), 2), torch.zeros(len(lengths), width).long()
    rows = [torch.randint(3, 280, (length,)) for length in lengths]
    for number, row in enumerate(rows):
        padded[number, width - len(row) :], mask[number, width - len(row) :] = row, 1
    with torch.no_grad():
        together = model(padded, attention_mask=mask)
        for number, row in enumerate(rows):
            alone = model(row[None])
            assert torch.equal(together.answered_by[number, -len(row) :], alone.answered_by[0])
            assert torch.allclose(together.logits[number, -len(row) :], alone.logits[0], atol=5e-4)


@few
@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 19), st.booleans())
def test_no_gate_is_fitted_on_what_is_no_number(value, place, in_state):
    states, gain = torch.ones(20, 3), torch.ones(20)
    (states[:, 1] if in_state else gain)[place] = value
    with pytest.raises(Diverged, match="no finite numbers"):
        best_gate((states, gain), (torch.ones(9, 3), torch.ones(9)), 0.5)
    with pytest.raises(Diverged, match="no finite numbers"):
        exit_gate.fit([states], [gain])
