"""The memory that PPO takes: sampling, and steps of a policy beside which other models live on the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn
from transformers import PreTrainedConfig

from posttrain.data.packing import Example
from posttrain.forecast.peaks import Training, evaluation_peaks, training_peaks, wrapped
from posttrain.forecast.phases import Arithmetic, Peak
from posttrain.models.parameters import parameter_count, trainable_count
from posttrain.peft.methods import METHODS
from posttrain.sampling.sampler import BATCH
from posttrain.training.batches import by_rows
from posttrain.training.objectives import LanguageModelling
from schemas.peft import Full
from schemas.ppo import PPO, StageReward

FP32 = 4


def ppo_peaks(
    config: PreTrainedConfig,
    spec: PPO,
    prompts: Sequence[Example],
    seed: int,
    on: Arithmetic,
    model: nn.Module | None = None,
    new_tokens: tuple[int, ...] = (),
    whole_reward: bool = False,
) -> list[Peak]:
    """The phases of PPO on prompts like these, each answered at full length; `model` is the policy, where the caller has it.

    With `whole_reward` the run's reward model began as the policy, and every weight of it was trained.

    Scores of tokens are what a step holds; values, ratios and advantages are numbers per token beside them.
    """
    response = np.zeros(spec.max_new_tokens, np.int32)
    answers = [Example(each.prompt, (response,) * spec.samples) for each in spread(prompts, spec.rollouts // spec.samples)]
    plan = by_rows(len(answers), max(1, len(answers) // spec.minibatches), 1, seed)
    compared, objective = spec.kl_place is not None, LanguageModelling(answers)
    stage = Training(config, spec, spec.peft, objective, plan, compared=compared, rollouts=True, new_tokens=new_tokens)
    steps = training_peaks(stage, on, model)
    lengths = [len(answer.prompt) for answer in answers for _ in answer.branches][:BATCH]
    sampling = evaluation_peaks(config, lengths, spec.max_new_tokens, answers, on)
    beside, critic = copies(config, spec, whole_reward), 2 if _own_critic(spec) else 1
    return [replace(peak, weights=peak.weights + beside, activations=critic * peak.activations) for peak in (*steps, *sampling)]


def spread(prompts: Sequence[Example], count: int) -> list[Example]:
    """At most `count` prompts, the longest first and spread over all lengths: a file may be sorted, and rollouts are shuffled."""
    by_length = sorted(prompts, key=lambda each: len(each.prompt), reverse=True)
    few = min(count, len(by_length))
    return [by_length[i * len(by_length) // few] for i in range(few)]


def copies(config: PreTrainedConfig, spec: PPO, whole_reward: bool) -> int:
    """Bytes of base weights that the reward model and a critic of its own cannot share, since the policy or they train them."""
    own_reward = any(isinstance(source, StageReward) for source in spec.sources)
    trained = 0 if METHODS[spec.peft.method].of_base == "none" else trainable_count(wrapped(config, spec.peft))
    own = parameter_count(wrapped(config, Full(method="full"))) if own_reward and whole_reward else trained
    of_critic = trained if spec.critic.init == "zero" else own
    return FP32 * (own_reward * own + _own_critic(spec) * of_critic)


def _own_critic(spec: PPO) -> bool:
    return spec.advantage == "gae" and spec.value_model == "adapter"
