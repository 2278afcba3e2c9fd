"""One iteration of experience: prompts are drawn, answered, scored by policy, reference and critic, and rewarded."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from posttrain.data.encode import Conversation
from posttrain.data.packing import Example, Tokens, micro_batches
from posttrain.losses import ppo
from posttrain.rewards.rows import sample_rows
from posttrain.rewards.sources import Answered, RewardSources
from posttrain.runtime.distributed import from_main, gathered, is_main, turns
from posttrain.runtime.progress import counted, current
from posttrain.sampling.sampler import Count, Sampler, Sampling
from posttrain.scoring.reference import Reference
from posttrain.scoring.token_budget import scoring_tokens
from posttrain.training.batches import shuffled
from posttrain.training.ppo.actor_critic import ActorCritic
from posttrain.training.ppo.batch import Batch, drawn_to_vary
from posttrain.training.ppo.experience import Scored
from posttrain.training.ppo.objective import Collected
from posttrain.training.ppo.rollout_log import SampleLog
from posttrain.training.ppo.served_policy import ServedPolicy
from schemas.ppo import PPO


@dataclass(frozen=True)
class Prompts:
    """Prompts as people read them and as the policy does."""

    conversations: Sequence[Conversation]
    tokens: Sequence[Tokens]
    columns: Sequence[Mapping[str, Any]]
    """What the data says beside each prompt, for reward functions."""
    given: Sequence[Tokens] = ()
    """The data's own answer to each, where the recipe mixes them in."""


@dataclass(frozen=True)
class Collector:
    """Collects experience with the policy of `scorer` as it is when called."""

    spec: PPO
    seed: int
    scorer: ActorCritic
    reference: Reference | None
    sampler: Sampler
    rewards: RewardSources
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    log: SampleLog
    ends: tuple[int, ...]
    """Tokens of which any ends a response."""
    served: ServedPolicy | None = None
    """Draws in the place of `sampler`."""

    def __call__(self, iteration: int) -> Collected:
        """The responses of iteration `iteration` (from 0)."""
        training = self.scorer.training
        self.scorer.eval()
        batch, numbers = drawn_to_vary(self.spec, lambda attempt, count: self._attempt(iteration, attempt, count))
        scored = self.scored(batch.examples)
        self.log.add(iteration, batch.answered, batch.rewarded)
        self.scorer.train(training)
        numbers = {**_numbers(scored, batch), **batch.rewarded.numbers(), **numbers}
        given = [self.prompts.given[index] for index in batch.drawn] if self.prompts.given else []
        sampled = torch.from_numpy(np.concatenate(batch.sampled)) if batch.sampled else None
        return Collected(scored, batch.scores, numbers, batch.ended, given, sampled)

    def _attempt(self, iteration: int, attempt: int, count: int) -> Batch:
        """`count` prompts, answered. Where an iteration has one attempt, each is drawn once before any is drawn again."""
        size = self.spec.rollouts // self.spec.samples
        start = (iteration + attempt * self.spec.iterations) * size
        drawn = list(itertools.islice(shuffled(len(self.prompts.tokens), self.seed), start, start + count))
        seeds = [self.seed, iteration, attempt] if attempt else [self.seed, iteration]
        return self.answered(
            self.prompts, drawn, int(np.random.default_rng(seeds).integers(2**31)), self.spec.samples, "responses"
        )

    def answered(self, prompts: Prompts, drawn: Sequence[int], seed: int, samples: int, what: str) -> Batch:
        """`samples` responses to each of the prompts `drawn`, and their rewards; `what` names them to who waits."""
        examples, sampled = self._responses([prompts.tokens[index] for index in drawn], seed, samples, what)
        answered = self._as_text(prompts, drawn, examples)
        rewarded = from_main(self.rewards(answered) if is_main() else None)
        assert rewarded
        ended = torch.tensor([row["ended"] for row in answered.rows])
        scores = shaped(rewarded.total, answered.responses, ended, self.spec)
        return Batch(list(drawn), examples, answered, rewarded, scores, ended, sampled)

    def _responses(
        self, prompts: list[Tokens], seed: int, samples: int, what: str
    ) -> tuple[list[Example], list[NDArray[np.float32]]]:
        """Prompts with their responses, and what a server gave the tokens of each where one draws."""
        pad: Any = self.tokenizer.pad_token_id
        spec = self.spec
        plan = Sampling(max_new_tokens=spec.max_new_tokens, temperature=spec.temperature, seed=seed, samples=samples,
                        ends=self.ends, pad=pad)  # fmt: skip
        count = counted(current(), what, len(prompts) * samples)
        sampled: list[NDArray[np.float32]] = []
        if self.served is None:
            with self.scorer.arithmetic():
                responses = self.sampler(self.scorer.model, prompts, plan, count)
        else:
            drawn = from_main(self.served.draw(self.scorer.model, prompts, plan, count) if is_main() else [])
            responses = [tuple(each.tokens for each in branches) for branches in drawn]
            sampled = [each.logprobs for branches in drawn for each in branches]
        examples = [Example(prompt, branches) for prompt, branches in zip(prompts, responses, strict=True)]
        return examples, sampled

    def _as_text(self, given: Prompts, drawn: Sequence[int], examples: Sequence[Example]) -> Answered:
        each = [
            (index, example.prompt, branch) for index, example in zip(drawn, examples, strict=True) for branch in example.branches
        ]
        texts = self.tokenizer.batch_decode([branch.tolist() for _, _, branch in each], skip_special_tokens=True)
        conversations = [given.conversations[index] for index, _, _ in each]
        prompts, responses = [prompt for _, prompt, _ in each], [branch for _, _, branch in each]
        ended = [int(tokens[-1]) in self.ends for tokens in responses]
        rows = sample_rows([given.columns[index] for index, _, _ in each], conversations, prompts, responses, ended)
        return Answered(conversations, prompts, responses, texts, rows)

    @torch.no_grad()
    def scored(self, examples: list[Example]) -> Scored:
        """Score responses by policy, critic and, where there is one, reference, in micro-batches."""
        budget = scoring_tokens(self.scorer.device)
        groups = micro_batches(range(len(examples)), np.array([e.length for e in examples]), budget)
        count = counted(current(), "scores", (1 if self.reference is None else 2) * len(examples))
        policy = self._by_token(examples, groups, statistics=True, on_rows=count)
        reference = None
        if self.reference is not None:
            with self.reference.swapped():
                reference = self._by_token(examples, groups, statistics=False, on_rows=count)["logprobs"]
        return Scored(examples, policy["logprobs"], reference, policy["entropy"], policy.get("values"))

    def _by_token(
        self, examples: Sequence[Example], groups: Sequence[Sequence[int]], statistics: bool, on_rows: Count
    ) -> dict[str, Tensor]:
        """What the scorer says of the tokens, in the order of the examples, on the host; processes share the work."""
        mine: dict[int, dict[str, Tensor]] = {}
        for index, counts, turn in turns(groups):
            if counts:
                mine |= self._of_group(examples, groups[index], statistics)
            on_rows(sum(map(len, turn)))
        parts = {row: found for share in gathered(mine) for row, found in share.items()}
        return {name: torch.cat([parts[row][name] for row in range(len(examples))]) for name in parts[0]}

    def _of_group(self, examples: Sequence[Example], group: Sequence[int], statistics: bool) -> dict[int, dict[str, Tensor]]:
        """By example what is known of each of its tokens."""
        scores, sizes = self.scorer([examples[i] for i in group], statistics), [examples[i].targets for i in group]
        found: dict[int, dict[str, Tensor]] = {row: {} for row in group}
        for name in ("logprobs", "entropy", "values"):
            if (tokens := getattr(scores, name)) is not None:
                for row, part in zip(group, tokens.cpu().split(sizes), strict=True):
                    found[row][name] = part
        return found


def shaped(rewards: Tensor, responses: Sequence[Tokens], ended: Tensor, spec: PPO) -> Tensor:
    """[R]: rewards with what the recipe adds for a response's end and takes off for its length, clipped."""
    scores = rewards - spec.missing_eos_penalty * (~ended).float() + spec.eos_reward * ended.float()
    if spec.overlong_buffer is not None:  # DAPO, arXiv 2503.14476, equation 13
        tokens = torch.tensor([len(response) for response in responses])
        beyond = (tokens - (spec.max_new_tokens - spec.overlong_buffer)).clamp(min=0)
        scores = scores - spec.overlong_penalty * beyond / spec.overlong_buffer
    return scores if spec.reward_clip is None else scores.clamp(-spec.reward_clip, spec.reward_clip)


def _numbers(scored: Scored, batch: Batch) -> dict[str, float]:
    """What a person watches: score, divergence, lengths."""
    lengths = torch.tensor(scored.lengths, dtype=torch.float32)
    rewarded = batch.scores[~batch.scores.isnan()]
    numbers: dict[str, Any] = {
        "score": rewarded.mean(),
        "score_std": rewarded.std(unbiased=len(rewarded) > 1),
        "entropy": scored.entropy.mean(),
        "response_tokens": lengths.mean(),
        "eos_share": batch.ended.float().mean(),
    }
    if scored.reference is not None:
        log_ratio = scored.logprobs - scored.reference
        numbers |= {
            "kl": log_ratio.mean(),
            "kl_k3": ppo.k3(scored.logprobs, scored.reference).mean(),
            "kl_per_response": log_ratio.sum() / len(lengths),
        }
    return {name: float(value) for name, value in numbers.items()}
