"""Numbers and times as a person reads them."""

from __future__ import annotations

import math

import pytest

from posttrain.report import text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, text.ABSENT),
        (0, "0"),
        (0.0, "0"),
        (3.0, "3"),
        (1234567, "1,234,567"),
        (12345.678, "12,346"),
        (0.74214, "0.7421"),
        (999.94, "999.9"),
        (-0.21, "-0.21"),
        (0.00012345, "1.23e-04"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_number(value: float | None, written: str) -> None:
    assert text.number(value) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (None, text.ABSENT),
        (0.034, "0.03 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 0 s"),
        (80, "1 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_duration(seconds: float | None, written: str) -> None:
    """59.97 s rounds to the minute; 3,599.6 s to 3,600; 7,500 s are 2 x 3,600 + 5 x 60."""
    assert text.duration(seconds) == written


def test_limits_of_every_kind() -> None:
    assert text.limits({"min": 0.6, "lower_bound_above": 0.5}) == "≥ 0.6, interval above 0.5"
    assert text.limits({"max": 1.1}) == "≤ 1.1"
