"""Calibration by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.statistics.calibration import Reliability, correlation, expected_calibration_error, reliability


def margin_of(confidence: float) -> float:
    """The difference of rewards at which the preferred response has this chance."""
    return float(np.log(confidence / (1 - confidence)))


def test_pairs_are_grouped_by_the_confidence_in_the_preferred_response():
    """0.52 and 0.53 (the second wrong) share the first of ten bins of 0.05 from 0.5 on; 0.97 wrong is in the last."""
    margins = np.array([margin_of(0.52), -margin_of(0.53), -margin_of(0.97)])
    first, last = reliability(margins)
    assert (first.accuracy, first.pairs) == (0.5, 2)
    assert first.confidence == pytest.approx(0.525)
    assert (last.accuracy, last.pairs) == (0.0, 1)
    assert last.confidence == pytest.approx(0.97)


def test_a_tie_is_half_right_and_certainty_has_a_bin():
    assert reliability(np.array([0.0])) == [Reliability(0.5, 0.5, 1)]
    assert reliability(np.array([1000.0])) == [Reliability(1.0, 1.0, 1)]


def test_the_error_by_hand():
    """(2 |0.5 - 0.525| + 1 |0 - 0.97|) / 3 = (0.05 + 0.97) / 3 = 0.34."""
    assert expected_calibration_error([Reliability(0.525, 0.5, 2), Reliability(0.97, 0.0, 1)]) == pytest.approx(0.34)


def test_a_model_that_is_right_as_often_as_it_says_has_no_error():
    """Ten pairs at a confidence of 0.8, eight of them right."""
    margins = np.array([margin_of(0.8)] * 8 + [-margin_of(0.8)] * 2)
    assert expected_calibration_error(reliability(margins)) == pytest.approx(0.0, abs=1e-12)


def test_correlation_by_hand():
    """(1, 2, 3) against (1, 3, 2): covariance 1/3, variances 2/3 each."""
    assert correlation(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)
    assert correlation(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0.0
