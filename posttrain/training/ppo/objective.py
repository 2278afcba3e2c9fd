"""PPO as an objective of the one loop: a round is an iteration, which samples responses and then trains on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.data.packing import Example, Tokens
from posttrain.losses import ppo, surrogate
from posttrain.runtime.distributed import size, summed
from posttrain.scoring.reference import Reference
from posttrain.scoring.scorer import TokenScores
from posttrain.training.batches import Plan
from posttrain.training.objectives import Sums
from posttrain.training.ppo.actor_critic import is_critic
from posttrain.training.ppo.advantages import estimate
from posttrain.training.ppo.experience import Experience, Scored
from posttrain.training.ppo.mix_in import split
from posttrain.training.ppo.watch import Watch
from schemas.errors import Refusal
from schemas.ppo import PPO

RATIO_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}  # of log ρ in the first pass of an iteration


@dataclass(frozen=True)
class Collected:
    """What an iteration brings: scored responses, their rewards [R], numbers for the curve, which responses [R] ended, the data's
    own answer to each prompt where the recipe mixes them in, and what a server gave each token [N] where one sampled."""

    scored: Scored
    scores: Tensor
    numbers: Mapping[str, float]
    ended: Tensor | None = None
    given: Sequence[Tokens] = ()
    sampled: Tensor | None = None


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
    """The policy's surrogate with value loss, entropy and the divergence from the reference; a mean as the recipe weighs tokens.

    Args:
        spec: the recipe's section.
        collect: samples and scores.
        dtype: arithmetic of the scores, for the check that the first ratio is 1.
        reference: that of `collect`; the recipe may have it follow the policy.
        some: examples that the policy can score before it has answered any prompt; needed where several processes train.
    """

    spec: PPO
    collect: Collect
    dtype: torch.dtype
    reference: Reference | None = None
    some: Sequence[Example] = ()
    coefficient: float = 0.0
    experience: Experience | None = None
    stopped: bool = False
    fresh: bool = False  # nothing was trained on this iteration's responses yet
    sums: dict[str, Tensor] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    divergence: float = 0.0  # of the iteration from the reference, in nats per response
    moved: Tensor = field(default_factory=lambda: torch.zeros(()))  # KL(policy at sampling || policy) over the step's tokens
    moved_tokens: Tensor = field(default_factory=lambda: torch.zeros(()))
    iteration: int = 0
    over: str = ""  # why training ends with this iteration, in words
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.coefficient, self.watch = self.spec.kl.coefficient, Watch(self.spec)

    @property
    def examples(self) -> Sequence[Example]:
        """The iteration's prompts with their responses, and last the data's own answer where the recipe mixes them in."""
        return self.experience.examples if self.experience else []

    @property
    def steps(self) -> int:
        """Optimizer steps of an iteration."""
        return self.spec.epochs * self.spec.minibatches

    def units(self, rows: Sequence[int]) -> int:
        """Response tokens, or what else the recipe's `aggregation` makes the loss a mean over."""
        assert self.experience
        return self.experience.units_of(rows)

    def enter(self, step: int) -> bool:
        """Collect where an iteration begins; False once the policy has moved by `max_step_kl` in it."""
        if step % self.steps == 0:
            self._begin(step // self.steps)
        elif self.spec.max_step_kl is not None:
            self.stopped = self.stopped or float(self.moved) > self.spec.max_step_kl * float(self.moved_tokens)
        self.moved, self.moved_tokens = torch.zeros(()), torch.zeros(())
        return not self.stopped and not self.over

    def _begin(self, iteration: int) -> None:
        """Sample and score with the policy as it is, and see what there is to learn."""
        kl, spec = self.spec.kl, self.spec
        if iteration and kl.adaptive:
            self.coefficient = ppo.next_coefficient(self.coefficient, self.divergence, spec.rollouts, kl.target, kl.horizon)
        if iteration and spec.reference_refresh and iteration % spec.reference_refresh.iterations == 0:
            assert self.reference
            self.reference.follow(spec.reference_refresh.mix)
        collected = self.collect(iteration)
        self.iteration = iteration
        estimated = estimate(collected.scored, collected.scores, spec, self.coefficient, collected.ended)
        weights, mismatch = self._importance(collected)
        self.experience = replace(estimated, given=tuple(collected.given), importance=weights)
        self.stopped, self.fresh, self.sums = False, True, {}
        self.divergence = collected.numbers.get("kl_per_response", 0.0)
        coefficient = {"kl_coefficient": self.coefficient} if self.coefficient else {}
        self.measured = {**collected.numbers, **coefficient, **self.experience.numbers, **mismatch}
        self.measured |= self.watch.see(self.measured, self.warming)
        self.over = self.watch.ends(self.measured)

    def _importance(self, collected: Collected) -> tuple[Tensor | None, dict[str, float]]:
        """Weights of the policy loss where a server sampled, and how far its policy is from the one that trains."""
        sampler = self.spec.sampler
        if collected.sampled is None or sampler is None:
            return None, {}
        weights, found = surrogate.importance(collected.scored.logprobs, collected.sampled, sampler.importance_cap)
        if found["sampler_kl"] > sampler.max_mismatch:
            raise Refusal(
                where="alignment.sampler.model",
                found=f"responses {found['sampler_kl']:.3g} nats per token from the policy that trains",
                allowed=f"at most {sampler.max_mismatch:g} (max_mismatch): the policy before alignment, and probabilities at its "
                "temperature",
                remedy="serve that policy; of vLLM with --logprobs-mode processed_logprobs",
            )
        return weights, found

    @property
    def warming(self) -> bool:
        """Whether the critic trains alone."""
        return self.iteration < self.spec.critic.warmup_iterations

    def ends(self, step: int) -> bool:
        """Whether an iteration ends with the step that makes `step` in all."""
        return step % self.steps == 0 or bool(self.over)

    def loss(self, scores: TokenScores, rows: Sequence[int]) -> tuple[Tensor, Sums]:
        """The loss and what it is made of, summed over response tokens with their weights."""
        assert self.experience
        scored, at = self.experience.scored, self.experience.tokens(rows)
        scores, of_data = split(scores, self.experience, rows)
        device, logprobs = scores.logprobs.device, scores.logprobs
        old, advantages, weights = (
            tensor[at].to(device) for tensor in (scored.logprobs, self.experience.advantages, self.experience.weights)
        )
        self._first_ratio_is_one(logprobs, old)
        log_ratios = self._log_ratios(scores, old)
        terms = self._value_terms(scores, at)
        if not self.warming:
            policy_loss = self._surrogate(logprobs, log_ratios, advantages)
            if self.experience.importance is not None:
                policy_loss = policy_loss * self.experience.importance[at].to(device)
            terms = {"policy_loss": policy_loss, **terms, **self._policy_terms(scores, at)}
        parts = {name: (weights * each).sum() for name, each in terms.items()}
        if of_data is not None and not self.warming:
            parts["sft_loss"] = -self.spec.sft_weight * self.experience.units_per_given_token * of_data.sum()
        sizes = {"tokens": len(at), "units": self.units(rows)}
        counts = {name: torch.tensor(float(count), device=device) for name, count in sizes.items()}
        facts = {name: part.detach() for name, part in parts.items()} | self._facts(log_ratios.detach(), old, logprobs.detach())
        total = torch.stack(list(parts.values())).sum()
        if self.warming and size() > 1:  # they wait for the gradient of everything that is trained
            total = total + 0.0 * logprobs.sum()
        return total, {**facts, **counts}

    def _log_ratios(self, scores: TokenScores, old: Tensor) -> Tensor:
        """log π / π_old at each token, of the token or of its response."""
        log_ratios = scores.logprobs - old
        of_tokens = self.spec.ratio == "token"
        return log_ratios if of_tokens else surrogate.of_responses(log_ratios, scores.branch, scores.branches)

    @property
    def _high(self) -> float:
        return self.spec.clip if self.spec.clip_high is None else self.spec.clip_high

    def _surrogate(self, logprobs: Tensor, log_ratios: Tensor, advantages: Tensor) -> Tensor:
        """What stands for the policy's objective, [N]."""
        if self.spec.surrogate == "cispo":
            return surrogate.cispo(logprobs, log_ratios, advantages, self._high)
        return surrogate.clipped(log_ratios, advantages, self.spec.clip, self._high, self.spec.dual_clip)

    def _facts(self, log_ratios: Tensor, old: Tensor, logprobs: Tensor) -> dict[str, Tensor]:
        """How far the policy has moved from the one that sampled, summed over tokens."""
        ratio, low = log_ratios.exp(), 0.0 if self.spec.surrogate == "cispo" else 1 - self.spec.clip
        outside = (ratio > 1 + self._high) | (ratio < low)
        return {"clip_fraction": outside.float().sum(), "step_kl": ppo.k3(old, logprobs).sum()}

    def _value_terms(self, scores: TokenScores, at: Tensor) -> dict[str, Tensor]:
        """The critic's loss [N], where there is one."""
        assert self.experience
        scored, targets = self.experience.scored, self.experience.returns
        if scores.values is None or scored.values is None or targets is None:
            return {}
        old, returns = (tensor[at].to(scores.values.device) for tensor in (scored.values, targets))
        losses = ppo.value_loss(scores.values, old, returns, self.spec.value_clip)
        return {"value_loss": self.spec.value_coefficient * losses}

    def _policy_terms(self, scores: TokenScores, at: Tensor) -> dict[str, Tensor]:
        """What is added to the policy's loss, [N] each."""
        assert self.experience
        spec, reference, terms = self.spec, self.experience.scored.reference, {}
        if spec.kl_place == "loss" and reference is not None:
            divergence = ppo.DIVERGENCES[spec.kl_estimator](scores.logprobs, reference[at].to(scores.logprobs.device))
            terms["kl_loss"] = self.coefficient * divergence
        if spec.entropy_coefficient:
            assert scores.entropy is not None
            terms["entropy_loss"] = -spec.entropy_coefficient * scores.entropy
        return terms

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add a step's sums, of this process, to the iteration's, of all."""
        total = dict(zip(sums, summed(torch.stack(list(sums.values()))).unbind(), strict=True))
        self.moved, self.moved_tokens = total["step_kl"], total["tokens"]
        for name, value in total.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def idle(self, name: str) -> bool:
        """All but the critic while it trains alone: zeros for a gradient would not keep weight decay away."""
        return self.warming and not is_critic(name)

    def trial(self, forward: Callable[..., TokenScores]) -> Tensor:
        """A loss of any responses, before there are some of the policy's own."""
        scores = forward(self.some)
        found = (each for each in (scores.logprobs, scores.values, scores.entropy) if each is not None)
        return torch.stack([each.sum() for each in found]).sum()

    def _first_ratio_is_one(self, logprobs: Tensor, old: Tensor) -> None:
        """Raises RuntimeError when the policy gives sampled tokens other probabilities than it gave them in sampling."""
        if not self.fresh:
            return
        self.fresh, worst = False, float((logprobs.detach() - old).abs().max())
        if not worst <= RATIO_TOLERANCE[self.dtype]:
            raise RuntimeError(f"before the first step of an iteration log ρ is off by {worst:.1e}: scores are not reproducible")

    def numbers(self) -> dict[str, float]:
        """Means over the iteration's steps so far, and what its responses were like."""
        divisors = {name: float(self.sums.get(name, 1.0)) for name in ("tokens", "units")}
        sums = {name: float(value) for name, value in self.sums.items() if name not in divisors}
        means = {name: value / divisors["units" if name.endswith("_loss") else "tokens"] for name, value in sums.items()}
        loss = sum(mean for name, mean in means.items() if name.endswith("_loss"))
        return {**means, "loss": loss, **self.measured}

    def state(self) -> Mapping[str, Any]:
        """The iteration in hand."""
        assert self.experience
        return {
            "experience": self.experience.state(),
            "iteration": self.iteration,
            "over": self.over,
            "watch": self.watch.state(),
            **({"reference": self.reference.state()} if self.reference and self.spec.reference_refresh else {}),
            "coefficient": self.coefficient,
            "divergence": self.divergence,
            "stopped": self.stopped,
            "fresh": self.fresh,
            "moved": self.moved.cpu(),
            "moved_tokens": self.moved_tokens.cpu(),
            "sums": {name: value.cpu() for name, value in self.sums.items()},
            "measured": dict(self.measured),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on in the middle of an iteration."""
        self.experience = Experience.restored(state["experience"])
        self.iteration, self.over = state["iteration"], state["over"]
        self.watch.restore(state["watch"])
        if self.reference and "reference" in state:
            self.reference.restore(state["reference"])
        self.coefficient, self.divergence = state["coefficient"], state["divergence"]
        self.stopped, self.fresh = state["stopped"], state["fresh"]
        self.moved, self.moved_tokens = state["moved"], state["moved_tokens"]
        self.sums, self.measured = dict(state["sums"]), dict(state["measured"])
