"""What is said of the arithmetic of a CPU is what it measures, not what its instructions promise."""

from __future__ import annotations

import pytest

from posttrain.runtime import device
from schemas.recipe import Compute

LARGE, SMALL = 135_000_000, 1_000_000


@pytest.fixture
def has_instructions(monkeypatch):
    monkeypatch.setattr(device, "_cpu_has_bfloat16", lambda: True)


@pytest.mark.parametrize(
    ("dtype", "gain", "said"),
    [
        ("auto", 1.9, "1.9 times as fast"),
        ("float32", 1.9, "1.9 times as fast"),
        ("float32", 0.5, None),
        ("auto", 1.1, None),
        ("bfloat16", 1.9, None),
        ("bfloat16", 0.5, "take 2.0 times as long"),
        ("bfloat16", 0.95, None),
    ],
)
def test_the_faster_arithmetic_is_named(dtype, gain, said, has_instructions):
    hint = device.bfloat16_hint(Compute(device="cpu", dtype=dtype), LARGE, lambda: gain)
    assert (said in hint) if said else hint is None


def test_a_small_model_is_not_measured(has_instructions):
    def unwanted() -> float:
        raise AssertionError

    assert device.bfloat16_hint(Compute(device="cpu"), SMALL, unwanted) is None


def test_the_gain_is_a_ratio_of_two_times():
    assert 0 < device.bfloat16_gain() < 1000
