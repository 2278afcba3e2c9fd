"""Policy optimisation from rewards: advantages and losses as pure functions of tokens.

R responses of at most T tokens are rows; `mask` [R, T] is 1 on their tokens and 0 on padding, which no statistic counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from posttrain.losses.surrogate import LOG_RATIO

Scale = Literal["group", "batch", "none"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of a mask; 0 where it has none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor, shift: bool = True) -> Tensor:
    """Divide by the standard deviation over valid tokens (the biased one); `shift` makes their mean 0, else it stays."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    whitened = (values - mean) * (variance + 1e-8).rsqrt()
    return (whitened if shift else whitened + mean) * mask


def token_rewards(scores: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """Minus the penalty [R, T] at every token, plus the response's score [R] at its last one: section 2.2 of arXiv 1909.08593."""
    rewards = -penalties * mask
    last = mask.sum(1).long() - 1
    return rewards.index_put((torch.arange(len(rewards), device=rewards.device), last), scores, accumulate=True)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, equations 11 and 16); the value after the last token is 0.

    Returns:
        advantages [R, T] and returns [R, T], which the values are trained to predict.
    """
    advantages = torch.zeros_like(rewards)
    ahead = following = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        ahead = (delta + gamma * lam * ahead) * mask[:, t]
        following = values[:, t] * mask[:, t]
        advantages[:, t] = ahead
    return advantages, (advantages + values) * mask


def leave_one_out(totals: Tensor, samples: int, applies: Tensor) -> Tensor:
    """RLOO (arXiv 2402.14740, equation 9): a response's reward [R] less the mean of its prompt's other responses'.

    A response that `applies` [R] excludes counts in no mean; it and one that has no other to compare with get 0.
    """
    groups, counted = totals.view(-1, samples), applies.view(-1, samples)
    groups, others = groups * counted, counted.sum(1, keepdim=True) - 1
    mean_of_others = (groups.sum(1, keepdim=True) - groups) / others.clamp(min=1)
    return ((groups - mean_of_others) * counted * (others > 0)).view(-1)


def group_relative(totals: Tensor, samples: int, applies: Tensor, scale: Scale = "group") -> Tensor:
    """GRPO (arXiv 2402.03300, section 4.1.2): a response's reward [R] in standard deviations from its prompt's mean.

    The deviation (the unbiased one) is that of the prompt's responses, of all (`batch`), or taken as 1 (`none`: Dr. GRPO, arXiv
    2503.20783, section 3.2). A response that `applies` [R] excludes counts in no statistic; it and one that has no other to
    compare with get 0.
    """
    groups, counted = totals.view(-1, samples), applies.view(-1, samples)
    centred = (groups - _mean(groups, counted)) * counted
    if scale == "none":
        return centred.view(-1)
    deviation = _deviation(groups, counted) if scale == "group" else _deviation(totals[None], applies[None])
    return (centred / (deviation + 1e-4)).view(-1)


def _mean(rows: Tensor, counted: Tensor) -> Tensor:
    return (rows * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)


def _deviation(rows: Tensor, counted: Tensor) -> Tensor:
    """The unbiased standard deviation of each row."""
    centred = (rows - _mean(rows, counted)) * counted
    return (centred.square().sum(1, keepdim=True) / (counted.sum(1, keepdim=True) - 1).clamp(min=1)).sqrt()


def varies(totals: Tensor, samples: int, applies: Tensor) -> Tensor:
    """Which prompts [R / samples] have responses with different rewards [R]: where these are compared, others teach nothing."""
    groups, counted = totals.view(-1, samples), applies.view(-1, samples)
    high, low = groups.where(counted, -torch.inf).amax(1), groups.where(counted, torch.inf).amin(1)
    return high > low


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """½ max((V - R)², (V' - R)²) per token, V' = V kept within ± clip of the value at sampling (arXiv 2403.17031, detail 14).

    Without a clip ½ (V - R)².
    """
    if clip is None:
        return 0.5 * (values - returns).square()
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """-log r with r = π_ref / π (Schulman 2020): the unbiased estimate of KL(π || π_ref) per token; it may be negative."""
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """(log r)² / 2 (Schulman 2020): biased, never negative, and its gradient is that of the divergence."""
    return 0.5 * (logprobs - reference).square()


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """r - 1 - log r with r = π_ref / π (Schulman 2020): an unbiased estimate of KL(π || π_ref) per token, never negative.

    log r counts as at most 20; from 89 on the estimate was infinite in fp32.
    """
    log_ratio = (reference - logprobs).clamp(max=LOG_RATIO)
    return log_ratio.exp() - 1 - log_ratio


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""Estimates of the divergence from log-probabilities and the reference's, per token."""


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(R - V) / Var(R) over valid tokens: 1 for a perfect value model, 0 for a constant one.

    Where R is constant there is nothing to explain: 1 if R - V is constant too, else 0 (as scikit-learn has it). Constant to the
    precision of fp32: the variance of its rounding errors would make -10⁶ of it.
    """

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)).square(), mask)

    left, whole = variance(returns - values), variance(returns)
    nothing = torch.finfo(torch.float32).eps ** 2 * masked_mean(returns.square() + values.square(), mask)
    constant = torch.where(left <= nothing, torch.ones_like(left), torch.zeros_like(left))
    return torch.where(whole <= nothing, constant, 1 - left / whole.clamp(min=torch.finfo(whole.dtype).tiny))


def next_coefficient(coefficient: float, kl: float, responses: int, target: float, horizon: float) -> float:
    """Proportional controller of the KL coefficient (arXiv 1909.08593, section 2.2); `kl` in nats per response.

    The paper's factor 1 + e n / h, |e| ≤ 0.2, can be 0 or less from n = 5 h on, which would reward divergence: an update at most
    halves or doubles.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * min(max(1 + error * responses / horizon, 0.5), 2.0)
