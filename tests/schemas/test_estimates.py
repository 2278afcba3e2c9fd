"""An estimate among the flat numbers of a stage."""

from __future__ import annotations

import pytest

from schemas.estimates import Estimate, flattened

FLAT = {"rate": 0.6, "rate_low": 0.5, "rate_high": 0.7, "perplexity": 12.0}


def test_flat_numbers_and_estimates_are_each_others_opposite():
    estimates = {"rate": Estimate(0.6, (0.5, 0.7)), "perplexity": Estimate(12.0)}
    assert list(flattened(estimates).items()) == list(FLAT.items())
    assert {name: Estimate.of(FLAT, name) for name in estimates} == estimates


def test_without_an_interval_both_ends_are_the_value():
    assert (Estimate(12.0).low, Estimate(12.0).high) == (12.0, 12.0)
    assert (Estimate(0.6, (0.5, 0.7)).low, Estimate(0.6, (0.5, 0.7)).high) == (0.5, 0.7)


def test_a_number_that_was_not_measured_is_no_estimate():
    with pytest.raises(KeyError, match="kl_per_token"):
        Estimate.of(FLAT, "kl_per_token")
