"""Estimates by hand, and intervals with known properties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.statistics.intervals import ratio_interval, win_rate


def test_a_mean_without_denominators():
    value, (low, high) = ratio_interval([1.0, 2.0, 6.0])
    assert value == 3.0
    assert 1.0 <= low < 3.0 < high <= 6.0


def test_a_ratio_divides_sums_and_is_not_a_mean_of_ratios():
    """(1 + 9) / (1 + 3) = 2.5; the mean of 1 and 3 would be 2."""
    assert ratio_interval([1.0, 9.0], [1.0, 3.0])[0] == 2.5


def test_equal_units_have_an_interval_of_no_width():
    assert ratio_interval([0.5] * 20) == (0.5, (0.5, 0.5))


def test_the_same_numbers_give_the_same_interval():
    numbers = np.random.default_rng(1).normal(size=50).tolist()
    assert ratio_interval(numbers) == ratio_interval(numbers)


def test_the_interval_of_a_mean_is_close_to_the_normal_one():
    """n = 400, standard deviation s: the 95% interval of the mean is ± 1.96 s / 20; 2,000 resamples move its ends by a few %."""
    numbers = np.random.default_rng(2).normal(5, 2, 400)
    value, (low, high) = ratio_interval(numbers.tolist())
    half = 1.96 * numbers.std() / math.sqrt(400)
    assert [value - low, high - value] == pytest.approx([half, half], rel=0.1)


def test_the_interval_pairs_numerator_and_denominator():
    """Units of ratio exactly 2, whatever their size: resampling both together gives no spread at all."""
    bottom = [1.0, 5.0, 20.0, 100.0]
    assert ratio_interval([2 * b for b in bottom], bottom) == (2.0, (2.0, 2.0))


def test_win_rate_counts_ties_half():
    """Win, loss, tie, win: (1 + 0 + 0.5 + 1) / 4 = 0.625."""
    value, (low, high) = win_rate([3, 1, 2, 9], [1, 3, 2, 8])
    assert value == 0.625
    assert 0 <= low <= value <= high <= 1


def test_several_answers_to_a_prompt_all_meet():
    """Prompt one: 1 and 4 against 2 and 4: loss, loss, win, tie: 1.5 of 4. Prompt two: both beat both."""
    assert win_rate([1, 4, 5, 6], [2, 4, 0, 0], samples=2)[0] == (1.5 / 4 + 1) / 2


def test_answers_to_one_prompt_are_resampled_together():
    """Four prompts, whose answers are equal: 50 of each say no more than one."""
    few, many = [0.0, 1.0, 3.0, 9.0], [value for value in (0.0, 1.0, 3.0, 9.0) for _ in range(50)]
    (mean, interval), (expected, wide) = ratio_interval(many, samples=50), ratio_interval(few)
    assert (mean, *interval) == pytest.approx((expected, *wide))
    assert np.ptp(ratio_interval(many)[1]) < np.ptp(wide) / 5


def test_a_win_rate_against_itself_is_one_half_without_doubt():
    assert win_rate([1, 2, 3], [1, 2, 3]) == (0.5, (0.5, 0.5))
