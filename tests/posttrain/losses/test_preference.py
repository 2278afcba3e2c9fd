"""The DPO family against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.preference import LOSSES, at_start, preference_loss

LN2 = 0.693147


def pairs(*logits: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Policy and reference whose log-ratio of chosen over rejected differs by each of `logits`; one half on either side."""
    reference = torch.tensor([[-20.0, -35.0]]).repeat(len(logits), 1)
    change = torch.tensor([[x / 2, -x / 2] for x in logits])
    return reference + change, reference


def test_sigmoid_loss_by_hand():
    """β = 0.1. Equal ratios: -log sigmoid(0) = ln 2. β·logits = 1: ln(1 + e⁻¹) = 0.313262. 2: 0.126928. -1: 1 + 0.313262."""
    losses, _ = preference_loss(*pairs(0.0, 10.0, 20.0, -10.0), beta=0.1)
    assert losses.tolist() == pytest.approx([LN2, 0.313262, 0.126928, 1.313262], abs=2e-6)


def test_sigmoid_loss_is_ln_2_where_policy_and_reference_agree_whatever_the_pair():
    same = torch.tensor([[-3.0, -90.0], [-90.0, -3.0]])
    losses, rewards = preference_loss(same, same.clone(), beta=0.7)
    assert losses.tolist() == pytest.approx([LN2, LN2], abs=1e-6)
    assert rewards.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_label_smoothing_mixes_in_the_flipped_label():
    """ε = 0.1 at β·logits = 1: 0.9 · 0.313262 + 0.1 · 1.313262 = 0.413262; at 0 both labels cost ln 2."""
    losses, _ = preference_loss(*pairs(10.0, 0.0), beta=0.1, smoothing=0.1)
    assert losses.tolist() == pytest.approx([0.413262, LN2], abs=2e-6)


def test_ipo_loss_by_hand():
    """β = 0.1, so the target is 1 / 0.2 = 5: logits 2 → 9, 5 → 0, 0 → 25, 7 → 4."""
    losses, _ = preference_loss(*pairs(2.0, 5.0, 0.0, 7.0), beta=0.1, loss="ipo")
    assert losses.tolist() == pytest.approx([9, 0, 25, 4], abs=1e-4)


def test_hinge_loss_by_hand():
    """β = 0.1: max(0, 1 - 0.1·2) = 0.8; at 10 the margin is met, beyond it stays 0; at -5 it is 1.5."""
    losses, _ = preference_loss(*pairs(2.0, 10.0, 15.0, -5.0), beta=0.1, loss="hinge")
    assert losses.tolist() == pytest.approx([0.8, 0, 0, 1.5], abs=1e-6)


def test_rewards_are_beta_times_the_log_ratios_and_carry_no_gradient():
    """Chosen: 0.1 · (-18 + 20) = 0.2; rejected: 0.1 · (-36 + 35) = -0.1."""
    policy = torch.tensor([[-18.0, -36.0]], requires_grad=True)
    losses, rewards = preference_loss(policy, torch.tensor([[-20.0, -35.0]]), beta=0.1)
    assert rewards.flatten().tolist() == pytest.approx([0.2, -0.1], abs=1e-6)
    assert not rewards.requires_grad
    assert losses.requires_grad


@pytest.mark.parametrize("loss", list(LOSSES))
def test_every_loss_pushes_chosen_up_and_rejected_down_at_the_start(loss):
    """d loss / d logits at 0 is negative: sigmoid -β/2, ipo -1/β, hinge -β; β = 0.5 gives -0.25, -2, -0.5."""
    policy = torch.zeros(1, 2, requires_grad=True)
    losses, _ = preference_loss(policy, torch.zeros(1, 2), beta=0.5, loss=loss)
    losses.sum().backward()
    slope = {"sigmoid": -0.25, "ipo": -2.0, "hinge": -0.5}[loss]
    assert policy.grad.flatten().tolist() == pytest.approx([slope, -slope], abs=1e-6)


@pytest.mark.parametrize(("loss", "expected"), [("sigmoid", math.log(2)), ("ipo", 25.0), ("hinge", 1.0)])
def test_loss_at_the_start_by_hand(loss, expected):
    """logits = 0, β = 0.1: ln 2; (1 / 0.2)² = 25; 1."""
    assert at_start(loss, 0.1) == pytest.approx(expected, rel=1e-6)


def test_a_hopeless_pair_gives_a_finite_loss_and_gradient():
    """β·logits = -1000: log sigmoid must not be log(0); the loss is 1000."""
    policy = torch.tensor([[-1000.0, 0.0]], requires_grad=True)
    losses, _ = preference_loss(policy, torch.zeros(1, 2), beta=1.0)
    losses.sum().backward()
    assert losses.item() == pytest.approx(1000)
    assert policy.grad.flatten().tolist() == pytest.approx([-1.0, 1.0])
