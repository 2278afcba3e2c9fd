"""Numbers of answers, worked out by hand: their lengths against an opponent's, their variety, and wins at equal length."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.packing import Example
from posttrain.evaluation.answers import Responses, at_equal_length, distinct, length_ratio, mean_reward, worst_source
from posttrain.statistics.intervals import prompt_wins, share_interval


def answers(lengths: list[int], rewards: list[float] | None = None) -> Responses:
    examples = [Example((1,), (tuple(range(n)),)) for n in lengths]
    return Responses(["-"] * len(lengths), rewards, [True] * len(lengths), examples)


def test_the_ratio_of_lengths_is_of_all_tokens():
    ratio = length_ratio(answers([2, 4, 6, 8]), answers([1, 1, 2, 4]), samples=1)
    assert ratio.value == pytest.approx(20 / 8)
    assert ratio.low < 2.5 < ratio.high
    assert length_ratio(answers([3, 3, 5, 5]), answers([3, 3, 5, 5]), samples=2).value == 1


def test_variety_counts_pairs_of_neighbouring_words():
    """a b, b a, a b of the first text and c d of the second: three of four are different."""
    assert distinct(["a b a b", "c d"]) == 3 / 4
    assert distinct(["word", ""]) == 0


def test_a_verifier_that_says_right_to_everything_may_be_wrong_next_time():
    """Eight of eight with two of each added: 10 of 12, whose standard error is √(5/36 / 11) = .11237; t of 11 is 2.201."""
    right = mean_reward([1.0] * 8, 1)
    assert (right.value, right.high) == (1, 1)
    assert right.low == pytest.approx(10 / 12 - 2.20099 * 0.11237, abs=1e-4)
    assert mean_reward([0.0] * 8, 1).high == pytest.approx(1 - right.low)
    assert mean_reward([1.0, None, 0.0, 1.0, None, None], 2).value == pytest.approx(2 / 3)  # the third prompt has none
    assert mean_reward([0.5] * 8, 1).interval == (0.5, 0.5)  # no share: any other reward was possible, and none was seen


def test_wins_by_longer_answers_alone_are_no_wins_at_equal_length():
    """Of 40 prompts the answer wins where it is longer; it is longer on 30 of them."""
    longer = [index % 4 != 0 for index in range(40)]
    ours = answers([20 if each else 4 for each in longer], [1.0 if each else -1.0 for each in longer])
    theirs = answers([12] * 40, [0.0] * 40)
    controlled = at_equal_length(prompt_wins(ours.rewards, theirs.rewards), ours, theirs, samples=1)
    assert controlled.value < 0.75
    assert controlled.low < 0.5


def test_several_answers_to_a_prompt_are_one_unit():
    """Each answer meets each of the opponent's: 1 beats 0 and loses to 2, so every prompt is half won."""
    ours, theirs = answers([5] * 8, [1.0, 1.0] * 4), answers([5] * 8, [0.0, 2.0] * 4)
    won = prompt_wins(ours.rewards, theirs.rewards, 2)
    assert at_equal_length(won, ours, theirs, samples=2).value == pytest.approx(0.5, abs=1e-6)


def test_the_worst_source_is_told_and_small_ones_count_together():
    """A wins 8 of 8, B 2 of 8, and C and D together 4 of 8; of C alone, with 1 of 5, nothing can be said."""
    won = np.array([1.0] * 8 + [1.0] * 2 + [0.0] * 6 + [1.0] + [0.0] * 4 + [1.0] * 3)
    sources = ["a"] * 8 + ["b"] * 8 + ["c"] * 5 + ["d"] * 3
    assert worst_source("sft", won, sources) == {"worst_source_win_rate_vs_sft": share_interval([1.0] * 2 + [0.0] * 6)}
    won[8:16] = 1.0
    assert worst_source("sft", won, sources)["worst_source_win_rate_vs_sft"].value == 0.5
    won[16:] = np.nan
    assert worst_source("sft", won, sources)["worst_source_win_rate_vs_sft"].value == 1.0


def test_with_few_prompts_all_sources_count_together():
    assert worst_source("sft", np.array([1.0, 0.0, np.nan]), ["a", "b", "c"])["worst_source_win_rate_vs_sft"].value == 0.5
    assert worst_source("sft", np.array([np.nan]), ["a"]) == {}
