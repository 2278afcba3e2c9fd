"""PPO as an objective of the one loop: a round is an iteration, which samples responses and then trains on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.packing import Example
from posttrain.losses import ppo
from posttrain.scoring.scorer import TokenScores
from posttrain.training.batches import Plan
from posttrain.training.objectives import Sums
from posttrain.training.ppo.experience import Experience, Scored, estimate
from schemas.ppo import PPO

RATIO_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}  # of log ρ in the first pass of an iteration


@dataclass(frozen=True)
class Collected:
    """What an iteration brings: scored responses, their rewards [R], and numbers for the curve."""

    scored: Scored
    scores: Tensor
    numbers: Mapping[str, float]


Collect = Callable[[int], Collected]
"""Sample and score the responses of iteration `i` (from 0) with the policy as it is now."""


def plan_of(spec: PPO, seed: int) -> Plan:
    """The examples (prompts with their responses) of every step: each epoch of an iteration in an order of its own."""
    prompts = spec.rollouts // spec.samples
    orders = (
        np.random.default_rng([seed, i, e]).permutation(prompts) for i in range(spec.iterations) for e in range(spec.epochs)
    )
    return [part.tolist() for order in orders for part in np.array_split(order, spec.minibatches)]


@dataclass
class PolicyOptimization:
    """The clipped surrogate with value loss, entropy and the divergence from the reference; mean over tokens.

    Args:
        spec: the recipe's section.
        collect: samples and scores.
        dtype: arithmetic of the scores, for the check that the first ratio is 1.
    """

    spec: PPO
    collect: Collect
    dtype: torch.dtype
    coefficient: float = 0.0
    experience: Experience | None = None
    stopped: bool = False
    fresh: bool = False  # nothing was trained on this iteration's responses yet
    sums: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    divergence: float = 0.0  # of the iteration from the reference, in nats per response
    moved: Tensor = field(default_factory=lambda: torch.zeros(()))  # KL(policy at sampling || policy) over the step's tokens
    moved_tokens: int = 0

    def __post_init__(self) -> None:
        self.coefficient = self.spec.kl.coefficient

    @property
    def examples(self) -> Sequence[Example]:
        """The iteration's prompts with their responses."""
        return self.experience.scored.examples if self.experience else []

    @property
    def steps(self) -> int:
        """Optimizer steps of an iteration."""
        return self.spec.epochs * self.spec.minibatches

    def units(self, rows: Sequence[int]) -> int:
        """Response tokens."""
        return sum(self.examples[row].targets for row in rows)

    def enter(self, step: int) -> bool:
        """Collect where an iteration begins; False once the policy has moved by `max_step_kl` in it."""
        if step % self.steps == 0:
            self._begin(step // self.steps)
        elif self.spec.max_step_kl is not None:
            self.stopped = self.stopped or float(self.moved) > self.spec.max_step_kl * self.moved_tokens
        self.moved, self.moved_tokens = torch.zeros(()), 0
        return not self.stopped

    def _begin(self, iteration: int) -> None:
        kl = self.spec.kl
        if iteration and kl.adaptive:
            rollouts = self.spec.rollouts
            self.coefficient = ppo.next_coefficient(self.coefficient, self.divergence, rollouts, kl.target, kl.horizon)
        collected = self.collect(iteration)
        self.experience = estimate(collected.scored, collected.scores, self.spec, self.coefficient)
        self.stopped, self.fresh, self.sums = False, True, {}
        self.divergence = collected.numbers["kl_per_response"]
        self.measured = {**collected.numbers, "kl_coefficient": self.coefficient, **self._explained()}

    def _explained(self) -> dict[str, float]:
        """How well the critic foresaw the returns, where there is one."""
        assert self.experience
        values, returns = self.experience.scored.values, self.experience.returns
        if values is None or returns is None:
            return {}
        return {"explained_variance": float(ppo.explained_variance(values, returns, torch.ones_like(values)))}

    def ends(self, step: int) -> bool:
        """Whether an iteration ends with the step that makes `step` in all."""
        return step % self.steps == 0

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The loss and what it is made of, summed over response tokens."""
        assert self.experience
        scored, at = self.experience.scored, self.experience.tokens(rows)
        device, logprobs = scores.logprobs.device, scores.logprobs
        old, advantages = (tensor[at].to(device) for tensor in (scored.logprobs, self.experience.advantages))
        self._first_ratio_is_one(logprobs, old)
        losses = ppo.policy_loss(logprobs, old, advantages, self.spec.clip)
        parts = {"policy_loss": losses.sum(), **self._terms(scores, at)}
        ratio = (logprobs.detach() - old).exp()
        facts = {
            "clip_fraction": ((ratio - 1).abs() > self.spec.clip).float().sum(),
            "step_kl": ppo.k3(old, logprobs.detach()).sum(),
        }
        self.moved, self.moved_tokens = self.moved + facts["step_kl"], self.moved_tokens + len(at)
        self._remember({**parts, **facts}, len(at))
        return torch.stack(list(parts.values())).sum(), {}

    def _terms(self, scores: TokenScores, at: Tensor) -> dict[str, Tensor]:
        """What is added to the policy's loss."""
        assert self.experience
        spec, scored, device = self.spec, self.experience.scored, scores.logprobs.device
        terms: dict[str, Tensor] = {}
        if scores.values is not None and scored.values is not None and self.experience.returns is not None:
            old, returns = scored.values[at].to(device), self.experience.returns[at].to(device)
            terms["value_loss"] = spec.value_coefficient * ppo.value_loss(scores.values, old, returns, spec.value_clip).sum()
        if spec.advantage == "grpo":
            terms["kl_loss"] = self.coefficient * ppo.k3(scores.logprobs, scored.reference[at].to(device)).sum()
        if spec.entropy_coefficient:
            assert scores.entropy is not None
            terms["entropy_loss"] = -spec.entropy_coefficient * scores.entropy.sum()
        return terms

    def _remember(self, sums: Mapping[str, Tensor], tokens: int) -> None:
        """Add to the iteration's means."""
        device = next(iter(sums.values())).device
        more = {**{name: value.detach() for name, value in sums.items()}, "tokens": torch.tensor(float(tokens), device=device)}
        for name, value in more.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def _first_ratio_is_one(self, logprobs: Tensor, old: Tensor) -> None:
        """Raises RuntimeError when the policy gives sampled tokens other probabilities than it gave them in sampling."""
        if not self.fresh:
            return
        self.fresh, worst = False, float((logprobs.detach() - old).abs().max())
        if not worst <= RATIO_TOLERANCE[self.dtype]:
            raise RuntimeError(f"before the first step of an iteration log ρ is off by {worst:.1e}: scores are not reproducible")

    def numbers(self) -> dict[str, float]:
        """Means over the iteration's steps so far, and what its responses were like."""
        tokens = float(self.sums.get("tokens", torch.tensor(1.0)))
        means = {name: float(value) / tokens for name, value in self.sums.items() if name != "tokens"}
        loss = sum(mean for name, mean in means.items() if name.endswith("_loss"))
        return {**means, "loss": loss, **self.measured}

    def state(self) -> Mapping[str, Any]:
        """The iteration in hand."""
        assert self.experience
        return {
            "experience": self.experience.state(),
            "coefficient": self.coefficient,
            "divergence": self.divergence,
            "stopped": self.stopped,
            "fresh": self.fresh,
            "moved": self.moved.cpu(),
            "moved_tokens": self.moved_tokens,
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "measured": dict(self.measured),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of an iteration."""
        self.experience = Experience.restored(state["experience"])
        self.coefficient, self.divergence = state["coefficient"], state["divergence"]
        self.stopped, self.fresh = state["stopped"], state["fresh"]
        self.moved, self.moved_tokens = state["moved"], state["moved_tokens"]
        self.sums, self.measured = dict(state["sums"]), dict(state["measured"])
