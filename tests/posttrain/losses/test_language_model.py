"""Cross-entropy by hand."""

from __future__ import annotations

import pytest
import torch

from posttrain.losses.language_model import cross_entropy_sum


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
