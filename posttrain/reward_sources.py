"""What PPO maximises: the recipe's sources of rewards, summed with their weights, and those that only watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posttrain.packing import Tokens
from posttrain.reward_functions import load_function
from schemas.ppo import PPO, FunctionReward, RegistryReward, RewardSource, StageReward

Conversation = list[dict[str, Any]]


@dataclass(frozen=True)
class Answered:
    """R prompts and responses, as tokens and as text."""

    conversations: Sequence[Conversation]
    prompts: Sequence[Tokens]
    responses: Sequence[Tokens]
    texts: Sequence[str]


Source = Callable[[Answered], Tensor]
"""From R answers to rewards [R] in fp32."""
OfTokens = Callable[[Sequence[Tokens], Sequence[Tokens]], Tensor]
OfTexts = Callable[[Sequence[Conversation], Sequence[str]], Tensor]


@dataclass(frozen=True)
class RewardModels:
    """The reward models that sources name, by registry URI."""

    stage: OfTokens | None = None
    """Of the stage `reward`, with the policy's tokenizer."""
    registered: Mapping[str, OfTexts] | None = None


@dataclass(frozen=True)
class Rewards:
    """Every source of a recipe by its name, with its weight; those with weight None only watch."""

    sources: Mapping[str, tuple[Source, float | None]]

    def __call__(self, answered: Answered) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum that is maximised [R], and what each source says [R]."""
        said = {name: source(answered) for name, (source, _) in self.sources.items()}
        weighed = [weight * said[name] for name, (_, weight) in self.sources.items() if weight is not None]
        return torch.stack(weighed).sum(0), said


def load_rewards(spec: PPO, models: RewardModels) -> Rewards:
    """The sources of a recipe.

    Raises:
        Refusal: when a function does not exist.
    """
    optimised = {f"reward_{label(source)}": (_source(source, "reward", models), source.weight) for source in spec.reward}
    watching = {f"monitor_{label(source)}": (_source(source, "monitor", models), None) for source in spec.monitor}
    return Rewards({**optimised, **watching})


def label(source: RewardSource) -> str:
    """A short name for curves: the function's, the registered model's, or `model`."""
    match source:
        case FunctionReward():
            return source.name.partition(":")[2]
        case RegistryReward():
            return source.uri.removeprefix("models:/").replace("/", "_").replace("@", "_")
        case StageReward():
            return "model"


def _source(source: RewardSource, field: str, models: RewardModels) -> Source:
    match source:
        case FunctionReward():
            return _function(source, f"alignment.{field}.name")
        case RegistryReward():
            registered = (models.registered or {})[source.uri]
            return lambda answered: registered(answered.conversations, answered.texts)
        case StageReward():
            stage = models.stage
            assert stage is not None
            return lambda answered: stage(answered.prompts, answered.responses)


def _function(source: FunctionReward, field: str) -> Source:
    function = load_function(source.name, field, source.timeout_seconds)

    def call(answered: Answered) -> Tensor:
        questions = [str(conversation[-1]["content"]) for conversation in answered.conversations]
        return torch.tensor(function(questions, answered.texts))

    return call
