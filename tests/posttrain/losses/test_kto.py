"""KTO against values worked out by hand, and against the formula as TRL computes it, written plainly in float64."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.kto import Weights, divergence, kto_loss


def loss_of(ratio: float, liked: bool, z: float, **numbers: float) -> float:
    """Of one answer whose log-ratio to a reference of -20 is `ratio`."""
    policy, reference = torch.tensor([ratio - 20.0]), torch.tensor([-20.0])
    losses, _ = kto_loss(policy, reference, torch.tensor([liked]), torch.tensor(z), Weights(**{"beta": 0.1} | numbers))
    return float(losses[0])


def test_by_hand():
    """β = 0.1. A desirable answer at r = 10, z = 0: 1 / (1 + e) = 0.268941; an undesirable one there: 0.731059.

    At z = 5 the desirable one is only 5 above: 1 / (1 + e^0.5) = 0.377541. At r = z both are one half.
    """
    assert loss_of(10, True, 0) == pytest.approx(0.268941, abs=1e-6)
    assert loss_of(10, False, 0) == pytest.approx(0.731059, abs=1e-6)
    assert loss_of(10, True, 5) == pytest.approx(0.377541, abs=1e-6)
    assert loss_of(3, True, 3) == loss_of(3, False, 3) == pytest.approx(0.5)


def test_each_label_has_its_weight():
    assert loss_of(10, True, 0, desirable=2.0, undesirable=0.5) == pytest.approx(2 * 0.268941, abs=2e-6)
    assert loss_of(10, False, 0, desirable=2.0, undesirable=0.5) == pytest.approx(0.5 * 0.731059, abs=2e-6)


def test_the_divergence_is_a_mean_that_is_never_below_0_and_has_no_gradient():
    """Log-ratios 3 and -1: their mean is 1. -3 and 1: -1, which counts as 0. Of no answers: 0."""
    policy = torch.tensor([-7.0, -11.0], requires_grad=True)
    found = divergence(policy, torch.tensor([-10.0, -10.0]))
    assert float(found) == 1.0
    assert not found.requires_grad
    assert float(divergence(torch.tensor([-13.0, -9.0]), torch.tensor([-10.0, -10.0]))) == 0.0
    assert float(divergence(torch.zeros(0), torch.zeros(0))) == 0.0


def test_the_gradient_by_hand():
    """d/dr of sigmoid(-β (r - z)) at r = z is -β / 4 for a desirable answer, β / 4 for the other."""
    policy = torch.tensor([-5.0, -5.0], requires_grad=True)
    losses, rewards = kto_loss(policy, torch.tensor([-7.0, -7.0]), torch.tensor([True, False]), torch.tensor(2.0), Weights(0.4))
    losses.sum().backward()
    assert policy.grad.tolist() == pytest.approx([-0.1, 0.1])
    assert rewards.tolist() == pytest.approx([0.8, 0.8])
    assert not rewards.requires_grad


def of_trl(policy, reference, labels, policy_kl, reference_kl, beta, desirable, undesirable) -> float:
    """`KTOTrainer.kto_loss` and the mean that the trainer takes of it, term by term: 1 - sigmoid, chosen then rejected."""
    kl = max(0.0, sum(p - r for p, r in zip(policy_kl, reference_kl, strict=True)) / len(policy_kl))
    ratios = [p - r for p, r in zip(policy, reference, strict=True)]
    chosen = [1 - 1 / (1 + math.exp(-beta * (ratio - kl))) for ratio, label in zip(ratios, labels, strict=True) if label]
    rejected = [1 - 1 / (1 + math.exp(-beta * (kl - ratio))) for ratio, label in zip(ratios, labels, strict=True) if not label]
    every = [desirable * each for each in chosen] + [undesirable * each for each in rejected]
    return sum(every) / len(every)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_formula_of_trl(seed):
    draw = torch.Generator().manual_seed(seed)
    policy, reference, policy_kl, reference_kl = (torch.randn(9, generator=draw) * 8 - 60 for _ in range(4))
    labels = torch.rand(9, generator=draw) < 0.6
    z = divergence(policy_kl, reference_kl)
    losses, _ = kto_loss(policy, reference, labels, z, Weights(0.3, 1.3, 0.7))
    columns = (policy.tolist(), reference.tolist(), labels.tolist(), policy_kl.tolist(), reference_kl.tolist())
    assert float(losses.mean()) == pytest.approx(of_trl(*columns, 0.3, 1.3, 0.7), abs=1e-6)
