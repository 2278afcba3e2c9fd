"""What PPO maximises: the recipe's sources of rewards, summed with their weights, and those that only watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from posttrain.data.encode import Conversation
from posttrain.data.packing import Tokens
from posttrain.rewards.endpoint_judge import ModelJudge
from posttrain.rewards.functions import Verdict, load_function
from posttrain.rewards.model import RewardModel
from schemas.errors import Refusal
from schemas.ppo import PPO, EndpointReward, FunctionReward, RegistryReward, RewardSource, StageReward


@dataclass(frozen=True)
class Answered:
    """R prompts and responses, as tokens and as text."""

    conversations: Sequence[Conversation]
    prompts: Sequence[Tokens]
    responses: Sequence[Tokens]
    texts: Sequence[str]
    rows: Sequence[Mapping[str, Any]] = ()
    """As `sample_rows` has them; only functions read them."""


@dataclass(frozen=True)
class Said:
    """What a source says of R answers."""

    rewards: Tensor
    """[R] in fp32; NaN where the source does not apply."""
    extracted: Sequence[str | None] = ()
    """[R] what each reward was read from, of a source that says so."""
    failed: int = 0
    """Answers with which a function failed; it counts as not applying to them."""


@dataclass(frozen=True)
class Rewarded:
    """What R answers are worth."""

    total: Tensor
    """[R] in fp32, the weighted sum of the sources that apply; NaN where none does, which counts nowhere."""
    said: Mapping[str, Said] = field(default_factory=dict)
    """By name of the source."""
    spread: Tensor | None = None
    """[R] the standard deviation of an ensemble's rewards."""

    def numbers(self) -> dict[str, float]:
        """For the curve: each source's mean over the answers that it applies to, and how many it or all do not apply to."""
        applied = {name: said.rewards[~said.rewards.isnan()] for name, said in self.said.items()}
        numbers = {name: float(rewards.mean()) for name, rewards in applied.items() if len(rewards)}
        if any(len(rewards) < len(self.total) for rewards in applied.values()):
            numbers["not_applicable_share"] = float(self.total.isnan().float().mean())
        if failed := sum(said.failed for said in self.said.values()):
            numbers["reward_failures"] = float(failed)
        if self.spread is not None:
            numbers["ensemble_std"] = float(self.spread.mean())
        return numbers


Source = Callable[[Answered], Said]


@dataclass(frozen=True)
class RewardSources:
    """Every source of a recipe by its name, with its weight; those with weight None only watch."""

    sources: Mapping[str, tuple[Source, float | None]]
    ensemble: Sequence[str] = ()
    """Names of the reward models whose disagreement counts."""
    penalty: float = 0.0
    """By how many standard deviations of it the ensemble's share of the sum falls."""

    def scaled(self, divisors: Mapping[str, float]) -> RewardSources:
        """The same with the rewards of the named sources divided."""

        def divided(source: Source, by: float) -> Source:
            def call(answered: Answered) -> Said:
                said = source(answered)
                return replace(said, rewards=said.rewards / by)

            return call

        changed = {name: (divided(self.sources[name][0], by), self.sources[name][1]) for name, by in divisors.items()}
        return replace(self, sources={**self.sources, **changed})

    def __call__(self, answered: Answered) -> Rewarded:
        """What the answers are worth: the sum that is maximised, and what each source says.

        Raises:
            Refusal: where the sum is not finite, or no source applies to any answer.
        """
        said = {name: source(answered) for name, (source, _) in self.sources.items()}
        weighed = torch.stack([w * said[name].rewards for name, (_, w) in self.sources.items() if w is not None])
        applies = ~weighed.isnan()
        total = weighed.where(applies, 0.0).sum(0).where(applies.any(0), torch.nan)
        spread = self._spread(said)
        if spread is not None:
            total = total - self.penalty * sum(self.sources[name][1] or 0.0 for name in self.ensemble) * spread
        if not applies.any():
            raise Refusal(
                where="alignment.reward",
                found=f"no number for any of {len(total)} responses: every source says that it does not apply",
                allowed="a number for one response at least",
                remedy="look whether the rows have the column that the reward reads",
            )
        if total.isinf().any():
            index = int(total.isinf().nonzero()[0])
            found = ", ".join(f"{name} {float(each.rewards[index])}" for name, each in said.items())
            raise Refusal(
                where="alignment.reward",
                found=f"a weighted sum that is not finite in fp32, for prompt {index}: {found}",
                allowed="finite numbers of at most 3.4e38",
                remedy="lower the weights, or scale the rewards",
            )
        return Rewarded(total, said, spread)

    def _spread(self, said: Mapping[str, Said]) -> Tensor | None:
        """[R]: the standard deviation (the biased one, by weight) of what an ensemble says of each response."""
        if not self.ensemble:
            return None
        rewards = torch.stack([said[name].rewards for name in self.ensemble])
        weights = torch.tensor([self.sources[name][1] for name in self.ensemble])[:, None]
        weights = weights / weights.sum()
        mean = (weights * rewards).sum(0)
        return (weights * (rewards - mean).square()).sum(0).sqrt()


def load_rewards(spec: PPO, models: Mapping[str, RewardModel], verdicts: Path | None = None) -> RewardSources:
    """The sources of a recipe.

    Args:
        spec: names them.
        models: reward models by `address`.
        verdicts: folder of the answers of endpoints.

    Raises:
        Refusal: when a function does not exist, or an endpoint may not be asked.
    """
    fields = {"reward": spec.reward, "monitor": spec.monitor}
    sources = {
        named(field, source): (_source(source, field, models, verdicts), source.weight if field == "reward" else None)
        for field, listed in fields.items()
        for source in listed
    }
    members = [named("reward", source) for source in spec.reward if is_learned(source)] if spec.ensemble_penalty else []
    return RewardSources(sources, members, spec.ensemble_penalty)


def named(field: str, source: RewardSource) -> str:
    """What a source is called in curves."""
    return f"{field}_{source.label}"


def is_learned(source: RewardSource) -> bool:
    """Whether a source is a reward model."""
    return isinstance(source, StageReward | RegistryReward)


def address(source: StageReward | RegistryReward) -> str:
    """What a reward model is found under: `model` for the stage's, the URI for a registered one."""
    return source.uri if isinstance(source, RegistryReward) else source.source


def _source(source: RewardSource, field: str, models: Mapping[str, RewardModel], verdicts: Path | None) -> Source:
    if isinstance(source, FunctionReward):
        return _function(source, f"alignment.{field}.name")
    if isinstance(source, EndpointReward):
        return _endpoint(source, f"alignment.{field}", verdicts)
    model = models[address(source)]
    if isinstance(source, StageReward) and model.of_policy:  # what was sampled, to the token
        return lambda answered: Said(_numbers(model(answered.prompts, answered.responses)))
    return lambda answered: Said(_numbers(model.of_texts(answered.conversations, answered.texts)))


def _numbers(rewards: Tensor) -> Tensor:
    """A reward model's NaN is no word of not applying."""
    if rewards.isnan().any():
        raise Refusal(
            where="alignment.reward",
            found=f"nan from the reward model for prompt {int(rewards.isnan().nonzero()[0])}",
            allowed="finite numbers",
            remedy="lower reward.learning_rate, or set compute.dtype=float32",
        )
    return rewards


def _function(source: FunctionReward, field: str) -> Source:
    memory = int((source.memory_gb or 0) * 1e9)
    function = load_function(source.name, field, source.timeout_seconds, source.max_failed, source.workers, memory)

    def call(answered: Answered) -> Said:
        questions = [str(conversation[-1]["content"]) for conversation in answered.conversations]
        return _said(function.verdicts(questions, answered.texts, answered.rows))

    return call


def _endpoint(source: EndpointReward, field: str, verdicts: Path | None) -> Source:
    """A language model that scores each response; one without a verdict is left out, and counted."""
    judge = ModelJudge(source, field, verdicts)

    def call(answered: Answered) -> Said:
        scores = judge(answered.conversations, answered.texts)
        rewards = torch.tensor([torch.nan if score is None else score for score in scores])
        return Said(rewards, failed=int(rewards.isnan().sum()))

    return call


def _said(verdicts: Sequence[Verdict]) -> Said:
    rewards = torch.tensor([torch.nan if verdict.reward is None else verdict.reward for verdict in verdicts])
    extracted = [verdict.extracted for verdict in verdicts]
    return Said(rewards, extracted if any(extracted) else (), sum(verdict.failed for verdict in verdicts))
