"""Token cross-entropy."""

from __future__ import annotations

from torch import Tensor


def cross_entropy_sum(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of N target tokens, summed: the caller divides by the targets of the whole optimizer step.

    Args:
        logprobs: [N] log-probabilities of the targets.
    """
    return -logprobs.float().sum()
