"""What a policy did in one iteration and what is to be learned from it: responses, scores, advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from posttrain.data.packing import Example
from posttrain.losses import ppo
from schemas.ppo import PPO


@dataclass(frozen=True)
class Scored:
    """P prompts with their responses, R in all, and what policy, reference and critic say of the N tokens of these.

    Tokens are in the order of the examples and their branches.
    """

    examples: list[Example]
    logprobs: Tensor  # [N] under the policy that sampled them
    reference: Tensor  # [N]
    entropy: Tensor  # [N] nats
    values: Tensor | None  # [N]; None without a critic

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response, [R]."""
        return [len(branch) for example in self.examples for branch in example.branches]

    def rows(self, tokens: Tensor) -> Tensor:
        """[N] as [R, T], padded with 0."""
        return pad_sequence(list(tokens.split(self.lengths)), batch_first=True)

    @property
    def mask(self) -> Tensor:
        """[R, T], 1 on tokens."""
        return self.rows(torch.ones_like(self.logprobs))

    def flat(self, rows: Tensor) -> Tensor:
        """[R, T] as [N]."""
        return rows[self.mask.bool()]


@dataclass(frozen=True)
class Experience:
    """Scored responses with their advantages: what the steps of an iteration train on."""

    scored: Scored
    advantages: Tensor  # [N]
    returns: Tensor | None  # [N]; None without a critic

    def tokens(self, rows: Sequence[int]) -> Tensor:
        """Indices of the tokens of some examples, in their order."""
        ends = np.cumsum([0, *(example.targets for example in self.scored.examples)])
        return torch.from_numpy(np.concatenate([np.arange(ends[row], ends[row + 1]) for row in rows]))

    def state(self) -> dict[str, Any]:
        """As tensors and lists, for a checkpoint."""
        return {
            "prompts": [torch.from_numpy(example.prompt) for example in self.scored.examples],
            "branches": [[torch.from_numpy(branch) for branch in example.branches] for example in self.scored.examples],
            "tokens": {
                name: tensor
                for name, tensor in {**vars(self.scored), "advantages": self.advantages, "returns": self.returns}.items()
                if isinstance(tensor, Tensor)
            },
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Experience:
        """The experience that gave `state`."""
        pairs = zip(state["prompts"], state["branches"], strict=True)
        examples = [Example(prompt.numpy(), tuple(branch.numpy() for branch in branches)) for prompt, branches in pairs]
        tokens = {"values": None, "returns": None, **state["tokens"]}
        advantages, returns = tokens.pop("advantages"), tokens.pop("returns")
        return cls(Scored(examples, **tokens), advantages, returns)


def estimate(scored: Scored, scores: Tensor, spec: PPO, coefficient: float) -> Experience:
    """Advantages of scored responses by the recipe's estimator; `scores` [R] are their rewards, `coefficient` that of the KL.

    A response whose score is NaN has none: its advantages are 0, its values are trained to stay as they are, and no statistic
    counts it. With a critic the divergence from the reference is a reward of every token, in RLOO of the response; GRPO has it in
    its loss.
    """
    mask, applies = scored.mask, ~scores.isnan()
    counted, scores = mask * applies[:, None], scores.nan_to_num(nan=0.0)
    if spec.advantage == "gae":
        assert scored.values is not None  # gae has a critic
        rewards = ppo.token_rewards(scores, scored.rows(scored.logprobs), scored.rows(scored.reference), mask, coefficient)
        rewards = ppo.whiten(rewards, counted, shift=False) if spec.whiten_rewards else rewards
        values = scored.rows(scored.values)
        advantages, returns = ppo.gae(rewards, values, mask, spec.gamma, spec.lam)
        returns = returns.where(applies[:, None], values)
        return Experience(scored, scored.flat(ppo.whiten(advantages, counted)), scored.flat(returns))
    divergence = scored.rows(scored.logprobs - scored.reference).sum(1)
    if spec.advantage == "rloo":
        per_response = ppo.leave_one_out(scores - coefficient * divergence, spec.samples, applies)
    else:
        per_response = ppo.group_relative(scores, spec.samples, applies)
    return Experience(scored, scored.flat(per_response[:, None] * mask), None)
