"""The align stage with PPO: one backbone that is policy, reference, critic and, where the run trained one, reward model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from posttrain.checkpoints.load import load_model, load_tokenizer
from posttrain.data.end_tokens import end_tokens
from posttrain.data.packing import Example, Tokens
from posttrain.models.parameters import parameter_count, trainable_count
from posttrain.models.weight_sharing import keep_apart
from posttrain.peft.wrap import save_trained, wrap
from posttrain.rewards.model import RewardModel, open_reward_model
from posttrain.rewards.sources import RewardSources, address, load_rewards
from posttrain.runtime.device import resolve_device, resolve_dtype
from posttrain.runtime.distributed import is_main
from posttrain.runtime.peak_memory import measured
from posttrain.runtime.store import Built
from posttrain.runtime.threads import suited_threads
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
from posttrain.training.ppo.objective import PolicyOptimization, plan_of
from posttrain.training.ppo.on_policy import measure, scale_critic
from posttrain.training.ppo.prompts import held_out_prompts, training_prompts
from posttrain.training.ppo.rollout import Collector
from posttrain.training.ppo.rollout_log import ROLLOUTS, SampleLog
from posttrain.training.ppo.served_policy import served_policy
from posttrain.training.request import StageRequest
from posttrain.training.rows import row_metrics
from posttrain.training.validation import refuse_unmeasured
from schemas.errors import Refusal
from schemas.ppo import PPO, RegistryReward, StageReward

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
    prompts = training_prompts(request, spec, rows, tokenizer, inner_model(backbone.policy).config)
    scorer = ActorCritic(backbone.policy, device, dtype, temperature=spec.temperature).eval()
    scorer.entropy, scorer.trains_trunk = spec.entropy_coefficient > 0, spec.critic.trains_trunk
    layout = use_layout_for(scorer, prompts.tokens)
    request.progress.note(f"align: {layout}")
    if spec.gradient_checkpointing:
        checkpoint_activations(backbone.policy, "alignment.gradient_checkpointing")
    collect = Collector(
        spec=spec, seed=seed, scorer=scorer, reference=backbone.reference, sampler=sample, rewards=backbone.rewards,
        tokenizer=tokenizer, prompts=prompts, log=SampleLog(request.out / ROLLOUTS),
        ends=tuple(end_tokens(tokenizer)), served=served_policy(spec, tokenizer, request.policy),
    )  # fmt: skip
    unseen = held_out_prompts(spec, rows, tokenizer, inner_model(backbone.policy).config)
    seen = measure(collect, unseen or prompts, request.out)
    collect = _with_unit_rewards(request, collect, seen.divisors) if seen else collect
    held_out = HeldOutRewards(collect, unseen) if unseen else None
    refuse_unmeasured("alignment", spec, held_out, "the held-out reward")
    objective = PolicyOptimization(spec, collect, dtype, backbone.reference, standing_for_answers(prompts.tokens))
    parts = apart(spec, lambda: start_parameters(request))
    job = new_job(request, spec, scorer, objective, plan_of(spec, seed), rounds=objective, apart=parts, held_out=held_out)
    with suited_threads(start_parameters(request)):
        metrics = train(job)
    for sentence in caution.of_ppo(metrics):
        request.progress.note(f"align: {sentence}")
    (request.out / "layout.txt").write_text(layout + "\n")
    metrics |= {"prompts": len(prompts.tokens), "learning_rate": spec.learning_rate, **row_metrics(request.out)}
    metrics |= seen.numbers() if seen else {}
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
    rewards = load_rewards(spec, models, request.cache.with_name("verdicts"))
    return _Backbone(policy, start_policy(policy, spec, critic), rewards)


def _with_unit_rewards(request: StageRequest, collect: Collector, divisors: Mapping[str, float]) -> Collector:
    """Reward models of unit standard deviation on the policy's own answers, and a critic that started from one like it."""
    own = divisors.get(f"reward_{STAGE}")
    start = reward_start(request.recipe, collect.spec, request.rewards.get(STAGE))
    if own and start and collect.spec.advantage == "gae":
        scale_critic(collect.scorer.model, own)
    return replace(collect, rewards=collect.rewards.scaled(divisors))


def _reward_models(request: StageRequest, spec: PPO, base: nn.Module, device: torch.device) -> dict[str, RewardModel]:
    """The models that sources name; one that the run trained on the policy's own weights is put on these."""
    wanted = {address(source) for source in spec.sources if isinstance(source, StageReward | RegistryReward)}
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


def standing_for_answers(prompts: Sequence[Tokens]) -> list[Example]:
    """The longest prompts, answered by themselves."""
    return [Example(prompt, (prompt, prompt[::-1].copy())) for prompt in sorted(prompts, key=len)[-CHECKED:]]


def use_layout_for(scorer: ActorCritic, prompts: Sequence[Tokens]) -> str:
    """Have a scorer use the fastest layout that is exact on the longest prompts, which stand for responses, too.

    Returns a sentence for the report.

    Raises:
        Refusal: when no layout gives hidden states.
    """
    layout = choose_layout(scorer, standing_for_answers(prompts))
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
    outputs = save_trained(policy, tokenizer, spec.peft, request.policy, request.out) if is_main() else {}
    size = {"parameters": parameter_count(policy), "trainable_parameters": trainable_count(policy)}
    return Built({**metrics, **size, **({"critic_parameters": critic} if critic else {})}, outputs)
