"""The rules of the PPO section: what it refuses, and that one source is a list of one."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from schemas.ppo import PPO, FunctionReward, StageReward

FUNCTION = {"source": "function", "name": "module:function"}


def section(**changes) -> PPO:
    return PPO.model_validate({"algorithm": "ppo", "reward": FUNCTION} | changes)


def test_one_source_is_a_list_of_one():
    assert section(reward={"source": "model"}).reward == (StageReward(source="model"),)
    both = section(reward=[{"source": "model", "weight": 0.5}, FUNCTION], monitor=FUNCTION)
    assert [type(source) for source in both.reward] == [StageReward, FunctionReward]
    assert [source.weight for source in both.reward] == [0.5, 1.0]
    assert [source.name for source in both.monitor] == ["module:function"]


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"reward": []}, "reward"),
        ({"rollouts": 10, "samples": 4}, "alignment.rollouts"),
        ({"rollouts": 8, "samples": 4, "minibatches": 3}, "alignment.minibatches"),
        ({"advantage": "rloo"}, "alignment.samples"),
        ({"advantage": "grpo", "samples": 1}, "alignment.samples"),
        ({"advantage": "grpo", "samples": 4, "lam": 0.5}, "alignment.lam"),
        ({"advantage": "rloo", "samples": 4, "value_model": "trunk"}, "alignment.value_model"),
        ({"max_new_tokens": 48, "max_length": 49}, "alignment.max_new_tokens"),
        ({"reward": [FUNCTION, {**FUNCTION, "name": "another:function"}]}, "two sources of the name function"),
        ({"monitor": [{"source": "model"}, {"source": "model"}]}, "alignment.monitor"),
        ({"keep": "best", "held_out_prompts": 0}, "alignment.keep"),
        ({"kl": {"coefficient": 0, "adaptive": True}}, "alignment.kl.coefficient"),
        ({"rollouts": 64, "kl": {"adaptive": True, "horizon": 12.8}}, "alignment.kl.horizon"),
        ({"early_stop": {}, "held_out_prompts": 0}, "alignment.early_stop"),
        ({"advantage": "rloo", "samples": 4, "lambda_value": 0.5}, "alignment.lambda_value"),
        ({"advantage": "rloo", "samples": 4, "value_clip": 0.2}, "alignment.value_clip"),
        ({"advantage": "grpo", "samples": 4, "critic": {"learning_rate": 1e-3}}, "alignment.critic"),
        ({"critic": {"init": "reward_model"}, "value_model": "trunk"}, "alignment.critic.init"),
        ({"critic": {"trains_trunk": True}, "value_model": "adapter"}, "alignment.critic.trains_trunk"),
        (
            {"value_model": "trunk", "critic": {"trains_trunk": True, "warmup_iterations": 1}},
            "alignment.critic.warmup_iterations",
        ),
        ({"critic": {"warmup_iterations": 3}, "iterations": 3}, "alignment.critic.warmup_iterations"),
        ({"scale_rewards": "none"}, "alignment.scale_rewards"),
        ({"advantage": "rloo", "samples": 4, "scale_rewards": "batch"}, "alignment.scale_rewards"),
        ({"ratio": "sequence"}, "alignment.ratio"),
        ({"advantage": "rloo", "samples": 4, "ratio": "sequence", "surrogate": "cispo"}, "alignment.ratio"),
        ({"surrogate": "cispo", "dual_clip": 3}, "alignment.dual_clip"),
        ({"dual_clip": 1}, "dual_clip"),
        ({"dynamic_sampling": 3}, "alignment.dynamic_sampling"),
        ({"overlong_penalty": 2}, "alignment.overlong_penalty"),
        ({"overlong_buffer": 49}, "alignment.overlong_buffer"),
        ({"kl": {"coefficient": 0, "estimator": "k3"}}, "alignment.kl.estimator"),
        ({"kl": {"coefficient": 0, "place": "loss"}}, "alignment.kl.place"),
        ({"kl": {"estimator": "k1", "place": "loss"}}, "alignment.kl.estimator"),
        ({"kl": {"coefficient": 0}, "reference_refresh": {"iterations": 2}}, "alignment.reference_refresh"),
        ({"iterations": 4, "reference_refresh": {"iterations": 4}}, "alignment.reference_refresh.iterations"),
        ({"reference_refresh": {"iterations": 4, "mix": 0}}, "mix"),
        ({"kl": {"coefficient": 0}, "stop": {"kl_per_response": 5}}, "alignment.stop.kl_per_response"),
        ({"stop": {"monitor_falls": 0.1}}, "alignment.stop.monitor_falls"),
        ({"monitor": FUNCTION, "stop": {"patience": 2}}, "alignment.stop.patience"),
        ({"reward": {"source": "registry", "uri": "models/reward"}}, "uri"),
        ({"beta": 0.1}, "beta"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, where):
    with pytest.raises(ValidationError, match=where):
        section(**changes)


def test_a_horizon_above_a_fifth_of_the_rollouts_is_allowed_and_one_that_is_not_read_too():
    assert section(rollouts=64, kl={"adaptive": True, "horizon": 13}).kl.adaptive
    assert section(rollouts=64, kl={"coefficient": 0, "horizon": 1}).kl.coefficient == 0


@pytest.mark.parametrize(
    ("changes", "estimator", "place"),
    [
        ({}, "k1", "reward"),
        ({"advantage": "rloo", "samples": 2}, "k1", "reward"),
        ({"advantage": "grpo", "samples": 2}, "k3", "loss"),
        ({"kl": {"place": "loss"}}, "k3", "loss"),
        ({"advantage": "grpo", "samples": 2, "kl": {"place": "reward"}}, "k1", "reward"),
        ({"kl": {"estimator": "k2", "place": "loss"}}, "k2", "loss"),
    ],
)
def test_where_the_divergence_counts_follows_from_the_advantage(changes, estimator, place):
    found = section(**changes)
    assert (found.kl_estimator, found.kl_place) == (estimator, place)


def test_without_a_coefficient_there_is_no_divergence():
    assert section(kl={"coefficient": 0}).kl_place is None
