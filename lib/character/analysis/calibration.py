"""Is a model as often right as it is confident? Reliability, ECE and temperature.

Source: Guo et al. 2017, On Calibration of Modern Neural Networks. R4 speaks of
over-confidence without measuring it.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 10
TEMPERATURES = 0.05, 50.0  # lowest and highest that are tried


def reliability(confidence: np.ndarray, correct: np.ndarray) -> list[dict]:
    """Equal-width bins of confidence (N,): count, mean confidence and accuracy; empty ones out.

    A confidence on an edge belongs to the bin below it, so that 1.0 falls into the last.
    """
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows = []
    for bin_ in range(BINS):
        inside = place == bin_
        if inside.any():
            rows.append(
                {
                    "bin": bin_,
                    "count": int(inside.sum()),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(correct[inside].mean()),
                }
            )
    return rows


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over bins, weighted by count; 0 is perfect."""
    rows = reliability(confidence, correct)
    gaps = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in rows)
    return gaps / len(confidence)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature T that minimises the cross-entropy of logits / T, (N, V) and (N,).

    Golden-section search over log T: the loss is convex in 1 / T, hence unimodal in log T. Fit it
    on a split that is not reported.
    """

    def loss(log_temperature: float) -> float:
        return F.cross_entropy(logits / math.exp(log_temperature), targets).item()

    ratio = (math.sqrt(5) - 1) / 2
    left, right = map(math.log, TEMPERATURES)
    inner = [right - ratio * (right - left), left + ratio * (right - left)]
    values = [loss(point) for point in inner]
    while right - left > 1e-3:
        if values[0] < values[1]:
            right, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = right - ratio * (right - left)
            values[0] = loss(inner[0])
        else:
            left, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = left + ratio * (right - left)
            values[1] = loss(inner[1])
    return math.exp((left + right) / 2)


def calibrated(logits: Tensor, temperature: float) -> Tensor:
    """Confidence (N,) of logits (N, V) at a temperature."""
    return torch.softmax(logits / temperature, -1).amax(-1)
