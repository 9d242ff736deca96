"""Calibration against cases whose answer is known."""

import numpy as np
import pytest
import torch

from lib.character.analysis.calibration import (
    calibrated,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


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
