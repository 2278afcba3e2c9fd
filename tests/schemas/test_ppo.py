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
        ({"advantage": "rloo", "samples": 4, "value_model": "adapter"}, "alignment.value_model"),
        ({"max_new_tokens": 48, "max_length": 49}, "alignment.max_new_tokens"),
        ({"reward": [FUNCTION, {**FUNCTION, "name": "another:function"}]}, "two sources of the name function"),
        ({"monitor": [{"source": "model"}, {"source": "model"}]}, "alignment.monitor"),
        ({"keep": "best"}, "alignment.keep"),
        ({"kl": {"coefficient": 0, "adaptive": True}}, "alignment.kl.coefficient"),
        ({"rollouts": 64, "kl": {"adaptive": True, "horizon": 12.8}}, "alignment.kl.horizon"),
        ({"early_stop": {}}, "alignment.early_stop"),
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
