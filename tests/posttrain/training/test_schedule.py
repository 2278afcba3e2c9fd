"""Learning rates by hand."""

from __future__ import annotations

import pytest

from posttrain.training.schedule import learning_rate
from schemas.training import Optimization


def rates(steps: int, **spec) -> list[float]:
    section = Optimization(learning_rate=0.8, **spec)
    return [learning_rate(step, steps, section) for step in range(steps)]


def test_linear_by_hand():
    """10 steps, 2 of warm-up: 0.4, 0.8; then 0.8 · (1 - k/8) for k = 0 … 7."""
    expected = [0.4, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert rates(10, schedule="linear", warmup_share=0.2) == pytest.approx(expected)


def test_cosine_by_hand():
    """4 steps without warm-up: 0.4 · (1 + cos(kπ/4)) = 0.8, 0.4 + 0.4·0.707107, 0.4, 0.4 - 0.4·0.707107."""
    assert rates(4, schedule="cosine", warmup_share=0) == pytest.approx([0.8, 0.682843, 0.4, 0.117157], abs=1e-6)


def test_constant_by_hand():
    """Warm-up over 4 of 8 steps, then the peak."""
    assert rates(8, schedule="constant", warmup_share=0.5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_every_step_has_a_rate_above_0_and_at_most_the_peak(schedule, steps):
    for share in (0.0, 0.05, 0.99):
        assert all(0 < rate <= 0.8 + 1e-9 for rate in rates(steps, schedule=schedule, warmup_share=share))


def test_warm_up_of_less_than_half_a_step_is_none():
    """0.05 · 8 = 0.4 rounds to 0."""
    assert rates(8, schedule="constant", warmup_share=0.05) == [0.8] * 8
