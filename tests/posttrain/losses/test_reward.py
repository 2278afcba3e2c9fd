"""The reward model's loss against numbers worked out by hand, and the first scores of a new head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import tensor

from posttrain.losses.reward import bradley_terry, init_score


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin", "loss"),
    [
        (0.0, 0.0, 0.0, 0.693147),  # ln 2: a coin
        (2.0, 1.0, 0.0, 0.313262),  # ln(1 + e^-1)
        (1.0, 2.0, 0.0, 1.313262),  # ln(1 + e)
        (3.0, 1.0, 0.0, 0.126928),  # ln(1 + e^-2)
        (3.0, 1.0, 1.0, 0.313262),  # a margin of 1 takes 1 off the difference
        (-500.0, 500.0, 0.0, 1000.0),  # no overflow
    ],
)
def test_the_loss_by_hand(chosen, rejected, margin, loss):
    assert bradley_terry(tensor([chosen]), tensor([rejected]), margin).item() == pytest.approx(loss, abs=1e-6)


def test_its_gradient_is_the_chance_of_being_wrong():
    """d/dr_c of -log s(d) is -(1 - s(d)); at d = 1 that is -0.268941."""
    chosen, rejected = tensor([2.0], requires_grad=True), tensor([1.0], requires_grad=True)
    bradley_terry(chosen, rejected).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.268941, abs=1e-6)
    assert rejected.grad.item() == pytest.approx(0.268941, abs=1e-6)


def test_half_precision_is_computed_in_single():
    """In bfloat16 256 and 257 are one number; the difference is taken after the conversion, and the loss is fp32."""
    loss = bradley_terry(tensor([8.0], dtype=torch.bfloat16), tensor([0.0], dtype=torch.bfloat16))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(-8)), rel=1e-5)


def test_first_scores_are_spread_as_a_standard_normal_whatever_the_width():
    """Weights of N(0, 1 / (d + 1)) on a normalised state of d numbers of size 1: a variance of d / (d + 1)."""
    torch.manual_seed(0)
    for width in (16, 1024):
        weights = torch.empty(4000, width)
        for row in weights:
            init_score(row[None])
        assert float(weights.std()) == pytest.approx((width + 1) ** -0.5, rel=0.02)
        scores = weights @ torch.sign(torch.randn(width))
        assert float(scores.std()) == pytest.approx((width / (width + 1)) ** 0.5, rel=0.05)
