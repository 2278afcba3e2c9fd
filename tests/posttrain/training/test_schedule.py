"""Learning rates by hand."""

from __future__ import annotations

import pytest

from posttrain.training.schedule import learning_rate
from schemas.training import Optimization


def rates(steps: int, **spec) -> list[float]:
    section = Optimization(learning_rate=0.8, **spec)
    return [learning_rate(step, steps, section) for step in range(steps)]


def test_linear_by_hand():
    """10 steps, 2 of warm-up: 0.8/3, 1.6/3; then 0.8 · (1 - k/8) for k = 0 … 7."""
    expected = [0.8 / 3, 1.6 / 3, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert rates(10, schedule="linear", warmup_share=0.2) == pytest.approx(expected)


def test_cosine_by_hand():
    """4 steps without warm-up: 0.4 · (1 + cos(kπ/4)) = 0.8, 0.4 + 0.4·0.707107, 0.4, 0.4 - 0.4·0.707107."""
    assert rates(4, schedule="cosine", warmup_share=0) == pytest.approx([0.8, 0.682843, 0.4, 0.117157], abs=1e-6)


def test_constant_by_hand():
    """Warm-up over 4 of 8 steps by fifths of the peak, then the peak."""
    assert rates(8, schedule="constant", warmup_share=0.5) == pytest.approx([0.16, 0.32, 0.48, 0.64, 0.8, 0.8, 0.8, 0.8])


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_every_step_has_a_rate_above_0_and_at_most_the_peak(schedule, steps):
    for share in (0.0, 0.05, 0.99):
        assert all(0 < rate <= 0.8 + 1e-9 for rate in rates(steps, schedule=schedule, warmup_share=share))


@pytest.mark.parametrize(("steps", "share", "below"), [(8, 0.05, 1), (10, 0.05, 1), (30, 0.05, 2), (30, 0.1, 3), (8, 0.0, 0)])
def test_warm_up_is_rounded_up_to_whole_steps_below_the_peak(steps, share, below):
    """0.05 · 8 = 0.4 is a step, 0.05 · 30 = 1.5 are 2; 0.1 · 30 = 3.0000000000000004 are 3; a share of 0 is none."""
    found = rates(steps, schedule="constant", warmup_share=share)
    assert found == pytest.approx([0.8 * k / (below + 1) for k in range(1, below + 1)] + [0.8] * (steps - below))
