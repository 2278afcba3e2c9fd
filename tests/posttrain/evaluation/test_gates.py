"""Gates at, above and below their limits."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from posttrain.evaluation.gates import check_gates
from schemas.evaluation import Gates


def passed(metrics: dict, **gates) -> dict[str, bool]:
    return {report.name: report.passed for report in check_gates(Gates(**gates), metrics)}


@pytest.mark.parametrize(("value", "held"), [(0.49, True), (0.5, True), (0.51, False)])
def test_max_is_inclusive(value, held):
    assert passed({"kl_per_token": value}, kl_per_token={"max": 0.5}) == {"kl_per_token": held}


@pytest.mark.parametrize(("value", "held"), [(0.61, True), (0.6, True), (0.59, False)])
def test_min_is_inclusive(value, held):
    assert passed({"preference_accuracy": value}, preference_accuracy={"min": 0.6}) == {"preference_accuracy": held}


@pytest.mark.parametrize(("low", "held"), [(0.51, True), (0.5, False), (0.4, False)])
def test_the_lower_bound_is_that_of_the_interval_and_must_lie_above(low, held):
    metrics = {"win_rate_vs_sft": 0.9, "win_rate_vs_sft_low": low, "win_rate_vs_sft_high": 0.95}
    assert passed(metrics, win_rate_vs_sft={"lower_bound_above": 0.5}) == {"win_rate_vs_sft": held}


def test_a_limit_of_0_is_a_limit():
    """A limit tested by truthiness would be switched off here."""
    assert passed({"kl_per_token": 0.1}, kl_per_token={"max": 0}) == {"kl_per_token": False}
    assert passed({"kl_per_token": -0.1}, kl_per_token={"min": 0}) == {"kl_per_token": False}
    assert passed({"kl_per_token": 0.0}, kl_per_token={"lower_bound_above": 0}) == {"kl_per_token": False}


def test_a_lower_bound_is_not_passed_without_an_interval():
    """As of a single prompt, which says nothing of how others would come out."""
    assert passed({"kl_per_token": 0.6}, kl_per_token={"lower_bound_above": 0.5}) == {"kl_per_token": False}


def test_all_limits_of_a_gate_must_hold_and_gates_are_reported_each():
    gates = {"kl_per_token": {"min": 0.0, "max": 0.5}, "preference_accuracy": {"min": 0.9}}
    assert passed({"kl_per_token": -0.2, "preference_accuracy": 0.95}, **gates) == {
        "kl_per_token": False,
        "preference_accuracy": True,
    }


def test_a_report_has_value_interval_and_the_limits_that_were_given():
    metrics = {"win_rate_vs_sft": 0.7, "win_rate_vs_sft_low": 0.6, "win_rate_vs_sft_high": 0.8}
    (report,) = check_gates(Gates(win_rate_vs_sft={"lower_bound_above": 0.5}), metrics)
    assert (report.value, report.interval, report.limit) == (0.7, (0.6, 0.8), {"lower_bound_above": 0.5})


def test_no_gates_no_reports():
    assert check_gates(Gates(), {"kl_per_token": 1.0}) == ()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measurement_that_is_no_number_is_never_reported(value):
    """Nothing compares with NaN as it looks: a gate that let it through would promote anything."""
    with pytest.raises(ValidationError):
        check_gates(Gates(kl_per_token={"max": 0.5}), {"kl_per_token": value})
