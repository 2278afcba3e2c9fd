"""Scores and paired differences, by hand."""

from __future__ import annotations

import math

import pytest

from posttrain.evaluation.benchmarks.harness import Answers
from posttrain.evaluation.benchmarks.numbers import changed, difference, of_benchmark, score
from posttrain.statistics.intervals import share_interval


def answers(values, kind="mean", higher=True, weights=None, documents=None):
    names = documents or [f"t/{n}" for n in range(len(values))]
    return Answers("m", kind, higher, names, [float(v) for v in values], weights or [1.0] * len(values), 0)


RIGHT, WORSE = answers([1, 1, 1, 1, 0, 0, 1, 1]), answers([1, 1, 0, 0, 0, 1, 1, 0])


def test_a_difference_is_paired_and_its_interval_is_that_of_the_pairs():
    """Three gained, one lost, of eight: 0.25. Unpaired the same scores would say less."""
    assert score(RIGHT).value == 0.75
    assert difference(RIGHT, WORSE) == share_interval([0, 0, 1, 1, 0, -1, 0, 1], -1, 1)
    assert changed(RIGHT, WORSE) == (3, 1)
    numbers, entry = of_benchmark("t", {"sft": WORSE, "aligned": RIGHT})
    assert numbers["benchmark_t_vs_sft"].value == 0.25
    assert entry["differences"][0]["mcnemar_p"] == numbers["benchmark_t_vs_sft_mcnemar_p"].value == 2 * (1 + 4) / 16


def test_equal_answers_differ_by_nothing_and_leave_room_for_a_loss():
    gap = difference(RIGHT, RIGHT)
    assert gap.value == 0
    assert gap.low < 0 < gap.high


def test_a_lower_value_is_the_better_one_where_the_metric_says_so():
    ours, theirs = answers([2.0, 3.0, 4.0], higher=False), answers([1.0, 1.0, 1.0], higher=False)
    assert difference(ours, theirs).value == pytest.approx(-2)


def test_a_perplexity_is_of_all_words_and_its_difference_in_nats_for_each():
    """-6 nats over 2 words and -6 over 4: e to 12/6; the other has a nat more for each word."""
    ours = answers([-6, -6], "perplexity", False, [2.0, 4.0])
    theirs = answers([-8, -10], "perplexity", False, [2.0, 4.0])
    assert score(ours).value == pytest.approx(math.exp(2))
    assert score(answers([-6, -6], "bits", False, [2.0, 4.0])).value == pytest.approx(2 / math.log(2))
    assert difference(ours, theirs).value == pytest.approx(1.0)
    assert changed(ours, theirs) is None


def test_other_documents_are_not_compared():
    with pytest.raises(ValueError, match="other documents"):
        difference(RIGHT, answers([1] * 8, documents=[f"u/{n}" for n in range(8)]))
