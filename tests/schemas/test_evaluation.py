"""Gates: a limit that its metric can never reach, or never miss, is refused when the recipe is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.evaluation import _RANGES, Evaluation, Gates


@pytest.mark.parametrize(
    ("name", "limit", "value", "allowed"),
    [
        ("win_rate_vs_sft", "lower_bound_above", 2, "from 0 to below 1"),
        ("preference_accuracy", "lower_bound_above", 1, "from 0 to below 1"),
        ("preference_accuracy", "min", 1.01, "from 0 to 1"),
        ("win_rate_vs_base", "max", -0.1, "from 0 to 1"),
        ("win_rate_vs_base", "max", 50, "from 0 to 1"),
        ("kl_per_token", "max", -1, "from 0 to inf"),
        ("perplexity_ratio_vs_base", "min", -0.5, "from 0 to inf"),
    ],
)
def test_a_limit_outside_the_metrics_range_is_refused(name, limit, value, allowed):
    with pytest.raises(ValidationError, match=rf"evaluation\.gates\.{name}\.{limit}: found {value:g}") as refused:
        Gates.model_validate({name: {limit: value}})
    assert allowed in refused.value.errors()[0]["ctx"]["allowed"]


def test_the_ends_of_the_range_are_limits_and_a_loss_may_fall_or_rise_by_any_number():
    gates = {"win_rate_vs_sft": {"min": 0, "max": 1, "lower_bound_above": 0}, "kl_per_token": {"max": 0}}
    gates["validation_loss_falls"] = {"min": -3}
    assert Gates.model_validate(gates).given().keys() == gates.keys()


def test_every_gate_has_a_range():
    assert _RANGES.keys() == Gates.model_fields.keys()


def test_a_temperature_by_which_logits_would_be_infinite_is_refused():
    """1e-39 is 0 in fp32; at 0.001 a logit of 1e5 is still far from the largest number."""
    assert Evaluation.model_validate({"temperature": 1e-3}).temperature == 1e-3
    with pytest.raises(ValidationError, match=r"temperature\n +Input should be greater than or equal to 0\.001"):
        Evaluation.model_validate({"temperature": 1e-39})
