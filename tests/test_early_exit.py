"""Exit tables by hand-made readings, calibration whose answer is known, and difficulty groups."""

import numpy as np
import pytest
import torch

from lib.character.analysis.calibration import (
    calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from lib.character.analysis.difficulty import groups
from lib.character.analysis.early_exit import Readings, at_threshold, best_threshold, compute
from lib.character.analysis.layer_contribution import by_group, residual_norms


def readings(confidence, correct, prediction=(0, 0, 0, 0), loss=(1.0, 1.0, 1.0, 1.0)):
    return Readings(*(np.array(x) for x in (loss, confidence, prediction, correct)))


SHALLOW = readings([0.9, 0.9, 0.4, 0.2], [True, False, False, True], [1, 2, 3, 4], [0.1, 3, 2, 1])
DEEP = readings([0.9, 0.9, 0.9, 0.9], [True, False, True, True], [1, 5, 6, 4], [0.2, 2, 0.5, 0.5])


def test_agreement_of_correctness_is_not_agreement():
    row = at_threshold(SHALLOW, DEEP, 0.8, 0.25)
    assert row["agree_correct_pct"] == 100  # both right once, both wrong once
    assert row["agree_pct"] == 50  # but wrong with different symbols
    assert row["exit_pct"] == 50
    assert row["compute_pct"] == pytest.approx(62.5)
    assert row["acc_pct"] == 75
    assert row["ppl"] == pytest.approx(np.exp((0.1 + 3 + 0.5 + 0.5) / 4))
    mixed = 0.5 * np.mean(SHALLOW.loss) + 0.5 * np.mean(DEEP.loss)
    assert row["random_ppl"] == pytest.approx(np.exp(mixed))


def test_a_threshold_above_one_is_the_deep_model_and_zero_the_shallow_one():
    above, zero = (at_threshold(SHALLOW, DEEP, t, 0.25) for t in (1.01, 0.0))
    assert above["ppl"] == pytest.approx(DEEP.perplexity)
    assert above["compute_pct"] == 100
    assert above["agree_pct"] is None
    assert zero["ppl"] == pytest.approx(SHALLOW.perplexity)
    assert zero["compute_pct"] == 25


def test_the_first_threshold_of_highest_accuracy_is_chosen():
    assert best_threshold(SHALLOW, DEEP, (0.1, 0.5, 0.8)) == 0.5
    assert best_threshold(SHALLOW, DEEP, (0.8, 0.5)) == 0.8


def test_compute_is_the_reports_formula():
    assert compute(2375 / 4096, 0.25) == pytest.approx(0.565, abs=1e-3)  # Experiment 9
    assert compute(0.477, 0.5) == pytest.approx(0.7615, abs=1e-4)  # Experiment 10


def test_readings_from_logits():
    found = Readings.of(torch.tensor([[0.0, 2.0], [3.0, 0.0]]), torch.tensor([1, 1]))
    assert found.correct.tolist() == [True, False]
    assert found.confidence[0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert found.loss[1] == pytest.approx(np.log1p(np.exp(3)))


def test_difficulty_groups_and_their_means():
    loss = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    group, low, high = groups(loss)
    assert (low, high) == (1.0, 3.0)
    assert group.tolist() == [0, 0, 1, 2, 2]
    states = [torch.zeros(5, 3), torch.ones(5, 3)]
    rows = by_group([loss], residual_norms(states), group)
    hard = next(row for row in rows if row["group"] == "hard")
    assert hard["loss"] == 3.5
    assert hard["count"] == 2
    assert hard["norm"] == pytest.approx(3**0.5)


def test_a_calibrated_model_has_no_error_and_a_boaster_has():
    confidence = np.full(10, 0.7)
    right = np.array([True] * 7 + [False] * 3)
    assert expected_calibration_error(confidence, right) == pytest.approx(0)
    assert expected_calibration_error(np.full(10, 0.95), right) == pytest.approx(0.25)


def test_bins_hold_every_symbol_once():
    confidence = np.array([0.05, 0.1, 0.55, 0.999, 1.0])
    rows = reliability(confidence, np.ones(5, dtype=bool))
    assert [(row["bin"], row["count"]) for row in rows] == [(0, 2), (5, 1), (9, 2)]
    assert rows[0]["confidence"] == pytest.approx(0.075)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_applied_is_found_again(temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    found = fit_temperature(logits * temperature, targets)
    assert found == pytest.approx(temperature, rel=0.05)
    correct = (logits.argmax(-1) == targets).numpy()
    confidence = calibrated(logits * temperature, found).numpy()
    assert expected_calibration_error(confidence, correct) < 0.02
