"""Where a critic with weights of its own comes from, and at what rate it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from posttrain.models.weight_sharing import shared_copy
from posttrain.peft.wrap import wrap
from posttrain.rewards.checkpoint import load_reward, read_record
from posttrain.rewards.scorer import SCORE, take_off
from posttrain.scoring.scorer import inner_model
from posttrain.training.dropout import without_dropout
from posttrain.training.learning_rates import derived
from posttrain.training.optimizer import Apart
from posttrain.training.ppo.actor_critic import add_value_head, is_critic
from schemas.peft import LoRA
from schemas.ppo import PPO, StageReward
from schemas.ppo_parts import CRITIC_STARTS
from schemas.recipe import Recipe

NEW = LoRA(method="lora")  # what a critic trains that starts from nothing, or from a model of which every weight was trained


@dataclass(frozen=True)
class RewardStart:
    """The reward model from which a critic starts."""

    folder: Path
    """Output `reward` of the stage."""
    weight: float
    """Factor of its rewards in what is maximised."""


def reward_start(recipe: Recipe, spec: PPO, folder: Path | None) -> RewardStart | None:
    """The reward model that the recipe has the critic start from; None: a head that says 0. `folder` is this run's."""
    weight = next((source.weight for source in spec.reward if isinstance(source, StageReward)), None)
    trained = recipe.reward
    fits = (
        trained is not None and trained.model is None and trained.peft.method in CRITIC_STARTS and spec.value_model == "adapter"
    )
    wanted = fits if spec.critic.init is None else spec.critic.init == "reward_model"
    return RewardStart(folder, weight) if wanted and folder is not None and weight is not None else None


def new_critic(base: nn.Module, spec: PPO, seed: int, start: RewardStart | None = None) -> nn.Module | None:
    """The critic with a LoRA of its own on the base's weights; None where values come otherwise.

    Args:
        base: the policy before its method is put on it.
        spec: the section.
        seed: of the critic's new weights.
        start: the reward model that it starts from.
    """
    if spec.advantage != "gae" or spec.value_model != "adapter":
        return None
    if start is None:
        critic = wrap(shared_copy(base), NEW, seed, "alignment.value_model")
        add_value_head(critic)
    else:
        critic = _from_reward(base, start, seed)
    without_dropout(critic)
    return critic


@torch.no_grad()
def _from_reward(base: nn.Module, start: RewardStart, seed: int) -> nn.Module:
    """The reward model as a value model: what it says of a response so far is the value of going on from there.

    One that is a LoRA on the base's weights trains that on; one whose every weight was trained stands frozen below a new LoRA.
    """
    record, critic = read_record(start.folder), load_reward(start.folder, base)
    (score,) = (head.get_parameter("weight") for head in take_off(inner_model(critic), [SCORE]).values())
    if record.shares:
        of_base = {parameter.data_ptr() for parameter in base.parameters()}
        for parameter in critic.parameters():
            parameter.requires_grad_(parameter.data_ptr() not in of_base)
    else:
        critic = wrap(_with_body_of(critic, base), NEW, seed, "alignment.value_model")
    add_value_head(critic, score.shape[1])
    head = inner_model(critic).value_head
    head.weight.copy_(start.weight * score)
    head.bias.fill_(-start.weight * record.mean)
    return critic


def _with_body_of(trained: nn.Module, base: nn.Module) -> nn.Module:
    """A model of the base's class, which methods know, around the body of a classifier."""
    critic = shared_copy(base)
    inner = inner_model(critic)
    body = inner_model(trained).base_model.to(next(base.parameters()).device)
    setattr(inner, inner.base_model_prefix, body)
    return critic


def apart(spec: PPO, parameters: Callable[[], int]) -> tuple[Apart, ...]:
    """The critic as tensors with a rate of their own; `parameters` counts those of the model."""
    if spec.advantage != "gae":
        return ()
    rate = spec.critic.learning_rate or derived("reward", NEW, parameters())
    return (Apart("critic", is_critic, rate, spec.critic.max_grad_norm),)
