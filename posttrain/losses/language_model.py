"""Token cross-entropy, and the z-loss that keeps the logits' normaliser near 1."""

from __future__ import annotations

from torch import Tensor


def cross_entropy_sum(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of N target tokens, summed: the caller divides by the targets of the whole optimizer step.

    Args:
        logprobs: [N] log-probabilities of the targets.
    """
    return -logprobs.float().sum()


def z_loss_sum(normaliser: Tensor) -> Tensor:
    """Squared log-normaliser log² Z of N target tokens, summed (PaLM, arXiv 2204.02311 section 5, which weighs it with 1e-4).

    A softmax is invariant to a shift of all logits, so nothing else bounds them; far from 0 they lose precision in bf16.

    Args:
        normaliser: [N] log Z = logsumexp of the logits at each target.
    """
    return normaliser.float().square().sum()
