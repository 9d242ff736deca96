"""Intervals, tests and rates: their promises, not their formulas."""

import numpy as np
import pytest
from scipy import stats

from lib.results.statistics import (
    Interval,
    bounded_interval,
    discovery_rate,
    equivalence_p,
    interval,
    p_value,
    percent_change,
    percent_interval,
    sensible,
)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", ["levels", "percent"])
def test_intervals_of_few_seeds_hold_the_true_mean_as_often_as_they_say(n, kind):
    draws = np.random.default_rng(n).normal(size=(600, n))
    if kind == "levels":
        held = [found.low < 0 < found.high for found in map(interval, draws)]
    else:
        ratios = 100 * (np.exp(0.5 + draws) - 1)
        true = 100 * (np.exp(0.5) - 1)
        held = [found.low < true < found.high for found in map(percent_interval, ratios)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_no_percent_change_reaches_below_minus_one_hundred():
    wild = [-99.9, -20.0, 400.0]
    assert interval(wild).low < -100 < percent_interval(wild).low < 0
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = percent_interval(percent_change(rng.lognormal(0, 4, 5), rng.lognormal(0, 4, 5)))
        assert -100 <= found.low <= found.mean <= found.high


def test_a_ratio_and_its_inverse_say_the_same():
    one, other = np.array([10.0, 12.0, 9.0]), np.array([11.0, 15.0, 14.0])
    found = percent_interval(percent_change(one, other))
    turned = percent_interval(percent_change(other, one))
    assert (1 + found.low / 100) * (1 + turned.high / 100) == pytest.approx(1)
    assert (1 + found.mean / 100) * (1 + turned.mean / 100) == pytest.approx(1)


def test_shares_stay_between_their_bounds():
    assert interval([99.0, 100.0, 100.0]).high > 100
    assert bounded_interval([99.0, 100.0, 100.0], (0, 100)).high == 100
    assert bounded_interval([0.0, 0.0, 0.1], (0, 1)).low == 0


def test_failed_runs_and_no_runs_are_no_numbers():
    for values, said in (
        ([1.0, float("inf")], "not finite"),
        ([1.0, float("nan")], "not finite"),
        ([], "one value a seed"),
        ([[1.0]], "one value a seed"),
    ):
        with pytest.raises(ValueError, match=said):
            interval(values)
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="not finite"):
        percent_interval([-100.0, 5.0])


def test_one_value_and_equal_values_have_no_width():
    for values in ([2.0], [2.0, 2.0, 2.0]):
        found = interval(values)
        assert found == Interval(2.0, 2.0, 2.0, len(values)) and str(found) == "2"


def test_a_p_value_and_its_interval_agree():
    rng = np.random.default_rng(3)
    for _ in range(300):
        values = rng.normal(0.8, 1.0, 5)
        found = interval(values)
        assert (p_value(values, 0.0) < 0.05) == found.excludes(0.0)
        # two one-sided tests at 5 % are a 90 % interval inside the bounds
        low, high = stats.t.interval(0.9, 4, values.mean(), stats.sem(values))
        assert (equivalence_p(values, -2.0, 2.0) < 0.05) == (-2.0 < low and high < 2.0)


def test_values_that_agree_and_single_values_are_decided_plainly():
    assert (p_value([1.0, 1.0], 0.0), p_value([0.0, 0.0], 0.0), p_value([3.0], 0.0)) == (0, 1, 1)
    assert equivalence_p([1.0, 1.0], -2.0, 2.0) == 0 and equivalence_p([3.0, 3.0], -2.0, 2.0) == 1
    assert equivalence_p([0.0], -2.0, 2.0) == 1


def test_equality_must_be_shown_and_is_not_the_absence_of_a_difference():
    few = np.array([-3.0, 0.0, 3.5])
    assert p_value(few, 0.0) > 0.5 and equivalence_p(few, -1.0, 1.0) > 0.05


def test_the_rate_of_false_discoveries_is_that_of_benjamini_and_hochberg():
    p = [0.01, 0.04, 0.03, 0.5]
    assert discovery_rate(p).tolist() == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert len(discovery_rate([])) == 0
    rng = np.random.default_rng(5)
    hits = [bool((discovery_rate(rng.uniform(size=40)) < 0.05).any()) for _ in range(400)]
    assert np.mean(hits) < 0.08, "40 true null hypotheses: seldom a single discovery"


def test_changes_are_paired():
    assert percent_change([11, 22], [10, 20]).tolist() == pytest.approx([10, 10])


def test_numbers_are_shown_with_the_digits_they_carry():
    assert str(Interval(12.3456, 12.1, 12.6, 5)) == "12.35 [12.10, 12.60]"
    assert str(Interval(12345.6, 11000.0, 13000.0, 5)) == "12,346 [11,000, 13,000]"
    assert [sensible(x) for x in (0.0, 6.9934, 0.012345, 12345.6)] == [
        "0", "6.993", "0.01235", "12,346"
    ]  # fmt: skip
