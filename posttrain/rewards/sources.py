"""What PPO maximises: the recipe's sources of rewards, summed with their weights, and those that only watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.data.encode import Conversation
from posttrain.data.packing import Tokens
from posttrain.rewards.functions import load_function
from posttrain.rewards.model import RewardModel
from schemas.errors import Refusal
from schemas.ppo import PPO, FunctionReward, RegistryReward, RewardSource, StageReward


@dataclass(frozen=True)
class Answered:
    """R prompts and responses, as tokens and as text."""

    conversations: Sequence[Conversation]
    prompts: Sequence[Tokens]
    responses: Sequence[Tokens]
    texts: Sequence[str]


Source = Callable[[Answered], Tensor]
"""From R answers to rewards [R] in fp32."""


@dataclass(frozen=True)
class RewardSources:
    """Every source of a recipe by its name, with its weight; those with weight None only watch."""

    sources: Mapping[str, tuple[Source, float | None]]

    def __call__(self, answered: Answered) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum that is maximised [R], and what each source says [R].

        Raises:
            Refusal: where the sum is not finite.
        """
        said = {name: source(answered) for name, (source, _) in self.sources.items()}
        weighed = [weight * said[name] for name, (_, weight) in self.sources.items() if weight is not None]
        total = torch.stack(weighed).sum(0)
        if not total.isfinite().all():
            index = int((~total.isfinite()).nonzero()[0])
            found = ", ".join(f"{name} {float(rewards[index])}" for name, rewards in said.items())
            raise Refusal(
                where="alignment.reward",
                found=f"a weighted sum that is not finite in fp32, for prompt {index}: {found}",
                allowed="finite numbers of at most 3.4e38",
                remedy="lower the weights, or scale the rewards",
            )
        return total, said


def load_rewards(spec: PPO, models: Mapping[str, RewardModel]) -> RewardSources:
    """The sources of a recipe.

    Args:
        spec: names them.
        models: reward models by `address`.

    Raises:
        Refusal: when a function does not exist.
    """
    optimised = {f"reward_{source.label}": (_source(source, "reward", models), source.weight) for source in spec.reward}
    watching = {f"monitor_{source.label}": (_source(source, "monitor", models), None) for source in spec.monitor}
    return RewardSources({**optimised, **watching})


def address(source: StageReward | RegistryReward) -> str:
    """What a reward model is found under: `model` for the stage's, the URI for a registered one."""
    return source.uri if isinstance(source, RegistryReward) else source.source


def _source(source: RewardSource, field: str, models: Mapping[str, RewardModel]) -> Source:
    if isinstance(source, FunctionReward):
        return _function(source, f"alignment.{field}.name")
    model = models[address(source)]
    if isinstance(source, StageReward) and model.of_policy:  # what was sampled, to the token
        return lambda answered: model(answered.prompts, answered.responses)
    return lambda answered: model.of_texts(answered.conversations, answered.texts)


def _function(source: FunctionReward, field: str) -> Source:
    function = load_function(source.name, field, source.timeout_seconds)

    def call(answered: Answered) -> Tensor:
        questions = [str(conversation[-1]["content"]) for conversation in answered.conversations]
        return torch.tensor(function(questions, answered.texts))

    return call
