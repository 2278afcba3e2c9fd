"""One iteration of experience: prompts are drawn, answered, scored by policy, reference and critic, and rewarded."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posttrain.data.encode import Conversation
from posttrain.data.packing import Example, Tokens, micro_batches
from posttrain.losses import ppo
from posttrain.rewards.rows import sample_rows
from posttrain.rewards.sources import Answered, RewardSources
from posttrain.runtime.progress import counted, current
from posttrain.sampling.sampler import Count, Sampler, Sampling
from posttrain.scoring.reference import Reference
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.batches import shuffled
from posttrain.training.ppo.actor_critic import ActorCritic
from posttrain.training.ppo.experience import Scored
from posttrain.training.ppo.objective import Collected
from posttrain.training.ppo.rollout_log import SampleLog
from schemas.ppo import PPO


@dataclass(frozen=True)
class Prompts:
    """Prompts as people read them and as the policy does."""

    conversations: Sequence[Conversation]
    tokens: Sequence[Tokens]
    columns: Sequence[Mapping[str, Any]]
    """What the data says beside each prompt, for reward functions."""


@dataclass(frozen=True)
class Collector:
    """Collects experience with the policy of `scorer` as it is when called."""

    spec: PPO
    seed: int
    scorer: ActorCritic
    reference: Reference
    sampler: Sampler
    rewards: RewardSources
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    log: SampleLog
    ends: tuple[int, ...]
    """Tokens of which any ends a response."""

    def __call__(self, iteration: int) -> Collected:
        """The responses of iteration `iteration` (from 0)."""
        training = self.scorer.training
        self.scorer.eval()
        drawn = self._drawn(iteration)
        examples = self._answered(drawn, iteration)
        scored = self.scored(examples)
        answered = self._as_text(drawn, examples)
        rewarded = self.rewards(answered)
        ended = torch.tensor([row["ended"] for row in answered.rows])
        scores = rewarded.total - self.spec.missing_eos_penalty * (~ended).float()
        if self.spec.reward_clip is not None:
            scores = scores.clamp(-self.spec.reward_clip, self.spec.reward_clip)
        self.log.add(iteration, answered, rewarded)
        self.scorer.train(training)
        return Collected(scored, scores, {**_numbers(scored, scores, ended), **rewarded.numbers()})

    def _drawn(self, iteration: int) -> list[int]:
        """Prompts of an iteration: each is drawn once before any is drawn again."""
        count = self.spec.rollouts // self.spec.samples
        return list(itertools.islice(shuffled(len(self.prompts.tokens), self.seed), iteration * count, (iteration + 1) * count))

    def _answered(self, drawn: Sequence[int], iteration: int) -> list[Example]:
        prompts = [self.prompts.tokens[index] for index in drawn]
        pad: Any = self.tokenizer.pad_token_id
        seed = int(np.random.default_rng([self.seed, iteration]).integers(2**31))
        spec = self.spec
        plan = Sampling(max_new_tokens=spec.max_new_tokens, temperature=spec.temperature, seed=seed, samples=spec.samples,
                        ends=self.ends, pad=pad)  # fmt: skip
        with self.scorer.arithmetic():
            count = counted(current(), "responses", len(prompts) * spec.samples)
            responses = self.sampler(self.scorer.model, prompts, plan, count)
        return [Example(prompt, branches) for prompt, branches in zip(prompts, responses, strict=True)]

    def _as_text(self, drawn: Sequence[int], examples: Sequence[Example]) -> Answered:
        each = [
            (index, example.prompt, branch) for index, example in zip(drawn, examples, strict=True) for branch in example.branches
        ]
        texts = self.tokenizer.batch_decode([branch.tolist() for _, _, branch in each], skip_special_tokens=True)
        conversations = [self.prompts.conversations[index] for index, _, _ in each]
        prompts, responses = [prompt for _, prompt, _ in each], [branch for _, _, branch in each]
        ended = [int(tokens[-1]) in self.ends for tokens in responses]
        rows = sample_rows([self.prompts.columns[index] for index, _, _ in each], conversations, prompts, responses, ended)
        return Answered(conversations, prompts, responses, texts, rows)

    @torch.no_grad()
    def scored(self, examples: list[Example]) -> Scored:
        """Score responses by policy, critic and reference, in micro-batches."""
        budget = scoring_tokens(self.scorer.device)
        groups = micro_batches(range(len(examples)), np.array([e.length for e in examples]), budget)
        count = counted(current(), "scores", 2 * len(examples))
        policy = self._by_token(examples, groups, statistics=True, on_rows=count)
        with self.reference.swapped():
            reference = self._by_token(examples, groups, statistics=False, on_rows=count)["logprobs"]
        return Scored(examples, policy["logprobs"], reference, policy["entropy"], policy.get("values"))

    def _by_token(
        self, examples: Sequence[Example], groups: Sequence[Sequence[int]], statistics: bool, on_rows: Count
    ) -> dict[str, Tensor]:
        """What the scorer says of the tokens, in the order of the examples, on the host."""
        parts: dict[str, dict[int, Tensor]] = {}
        for group in groups:
            scores = self.scorer([examples[i] for i in group], statistics)
            sizes = [examples[i].targets for i in group]
            for name in ("logprobs", "entropy", "values"):
                if (tokens := getattr(scores, name)) is not None:
                    parts.setdefault(name, {}).update(zip(group, tokens.cpu().split(sizes), strict=True))
            on_rows(len(group))
        return {name: torch.cat([by_row[i] for i in range(len(examples))]) for name, by_row in parts.items()}


def _numbers(scored: Scored, scores: Tensor, ended: Tensor) -> dict[str, float]:
    """What a person watches: score, divergence, lengths."""
    log_ratio = scored.logprobs - scored.reference
    lengths = torch.tensor(scored.lengths, dtype=torch.float32)
    rewarded = scores[~scores.isnan()]
    numbers: dict[str, Any] = {
        "score": rewarded.mean(),
        "score_std": rewarded.std(unbiased=len(rewarded) > 1),
        "kl": log_ratio.mean(),
        "kl_k3": ppo.k3(scored.logprobs, scored.reference).mean(),
        "kl_per_response": log_ratio.sum() / len(lengths),
        "entropy": scored.entropy.mean(),
        "response_tokens": lengths.mean(),
        "eos_share": ended.float().mean(),
    }
    return {name: float(value) for name, value in numbers.items()}
