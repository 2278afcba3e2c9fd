"""Estimates by hand, and intervals with known properties; how often they hold the truth is in tests/bench."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.statistics.intervals import ratio_interval, share_interval, student_t, win_rate, wins
from schemas.estimates import Estimate


def test_a_mean_without_denominators():
    found = ratio_interval([1.0, 2.0, 6.0])
    assert found.value == 3.0
    assert found.low < 3.0 < found.high


def test_a_skewed_sample_reaches_further_on_its_long_side():
    found = ratio_interval([1, 1, 2, 3, 5, 8, 13, 21, 34, 55])
    assert found.high - found.value > 1.2 * (found.value - found.low)


def test_a_ratio_divides_sums_and_is_not_a_mean_of_ratios():
    """(1 + 9) / (1 + 3) = 2.5; the mean of 1 and 3 would be 2."""
    assert ratio_interval([1.0, 9.0], [1.0, 3.0]).value == 2.5


def test_equal_units_have_an_interval_of_no_width():
    assert ratio_interval([0.5] * 20) == Estimate(0.5, (0.5, 0.5))


def test_the_same_numbers_give_the_same_interval():
    numbers = np.random.default_rng(1).normal(size=50).tolist()
    assert ratio_interval(numbers) == ratio_interval(numbers)


def test_the_interval_of_a_mean_is_close_to_the_normal_one():
    """n = 400, standard deviation s: the 95% interval of the mean is ± 1.96 s / 20; resampling moves its ends by a few %."""
    numbers = np.random.default_rng(2).normal(5, 2, 400)
    found = ratio_interval(numbers.tolist())
    half = 1.96 * numbers.std() / math.sqrt(400)
    assert [found.value - found.low, found.high - found.value] == pytest.approx([half, half], rel=0.1)


def test_the_interval_pairs_numerator_and_denominator():
    """Units of ratio exactly 2, whatever their size: resampling both together gives no spread at all."""
    bottom = [1.0, 5.0, 20.0, 100.0]
    assert ratio_interval([2 * b for b in bottom], bottom) == Estimate(2.0, (2.0, 2.0))


def test_win_rate_counts_ties_half():
    """Win, loss, tie, win: (1 + 0 + 0.5 + 1) / 4 = 0.625."""
    found = win_rate([3, 1, 2, 9], [1, 3, 2, 8])
    assert found.value == 0.625
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_tie_is_half_a_win():
    assert wins(np.array([-0.1, 0.0, 3.0])).tolist() == [0.0, 0.5, 1.0]


def test_eight_wins_of_eight_leave_room_for_a_loss():
    """With two more won and two lost: mean 10/12, standard error sqrt(10/12 * 2/12 / 11) = .11237, t of 11 is 2.2010."""
    found = win_rate([1] * 8, [0] * 8)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(10 / 12 - 2.2010 * 0.11237, abs=1e-4)


def test_a_difference_of_shares_lies_between_its_own_bounds():
    """(0, 1, 0, -1) is four units (.5, 1, .5, 0) of a share twice as wide: (2 x - 1) of the ends."""
    found, plain = share_interval([0, 1, 0, -1], -1, 1), share_interval([0.5, 1, 0.5, 0])
    assert found.value == 0
    assert found.interval == pytest.approx([2 * plain.low - 1, 2 * plain.high - 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_has_no_place_in_a_mean(bad):
    """NaN compares with nothing: it would lose where it stands, without a word."""
    for call in (lambda: win_rate([bad, 1], [0, 0]), lambda: share_interval([1, bad]), lambda: ratio_interval([1, bad])):
        with pytest.raises(ValueError, match=r"number \d of 2 is not finite"):
            call()


def test_one_unit_has_an_interval_without_ends():
    assert ratio_interval([3.0]) == Estimate(3.0, (-math.inf, math.inf))


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (7, 2.3646), (30, 2.0423)])
def test_quantiles_of_students_t_are_those_of_the_tables(freedom, quantile):
    assert student_t(freedom) == pytest.approx(quantile, rel=2e-3)


def test_many_units_are_resampled_in_blocks_with_one_result():
    """5,000 units take three blocks. 1.96 s / sqrt(n) again, whatever the blocks."""
    numbers = np.random.default_rng(4).normal(size=5000)
    found = ratio_interval(numbers.tolist())
    half = 1.96 * numbers.std() / math.sqrt(5000)
    assert [found.value - found.low, found.high - found.value] == pytest.approx([half, half], rel=0.1)


def test_several_answers_to_a_prompt_all_meet():
    """Prompt one: 1 and 4 against 2 and 4: loss, loss, win, tie: 1.5 of 4. Prompt two: both beat both."""
    assert win_rate([1, 4, 5, 6], [2, 4, 0, 0], samples=2).value == (1.5 / 4 + 1) / 2


def test_answers_to_one_prompt_are_resampled_together():
    """Four prompts, whose answers are equal: 50 of each say no more than one."""
    few, many = [0.0, 1.0, 3.0, 9.0], [value for value in (0.0, 1.0, 3.0, 9.0) for _ in range(50)]
    found, expected = ratio_interval(many, samples=50), ratio_interval(few)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert np.ptp(ratio_interval(many).interval) < np.ptp(expected.interval) / 5


def test_a_win_rate_against_itself_is_one_half_and_narrows_with_more_ties():
    few, many = win_rate(range(8), range(8)), win_rate(range(512), range(512))
    assert few.value == many.value == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    assert np.ptp(many.interval) < 0.02


def test_units_of_one_prompt_are_one_unit_of_the_interval():
    """Eight prompts of four equal units say as much as eight units; with one unit each, groups change nothing."""
    won = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    prompts = list(range(8))
    repeated, of = [unit for unit in won for _ in range(4)], [prompt for prompt in prompts for _ in range(4)]
    for interval in (share_interval, ratio_interval):
        alone = interval(won)
        assert interval(won, groups=prompts).interval == pytest.approx(alone.interval)
        assert interval(repeated, groups=of).interval == pytest.approx(alone.interval)
        assert interval(repeated).high - interval(repeated).low < 0.6 * (alone.high - alone.low)


def test_of_a_single_prompt_nothing_is_known():
    assert share_interval([1.0, 1.0, 0.0], groups=[5, 5, 5]) == Estimate(pytest.approx(2 / 3), (0.0, 1.0))


def test_the_interval_over_prompts_of_unequal_size_holds_its_level():
    """Pairs of a prompt are won or lost together; prompts have 1 to 8 pairs. Without groups the level is far below .95."""
    rng, held, held_apart = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        sizes = rng.integers(1, 9, 40)
        won = np.repeat((rng.random(40) < 0.7).astype(float), sizes)
        grouped, apart = share_interval(won, groups=np.repeat(np.arange(40), sizes)), share_interval(won)
        held += grouped.low <= 0.7 <= grouped.high
        held_apart += apart.low <= 0.7 <= apart.high
    assert held / 1000 >= 0.92
    assert held_apart / 1000 < 0.75
