"""KTO: a loss on single answers that are desirable or not (arXiv 2402.01306 section 4).

The implicit reward of an answer is its log-ratio r = log π - log π_ref, summed over its tokens. It is compared with a reference
point z, by which the policy has moved away from the reference as a whole: raising a desirable answer together with everything
else is no gain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """Numbers of the loss."""

    beta: float = 0.1
    """β: scale of the implicit reward."""
    desirable: float = 1.0
    """λ_D: weight of desirable answers."""
    undesirable: float = 1.0
    """λ_U: weight of undesirable answers."""

    def of(self, desirable: Tensor) -> Tensor:
        """[B] weight of each answer, given [B] whether it is desirable."""
        return torch.where(desirable, self.desirable, self.undesirable)


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """The estimate of KL(π || π_ref) in nats, a scalar without a gradient: the mean log-ratio of answers to *other* prompts.

    z_0 of section 4 with its clamp at 0, which makes it a biased estimate of lower variance. 0 where there is no such answer.

    Args:
        policy: [M] summed log-probabilities of M prompts with the answer to another prompt, under the policy.
        reference: [M] the same under the reference.
    """
    log_ratios = policy.detach().float() - reference.float()
    return log_ratios.mean().clamp(min=0) if len(log_ratios) else log_ratios.new_zeros(())


def kto_loss(policy: Tensor, reference: Tensor, desirable: Tensor, z: Tensor, w: Weights) -> tuple[Tensor, Tensor]:
    """λ_y - v(x, y) of equation 8: λ_D sigmoid(-β (r - z)) for a desirable answer, λ_U sigmoid(-β (z - r)) for another.

    Args:
        policy: [B] summed log-probabilities of the answers under the policy.
        reference: [B] the same under the reference.
        desirable: [B] booleans.
        z: the estimate of `divergence`.
        w: numbers of the loss.

    Returns:
        losses [B], and rewards [B] = β r, detached. Both fp32.
    """
    log_ratios = policy.float() - reference.float()
    sign = torch.where(desirable, 1.0, -1.0)
    losses = w.of(desirable) * torch.sigmoid(-w.beta * sign * (log_ratios - z))
    return losses, w.beta * log_ratios.detach()
