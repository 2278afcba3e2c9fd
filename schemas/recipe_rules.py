"""The rules of a recipe that reach across its sections: every consumer is fed, and what is combined goes together."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic_core import PydanticCustomError

from schemas.base import refused
from schemas.judge import EndpointJudge, RewardModelJudge
from schemas.ppo import PPO, StageReward
from schemas.ppo_parts import CRITIC_STARTS
from schemas.recipe import Recipe, policies, policy_of
from schemas.training import DPO

Problems = Iterator[PydanticCustomError]


def problems_of(recipe: Recipe) -> list[PydanticCustomError]:
    """What is wrong with a recipe whose sections are each right."""
    return [problem for rule in RULES for problem in rule(recipe)]


def _missing_inputs(recipe: Recipe) -> Problems:
    """Stages that are asked for without what they read."""
    reads = {stage: source for stage in recipe.stages if (source := recipe.dataset(stage))}
    for stage, source in reads.items():
        if getattr(recipe.data, source) is None:
            yield refused(
                where=f"data.{source}",
                found="null",
                allowed=f"a source, since the stage {stage} reads it",
                remedy=f"set data.{source}, or remove the stage",
            )
    if recipe.model.source == "scratch" and recipe.pretrain is None:
        yield refused(
            where="pretrain",
            found="null with model.source scratch",
            allowed="a pretrain section",
            remedy="add pretrain, or start from model.source hub or local",
        )
    if not reads:
        yield refused(
            where="sft",
            found="a recipe that trains nothing",
            allowed="at least one of pretrain, sft, reward, alignment",
            remedy="add the stage that you want",
        )
    if getattr(recipe.data, recipe.prompts_table) is None:
        yield refused(
            where="data.prompts",
            found="null, and data.preferences, data.feedback and data.instructions null",
            allowed="one of them",
            remedy="evaluation needs held-out prompts: give prompts, instructions, preferences or feedback",
        )
    if isinstance(recipe.alignment, DPO) and not recipe.unpaired and recipe.data.feedback is not None:
        yield refused(
            where="data.feedback",
            found=f"a source, with alignment.loss {recipe.alignment.loss}, which reads pairs",
            allowed="null, or alignment.loss kto",
            remedy="set alignment.loss=kto, or remove data.feedback",
        )


DRIFT = ("drift_sources", "drift_lengths", "drift_languages")
"""What is measured against the data of the champion, where there is one."""
_OF_PAIRS = {"preference_accuracy", "preference_accuracy_length_controlled", "calibration_error"}
"""What is measured on held-out pairs."""


def _impossible_gates(recipe: Recipe) -> Problems:
    """Gates and promotion metrics on numbers that this recipe never measures."""
    opponents = policies(recipe)[:-1]
    rates = ("win_rate", "length_controlled_win_rate", "worst_source_win_rate")
    wins = {f"{kind}_vs_{name}" for name in opponents for kind in rates}
    measured = {"eos_share", "distinct_2", *(f"length_ratio_vs_{name}" for name in opponents)}
    measured |= wins if recipe.evaluation.judge else set()
    measured |= {"perplexity_ratio_vs_base"} if opponents else set()
    measured |= {"kl_per_token"} if "align" in recipe.stages else set()
    measured |= _OF_PAIRS if "align" in recipe.stages and recipe.data.preferences else set()
    measured |= _of_judge(recipe) | (set(DRIFT) if recipe.registry else set())
    measured |= {"feedback_auc"} if "align" in recipe.stages and recipe.data.feedback else set()
    trains = any(map(policy_of, recipe.stages)) and not isinstance(recipe.alignment, PPO)  # PPO: no such loss
    measured |= {"validation_loss_falls"} if trains else set()
    comparable = trains and not recipe.unpaired  # whose loss measures a policy by its own divergence
    wanted = {f"evaluation.gates.{name}": name for name in recipe.evaluation.gates.given()}
    for where, name in wanted.items():
        if name not in measured:
            yield _unmeasured(where, name, measured, wins)
    raw = {f"win_rate_vs_{name}" for name in opponents}
    promotes = measured & {*raw, "preference_accuracy"} | ({"validation_loss"} if comparable and opponents else set())
    if recipe.registry and recipe.registry.promote_on and recipe.registry.promote_on not in promotes:
        yield _unmeasured("registry.promote_on", recipe.registry.promote_on, promotes, wins)


def _of_judge(recipe: Recipe) -> set[str]:
    """What is measured of the judge."""
    judge, model = recipe.evaluation.judge, isinstance(recipe.evaluation.judge, EndpointJudge)
    pairs = judge is not None and recipe.data.preferences is not None and getattr(judge, "pairs", 1) > 0
    compares = model and getattr(judge, "mode", None) == "pairwise" and (pairs or len(policies(recipe)) > 1)
    scores = judge is not None and getattr(judge, "mode", "pointwise") == "pointwise"
    measured = {"judge_agreement": pairs, "judge_consistency": compares, "mean_reward": scores}
    return {name for name, there in measured.items() if there}


def _unmeasured(where: str, name: str, measured: set[str], wins: set[str]) -> PydanticCustomError:
    """A refusal of one of them; a win rate may lack nothing but a judge."""
    judge = "set evaluation.judge: a function, a reward model or an endpoint"
    remedy = judge if name in {*wins, "mean_reward"} else "remove it, or add the stage that it is of"
    return refused(
        where=where,
        found=name,
        allowed=f"metrics that this recipe measures: {', '.join(sorted(measured)) or 'none'}",
        remedy=remedy,
    )


def _cannot_reward(recipe: Recipe) -> Problems:
    """Sources of rewards that this recipe does not have."""
    if not isinstance(recipe.alignment, PPO) or recipe.reward is not None:
        return
    for field in ("reward", "monitor"):
        if any(isinstance(source, StageReward) for source in getattr(recipe.alignment, field)):
            yield refused(
                where=f"alignment.{field}",
                found="source model, and no section reward",
                allowed="a section reward, or source function or registry",
                remedy="add reward: {}, which trains a reward model on data.preferences",
            )


def _cannot_start_the_critic(recipe: Recipe) -> Problems:
    """A critic starts as a reward model that began as the policy, with a LoRA on its weights or all of them trained."""
    spec, trained = recipe.alignment, recipe.reward
    if not isinstance(spec, PPO) or spec.critic.init != "reward_model":
        return
    method = trained.peft.method if trained else None
    lacks = {
        "no reward source model": not any(isinstance(source, StageReward) for source in spec.reward),
        "a reward.model of its own": trained is not None and trained.model is not None,
        f"reward.peft.method {method}": method not in (None, *CRITIC_STARTS),
    }
    for found in (found for found, holds in lacks.items() if holds):
        yield refused(
            where="alignment.critic.init",
            found=f"reward_model, and {found}",
            allowed=f"a section reward with peft.method {' or '.join(CRITIC_STARTS)} and model null, whose rewards are maximised",
            remedy="set critic.init=zero",
        )


def _does_not_fit(recipe: Recipe) -> Problems:
    """Settings that are fine alone and not together."""
    if isinstance(recipe.alignment, PPO) and recipe.alignment.sft_weight and recipe.prompts_table == "prompts":
        yield refused(
            where="alignment.sft_weight",
            found=f"{recipe.alignment.sft_weight:g} with data.prompts, which have no answers",
            allowed="0, or prompts from data.preferences or data.instructions",
            remedy="remove sft_weight",
        )
    if isinstance(recipe.alignment, PPO) and recipe.compute.num_processes > 1 and recipe.compute.strategy != "ddp":
        yield refused(
            where="compute.strategy",
            found=f"{recipe.compute.strategy} with alignment.algorithm ppo and {recipe.compute.num_processes} processes",
            allowed="ddp: every process samples from the whole policy",
            remedy="set compute.strategy=ddp",
        )
    if isinstance(recipe.evaluation.judge, RewardModelJudge) and recipe.reward is None:
        yield refused(
            where="evaluation.judge.source",
            found="reward_model, and reward null",
            allowed="function, or a reward section",
            remedy="add the section reward, or name a function",
        )


def _too_long(recipe: Recipe) -> Problems:
    """Rows longer than a model from scratch can read; of another model its config says how long they may be."""
    if recipe.model.source != "scratch":
        return
    longest = recipe.model.max_length
    wanted = {
        "pretrain.context": recipe.pretrain.context if recipe.pretrain else 0,
        "sft.max_length": recipe.sft.max_length if recipe.sft else 0,
        "reward.max_length": recipe.reward.max_length if recipe.reward and recipe.reward.model is None else 0,
        "alignment.max_length": getattr(recipe.alignment, "max_length", 0),
    }
    for where, tokens in wanted.items():
        if tokens > longest:
            yield refused(
                where=where,
                found=f"{tokens} with model.max_length {longest}",
                allowed=f"at most {longest}",
                remedy="lower it, or raise model.max_length",
            )
    if recipe.model.architecture != "t5" and (tokens := recipe.evaluation.max_new_tokens) > longest - 2:
        yield refused(
            where="evaluation.max_new_tokens",
            found=f"{tokens} with model.max_length {longest}",
            allowed=f"at most {longest - 2}, which leaves room for a prompt",
            remedy="lower it, or raise model.max_length",
        )


def _cannot_register(recipe: Recipe) -> Problems:
    """What the registry cannot take, or would not have."""
    if recipe.registry and getattr(recipe.model, "trust_remote_code", False):
        yield refused(
            where="model.trust_remote_code",
            found="true with a registry section",
            allowed="false, or registry null",
            remedy="consumers load registered models without the model's own code",
        )
    if recipe.registry and recipe.registry.reward_model and recipe.reward is None:
        yield refused(
            where="registry.reward_model",
            found=f"{recipe.registry.reward_model}, and reward null",
            allowed="null, or a reward section",
            remedy="add the section reward, or remove reward_model",
        )
    if recipe.registry and recipe.registry.reward_model == recipe.registry.model:
        yield refused(
            where="registry.reward_model",
            found=f"{recipe.registry.model}, the name of the policy",
            allowed="a name of its own",
            remedy="choose another name",
        )


_WITHOUT_INTERVAL = dict.fromkeys(DRIFT, "max") | {
    "perplexity_ratio_vs_base": "max", "validation_loss_falls": "min", "distinct_2": "min", "calibration_error": "max",
}  # fmt: skip
"""Metrics that are one number, and the limit to use instead."""


def _bounds_without_interval(recipe: Recipe) -> Problems:
    """Gates on the interval of a metric that has none."""
    for name, instead in _WITHOUT_INTERVAL.items():
        gate = getattr(recipe.evaluation.gates, name)
        if gate and gate.lower_bound_above is not None:
            yield refused(
                where=f"evaluation.gates.{name}.lower_bound_above",
                found="a bound on an interval",
                allowed="min or max: this metric has no interval",
                remedy=f"use {instead}",
            )


def _quantised(recipe: Recipe) -> Problems:
    """What was not built for a model whose weights are held in fewer bits."""
    if recipe.quantization is None:
        return
    conflicts = {
        "pretrain": (recipe.pretrain is not None, "a section", "null: pretraining trains every weight"),
        "reward": (recipe.reward is not None, "a section", "null"),
        "alignment.algorithm": (recipe.alignment.algorithm == "ppo", "ppo", "dpo or none"),
        "compute.num_processes": (recipe.compute.num_processes > 1, str(recipe.compute.num_processes), "1"),
    }
    for where, (given, found, allowed) in conflicts.items():
        if given:
            yield refused(
                where=where,
                found=f"{found} with model.quantization {recipe.quantization}",
                allowed=allowed,
                remedy="change it, or set quantization=null",
            )


def _compares_with_nobody(recipe: Recipe) -> Problems:
    """Gates of benchmarks on a difference to a policy that this recipe does not have."""
    opponents = policies(recipe)[:-1]
    for index, benchmark in enumerate(recipe.evaluation.benchmarks):
        gate = benchmark.gate
        if gate and gate.compares and (not opponents or (gate.against or opponents[0]) not in opponents):
            yield refused(
                where=f"evaluation.benchmarks.{index}.gate.against",
                found=f"{gate.against}, which this recipe does not compare",
                allowed=f"one of {', '.join(opponents)}" if opponents else "a recipe that trains on another policy",
                remedy="name another policy, or ask for min or max alone",
            )


RULES = (
    _missing_inputs, _impossible_gates, _compares_with_nobody, _cannot_reward, _cannot_start_the_critic, _too_long,
    _cannot_register,
    _bounds_without_interval, _does_not_fit, _quantised,
)  # fmt: skip
