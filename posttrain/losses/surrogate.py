"""What stands for the policy's objective in a step, token by token, and how tokens are weighed against each other.

N tokens of R responses; `branch` [N] says of which response a token is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LOG_RATIO = 20.0  # nats; a log-ratio counts as at most this, as elsewhere (verl): e^89 is infinite in fp32, and 0 · ∞ no number

Aggregation = Literal["token", "sequence", "constant"]


def of_responses(log_ratios: Tensor, branch: Tensor, responses: int) -> Tensor:
    """[N]: at each token the mean over its response, so that e to it is that response's ratio: GSPO's equation 7 (arXiv
    2507.18071)."""
    counts = log_ratios.new_zeros(responses).index_add(0, branch, torch.ones_like(log_ratios))
    sums = log_ratios.new_zeros(responses).index_add(0, branch, log_ratios)
    return (sums / counts.clamp(min=1))[branch]


def clipped(log_ratios: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """max(-A ρ, -A clip(ρ, 1 - low, 1 + high)) per token [N]: equation 7 of arXiv 1707.06347.

    Bounds that differ are those of DAPO (arXiv 2503.14476, equation 10). Where A < 0 it is at most -A `dual`, which is above 1
    (arXiv 1912.09729, equation 5).
    """
    ratio = log_ratios.clamp(max=LOG_RATIO).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - low, 1 + high))
    return losses if dual is None else torch.where(advantages < 0, torch.minimum(losses, -advantages * dual), losses)


def cispo(logprobs: Tensor, log_ratios: Tensor, advantages: Tensor, high: float) -> Tensor:
    """-A min(ρ, 1 + high) log π per token [N], where the ratio is a weight without a gradient.

    Equations 4 and 5 of arXiv 2506.13585, whose authors use no lower bound.
    """
    return -advantages * log_ratios.detach().clamp(max=LOG_RATIO).exp().clamp(max=1 + high) * logprobs


def importance(logprobs: Tensor, sampled: Tensor, cap: float) -> tuple[Tensor, dict[str, float]]:
    """min(π / q, cap) per token [N], where q is who sampled it: truncated importance sampling (arXiv 1802.01561, section 4.1).

    Where `sampled` [N] is NaN nobody said what q was, and the weight is 1.

    Returns:
        the weights, and how far q is from π: `sampler_kl`, the k3 estimate of KL(q || π) in nats per token, and
        `importance_capped`, the share of weights at the cap; both of tokens whose q is known.
    """
    known = ~sampled.isnan()
    log_ratios = (logprobs - sampled).where(known, 0.0).clamp(max=LOG_RATIO)
    ratios, count = log_ratios.exp(), known.sum().clamp(min=1)
    far = ((ratios - 1 - log_ratios) * known).sum() / count
    capped = ((ratios > cap) & known).sum() / count
    return ratios.clamp(max=cap), {"sampler_kl": float(far), "importance_capped": float(capped)}


def shares(lengths: Tensor, counts: Tensor, aggregation: Aggregation, longest: int) -> tuple[Tensor, Tensor]:
    """How responses of `lengths` [R] tokens enter a loss, where `counts` [R] is false for those left out of it.

    Returns:
        the weight [R] of each of a response's tokens in the sum, and its units [R] int, whose sum divides that. `token` makes a
        mean over tokens, `sequence` one over responses of the mean of their tokens, `constant` one over responses of `longest`
        tokens.
    """
    ones = torch.ones_like(lengths)
    weights = {"token": ones.float(), "sequence": 1 / lengths.float(), "constant": ones.float()}[aggregation]
    units = {"token": lengths, "sequence": ones, "constant": longest * ones}[aggregation]
    return weights * counts, units * counts
