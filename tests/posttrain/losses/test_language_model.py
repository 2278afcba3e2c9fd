"""Cross-entropy and z-loss by hand."""

from __future__ import annotations

import pytest
import torch

from posttrain.losses.language_model import cross_entropy_sum, z_loss_sum


def test_cross_entropy_is_the_negative_sum_not_the_mean():
    """-(-0.5 - 1.5 - 2) = 4."""
    assert cross_entropy_sum(torch.tensor([-0.5, -1.5, -2.0])).item() == 4.0


def test_cross_entropy_sums_in_fp32():
    """4096 targets of -16 sum to 65,536: above the largest float16, 65,504."""
    total = cross_entropy_sum(torch.full((4096,), -16.0, dtype=torch.float16))
    assert total.dtype == torch.float32
    assert total.item() == 65_536


def test_every_target_weighs_the_same_in_the_gradient():
    logprobs = torch.tensor([-0.1, -5.0], requires_grad=True)
    cross_entropy_sum(logprobs).backward()
    assert logprobs.grad.tolist() == pytest.approx([-1, -1])


def test_z_loss_is_the_sum_of_squares_and_pulls_the_log_normaliser_to_0():
    """1² + (-2)² + 3² = 14; the slope is twice the log-normaliser."""
    normaliser = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    total = z_loss_sum(normaliser)
    total.backward()
    assert total.item() == 14
    assert normaliser.grad.tolist() == [2, -4, 6]


def test_z_loss_squares_in_fp32():
    """300² = 90,000: above the largest float16."""
    assert z_loss_sum(torch.tensor([300.0], dtype=torch.float16)).item() == 90_000
