"""The align stage with PPO: one backbone that is policy, reference, critic and, where the run trained one, reward model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.data.choose import representative
from posttrain.data.encode import accepted, encode_prompts
from posttrain.data.end_tokens import end_tokens
from posttrain.data.packing import Example, Tokens
from posttrain.models.architectures import longest_sequence, refuse_beyond
from posttrain.models.parameters import parameter_count, trainable_count
from posttrain.models.positions import UNLIMITED
from posttrain.models.rope import unscaled_up_to
from posttrain.models.weight_sharing import keep_apart
from posttrain.peft.wrap import save_trained, wrap
from posttrain.rewards.model import RewardModel, open_reward_model
from posttrain.rewards.rows import columns_of
from posttrain.rewards.sources import RewardSources, address, load_rewards
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.store import Built
from posttrain.sampling.sampler import sample
from posttrain.scoring.layout_choice import choose_layout
from posttrain.scoring.reference import Reference
from posttrain.scoring.scorer import PLAIN, inner_model
from posttrain.training import caution
from posttrain.training.fit import checkpoint_activations, new_job, start_parameters
from posttrain.training.learning_rates import settled
from posttrain.training.loop import train
from posttrain.training.ppo.actor_critic import ActorCritic, remove_critic, start_policy
from posttrain.training.ppo.critic import apart, new_critic, reward_start
from posttrain.training.ppo.held_out import HeldOutRewards
from posttrain.training.ppo.mix_in import given_answers
from posttrain.training.ppo.objective import PolicyOptimization, plan_of
from posttrain.training.ppo.rollout import Collector, Prompts
from posttrain.training.ppo.rollout_log import ROLLOUTS, SampleLog
from posttrain.training.request import StageRequest
from posttrain.training.rows import record_prompts, row_metrics
from posttrain.training.validation import refuse_unmeasured
from schemas.errors import Refusal
from schemas.ppo import PPO, FunctionReward

STAGE = "model"  # what the reward stage's model is found under
CHECKED = 3  # prompts that the layout is checked on


@measured
def ppo(request: StageRequest, spec: PPO, rows: pl.DataFrame) -> Built:
    """Policy optimisation on the training prompts of `rows`; saves `model/` or `adapter/`, and responses of every iteration.

    Args:
        request: the stage, with the folders of its reward models.
        spec: its section.
        rows: a table with `prompt` and `split`.

    Raises:
        Refusal: when there is no prompt, when the model has no layout that gives hidden states, or when a reward misbehaves.
    """
    spec = settled("ppo", spec, spec.peft, lambda: start_parameters(request))
    assert spec.learning_rate is not None  # `settled`
    tokenizer, device = load_tokenizer(request.policy), resolve_device(request.recipe.compute)
    seed, dtype = request.recipe.seed, resolve_dtype(request.recipe.compute)
    backbone = _backbone(request, spec, tokenizer, device)
    prompts = _prompts(request, spec, rows, tokenizer, inner_model(backbone.policy).config)
    scorer = ActorCritic(backbone.policy, device, dtype, temperature=spec.temperature).eval()
    scorer.entropy, scorer.trains_trunk = spec.entropy_coefficient > 0, spec.critic.trains_trunk
    layout = use_layout_for(scorer, prompts.tokens)
    request.progress.note(f"align: {layout}")
    if spec.gradient_checkpointing:
        checkpoint_activations(backbone.policy, "alignment.gradient_checkpointing")
    collect = Collector(
        spec=spec, seed=seed, scorer=scorer, reference=backbone.reference, sampler=sample, rewards=backbone.rewards,
        tokenizer=tokenizer, prompts=prompts, log=SampleLog(request.out / ROLLOUTS),
        ends=tuple(end_tokens(tokenizer)),
    )  # fmt: skip
    held_out = _held_out(request, spec, rows, collect)
    refuse_unmeasured("alignment", spec, held_out, "the held-out reward")
    objective = PolicyOptimization(spec, collect, dtype, backbone.reference)
    parts = apart(spec, lambda: start_parameters(request))
    metrics = train(
        new_job(request, spec, scorer, objective, plan_of(spec, seed), rounds=objective, apart=parts, held_out=held_out)
    )
    for sentence in caution.of_ppo(metrics):
        request.progress.note(f"align: {sentence}")
    (request.out / "layout.txt").write_text(layout + "\n")
    metrics |= {"prompts": len(prompts.tokens), "learning_rate": spec.learning_rate, **row_metrics(request.out)}
    return _saved(request, spec, backbone.policy, tokenizer, metrics)


@dataclass(frozen=True)
class _Backbone:
    """Models on one set of base weights, apart from what each of them trains."""

    policy: nn.Module
    reference: Reference | None
    rewards: RewardSources


def _backbone(request: StageRequest, spec: PPO, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> _Backbone:
    """Reward model and critic share the base's weights; they are made before the policy's method is put on it."""
    seed = request.recipe.seed
    base = load_model(request.policy, device)
    models = _reward_models(request, spec, base, device)
    critic = new_critic(base, spec, seed, reward_start(request.recipe, spec, request.rewards.get(STAGE)))
    policy = wrap(base, spec.peft, seed, "alignment.peft", tokenizer, request.policy.new_tokens)
    for other in (*([critic] if critic is not None else []), *(model.scorer.model for model in models.values())):
        keep_apart(other, policy)
    return _Backbone(policy, start_policy(policy, spec, critic), load_rewards(spec, models))


def _reward_models(request: StageRequest, spec: PPO, base: nn.Module, device: torch.device) -> dict[str, RewardModel]:
    """The models that sources name; one that the run trained on the policy's own weights is put on these."""
    wanted = {address(source) for source in spec.sources if not isinstance(source, FunctionReward)}
    dtype = resolve_dtype(request.recipe.compute)
    models = {
        name: open_reward_model(request.rewards[name], device, dtype, base if name == STAGE else None) for name in sorted(wanted)
    }
    for name, model in models.items():
        if spec.max_new_tokens >= model.limit:
            raise Refusal(
                where="alignment.max_new_tokens",
                found=f"{spec.max_new_tokens} with the reward model {name}, which reads at most {model.limit} tokens",
                allowed=f"less than {model.limit}",
                remedy="lower it, or take a reward model that reads more: an answer would be rewarded for its start alone",
            )
    return models


def _prompts(request: StageRequest, spec: PPO, rows: pl.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Any) -> Prompts:
    """The distinct training prompts, each with the columns of its first row, cut from the left to leave room for a response.

    Rows that the template refuses are counted.
    """
    room = spec.max_length - spec.max_new_tokens
    refuse_beyond(min(longest_sequence(config), unscaled_up_to(config) or UNLIMITED), "alignment", "max_length", spec.max_length)
    train = rows.filter(split="train")
    kept = accepted(tokenizer, train)
    record_prompts(request.out, f"data.{request.recipe.prompts_table}", len(train), len(kept), request.recipe.data.checks)
    distinct = _distinct(kept)
    if distinct.is_empty():
        raise Refusal(
            where="data.preferences",
            found="no prompt to train on",
            allowed="at least one",
            remedy="lower data.holdout, or give more rows",
        )
    conversations = distinct["prompt"].to_list()
    tokens = encode_prompts(conversations, tokenizer, config.is_encoder_decoder, room)
    given = given_answers(distinct, tokenizer, spec.max_new_tokens) if spec.sft_weight else ()
    return Prompts(conversations, tokens, columns_of(distinct), given)


def _distinct(rows: pl.DataFrame) -> pl.DataFrame:
    """The first row of each prompt."""
    keys = pl.Series([json.dumps(prompt, sort_keys=True) for prompt in rows["prompt"].to_list()], dtype=pl.String)
    return rows.filter(keys.is_first_distinct())


def _held_out(request: StageRequest, spec: PPO, rows: pl.DataFrame, collect: Collector) -> HeldOutRewards | None:
    """Some of the held-out prompts, of every source its share; None where there are none."""
    kept = _distinct(accepted(collect.tokenizer, rows.filter(split="holdout")))
    chosen = representative(kept, spec.held_out_prompts)
    if chosen.is_empty():
        return None
    conversations, config = chosen["prompt"].to_list(), inner_model(collect.scorer.model).config
    room = spec.max_length - spec.max_new_tokens
    tokens = encode_prompts(conversations, collect.tokenizer, config.is_encoder_decoder, room)
    return HeldOutRewards(collect, Prompts(conversations, tokens, columns_of(chosen)))


def use_layout_for(scorer: ActorCritic, prompts: Sequence[Tokens]) -> str:
    """Have a scorer use the fastest layout that is exact on the longest prompts, which stand for responses, too.

    Returns a sentence for the report.

    Raises:
        Refusal: when no layout gives hidden states.
    """
    examples = [Example(prompt, (prompt, prompt[::-1].copy())) for prompt in sorted(prompts, key=len)[-CHECKED:]]
    layout = choose_layout(scorer, examples)
    if layout.layout == PLAIN:
        raise Refusal(
            where="alignment.algorithm",
            found=f"ppo with a model that has no exact layout ({layout})",
            allowed="dpo",
            remedy="choose alignment.algorithm=dpo for this model",
        )
    layout.apply(scorer)
    return str(layout)


def _saved(
    request: StageRequest, spec: PPO, policy: nn.Module, tokenizer: PreTrainedTokenizerBase, metrics: dict[str, float]
) -> Built:
    """Save the policy without its critic."""
    critic = remove_critic(policy)
    outputs = save_trained(policy, tokenizer, spec.peft, request.policy, request.out)
    size = {"parameters": parameter_count(policy), "trainable_parameters": trainable_count(policy)}
    return Built({**metrics, **size, **({"critic_parameters": critic} if critic else {})}, outputs)
