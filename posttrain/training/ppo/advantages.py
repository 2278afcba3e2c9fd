"""What scored responses teach: advantages by the recipe's estimator, targets of the critic, and how well it foresaw returns."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.losses import ppo
from posttrain.losses.surrogate import shares
from posttrain.training.ppo.experience import Experience, Scored
from schemas.ppo import PPO


def estimate(scored: Scored, scores: Tensor, spec: PPO, coefficient: float, ended: Tensor | None = None) -> Experience:
    """Advantages of scored responses; `scores` [R] are their rewards, `coefficient` that of the divergence.

    A response whose score is NaN has none: its advantages are 0, its values are trained to stay as they are, and no statistic
    counts it. `ended` [R] says which responses were not cut; None: all. A divergence in the reward is one of every token where
    there is a critic, else of the response.
    """
    applies, scores = ~scores.isnan(), scores.nan_to_num(nan=0.0)
    lengths = torch.tensor(scored.lengths)
    counts = torch.ones_like(applies) if ended is None or not spec.mask_truncated else ended
    weights, units = shares(lengths, counts, spec.aggregation, spec.max_new_tokens)
    penalties = scored.rows(_penalties(scored, spec, coefficient))
    if spec.advantage == "gae":
        advantages, returns, numbers = _with_critic(scored, scores, penalties, applies, spec)
    else:
        advantages, returns, numbers = _by_comparison(scored, scores - penalties.sum(1), applies, spec), None, {}
    return Experience(scored, advantages, returns, weights.repeat_interleave(lengths), units, numbers)


def _penalties(scored: Scored, spec: PPO, coefficient: float) -> Tensor:
    """[N]: what the divergence from the reference takes off the reward of each token."""
    if scored.reference is None or spec.kl_place != "reward":
        return torch.zeros_like(scored.logprobs)
    return coefficient * ppo.DIVERGENCES[spec.kl_estimator](scored.logprobs, scored.reference)


def _by_comparison(scored: Scored, totals: Tensor, applies: Tensor, spec: PPO) -> Tensor:
    """[N]: a response's advantage over the others of its prompt, at each of its tokens."""
    if spec.advantage == "rloo":
        per_response = ppo.leave_one_out(totals, spec.samples, applies)
    else:
        per_response = ppo.group_relative(totals, spec.samples, applies, spec.scale_rewards)
    return per_response.repeat_interleave(torch.tensor(scored.lengths))


def _with_critic(
    scored: Scored, scores: Tensor, penalties: Tensor, applies: Tensor, spec: PPO
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Advantages [N], what the values are trained to predict [N], and how well they foresaw the returns."""
    assert scored.values is not None  # gae has a critic
    mask = scored.mask
    counted = mask * applies[:, None]
    rewards, values = ppo.token_rewards(scores, penalties, mask), scored.rows(scored.values)
    rewards = ppo.whiten(rewards, counted, shift=False) if spec.whiten_rewards else rewards
    advantages, bootstrapped = ppo.gae(rewards, values, mask, spec.gamma, spec.lam)
    _, sampled = ppo.gae(rewards, values, mask, spec.gamma, 1.0)
    _, targets = ppo.gae(rewards, values, mask, spec.gamma, spec.lambda_value)
    targets = targets.where(applies[:, None], values)
    numbers = {
        "explained_variance": ppo.explained_variance(values, bootstrapped, counted),
        "explained_variance_mc": ppo.explained_variance(values, sampled, counted),
        "value_bias": ppo.masked_mean(values - sampled, counted),
    }
    found = {name: float(value) for name, value in numbers.items()}
    return scored.flat(ppo.whiten(advantages, counted)), scored.flat(targets), found
