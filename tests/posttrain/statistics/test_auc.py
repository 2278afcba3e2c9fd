"""The area under the ROC curve by hand, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.statistics.auc import area, auc


def test_by_hand():
    """3 against 1 and 3: above one, equal to the other: 1.5. 2: above one: 1. Of four couples 2.5: 0.625."""
    assert area(np.array([3.0, 2.0]), np.array([1.0, 3.0])) == 0.625
    found = auc([3.0, 1.0, 2.0, 3.0], [True, False, True, False])
    assert found is not None
    assert found.value == 0.625


def test_without_one_kind_there_is_none():
    assert auc([1.0, 2.0], [True, True]) is None
    assert auc([], []) is None
    assert area(np.array([]), np.array([1.0])) == 0.5


def test_the_interval_covers_the_true_area():
    """Normal scores one standard deviation apart: P(X > Y) = Φ(1 / √2) = 0.7602. Of 200 samples at least 190 cover it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        scores = np.concatenate([rng.normal(1, 1, 25), rng.normal(0, 1, 25)])
        found = auc(scores.tolist(), [True] * 25 + [False] * 25)
        assert found is not None
        assert found.interval is not None
        covered += found.interval[0] <= 0.7602 <= found.interval[1]
    assert covered >= 190


def test_an_area_of_1_leaves_room_and_more_units_leave_less():
    few, many = (auc([*range(2 * n)], [at >= n for at in range(2 * n)]) for n in (5, 200))
    assert few is not None
    assert many is not None
    assert few.value == many.value == 1.0
    assert few.interval is not None
    assert many.interval is not None
    assert few.interval[0] < many.interval[0] < 1.0


def test_answers_to_one_prompt_are_no_new_information():
    """Every score four times: as independent units they would halve the interval, as groups they leave it about as wide."""
    rng = np.random.default_rng(1)
    scores, kinds = rng.normal(0, 1, 40) + np.repeat([1, 0], 20), np.repeat([True, False], 20)
    once = auc(scores.tolist(), kinds.tolist())
    again = auc(np.repeat(scores, 4).tolist(), np.repeat(kinds, 4).tolist(), np.repeat(np.arange(40), 4).tolist())
    apart = auc(np.repeat(scores, 4).tolist(), np.repeat(kinds, 4).tolist())
    widths = [each.interval[1] - each.interval[0] for each in (once, again, apart) if each and each.interval]
    assert widths[1] > 0.8 * widths[0]
    assert widths[2] < 0.7 * widths[0]
    assert again is not None
    assert once is not None
    assert again.value == pytest.approx(once.value)
