"""The align stage with PPO: one backbone that is policy, reference, critic and, where the run trained one, reward model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from torch import nn

from posttrain.actor_critic import ActorCritic, add_critic, add_value_head, remove_critic, without_dropout
from posttrain.architectures import longest_sequence
from posttrain.data.encode import encode_prompts
from posttrain.device import resolve_device, resolve_dtype
from posttrain.models import load_model, load_tokenizer
from posttrain.packing import Example
from posttrain.peak import measured
from posttrain.peft.wrap import save_trained, wrap
from posttrain.reference import Reference
from posttrain.reward_models import open_reward_model
from posttrain.reward_sources import RewardModels, load_rewards
from posttrain.rollouts import sample
from posttrain.scoring import PLAIN, choose_layout
from posttrain.store import Built
from posttrain.trainers.collect import Collector, Prompts
from posttrain.trainers.loop import Job, train
from posttrain.trainers.ppo import PolicyOptimization, plan_of
from posttrain.trainers.samples import SAMPLES, SampleLog
from posttrain.trainers.stages import Setting, checkpoint_activations
from posttrain.twins import keep_apart, twin
from schemas.errors import Refusal
from schemas.peft import LoRA
from schemas.ppo import PPO, RegistryReward

STAGE = "model"  # key of the stage's reward model among the folders


@measured
def align_ppo(setting: Setting, spec: PPO, rows: pl.DataFrame, rewards: Mapping[str, Path]) -> Built:
    """Policy optimisation on the prompts of `rows`; saves `model/` or `adapter/`, and samples of every iteration.

    Args:
        rewards: folders of reward models: of this run's stage under `model`, of registered ones under their URI.
    """
    tokenizer = load_tokenizer(setting.policy)
    device, dtype = resolve_device(setting.recipe.compute), resolve_dtype(setting.recipe.compute)
    base = load_model(setting.policy, device)
    models = _reward_models(spec, rewards, base, setting)
    critic = twin(base) if spec.advantage == "gae" and spec.value_model == "adapter" else None
    model = wrap(base, spec.peft, setting.recipe.seed, "alignment.peft", tokenizer)
    for other in (critic, *models.modules):
        if other is not None:
            keep_apart(other, model)
    without_dropout(model)
    reference = Reference(model)
    _give_values(model, critic, spec, setting.recipe.seed)
    prompts = _prompts(spec, rows, tokenizer, model_config(base))
    scorer = ActorCritic(model, device, dtype, temperature=spec.temperature).eval()
    scorer.entropy = spec.entropy_coefficient > 0
    setting.progress.note(f"align: {_layout(scorer, prompts)}")
    if spec.gradient_checkpointing:
        checkpoint_activations(model, "alignment.gradient_checkpointing")
    log = SampleLog(setting.out / SAMPLES)
    collect = Collector(
        spec, setting.recipe.seed, scorer, reference, sample, load_rewards(spec, models.rewards), tokenizer, prompts, log,
        setting.progress,
    )  # fmt: skip
    objective = PolicyOptimization(spec, collect, dtype)
    job = Job("align", scorer, objective, plan_of(spec, setting.recipe.seed), spec, setting.recipe.compute, setting.out,
              setting.progress, rounds=objective)  # fmt: skip
    metrics = train(job)
    return _saved(setting, spec, scorer, tokenizer, metrics)
