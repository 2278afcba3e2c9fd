"""A reward model that cannot read the longest answers is found before it is trained."""

from __future__ import annotations

import pytest

from posttrain.pipeline.chain import Chain
from posttrain.pipeline.reward_check import check_reward
from schemas.errors import Refusal
from schemas.load import validate_recipe

PPO = {"algorithm": "ppo", "reward": {"source": "model"}}
NEW = {"model": {"source": "scratch"}, "peft": {"method": "full"}, "max_length": 64}


@pytest.fixture
def chain(document, store):
    """Builds the chain of a recipe with a new model of 128 positions."""

    def build(**sections) -> Chain:
        model = {**document["model"], "architecture": "gpt2", "max_length": 128}
        short = {"sft": {"max_length": 64}, "reward": {"max_length": 64}, "pretrain": {"tokens": 1000, "context": 64}}
        return Chain(validate_recipe(document | {"model": model} | short | sections, "test"), store)

    return build


@pytest.mark.parametrize(
    ("sections", "where"),
    [
        ({"alignment": {**PPO, "max_new_tokens": 64, "max_length": 128}, "reward": NEW}, "alignment.max_new_tokens"),
        (
            {
                "alignment": {"algorithm": "dpo", "max_length": 128},
                "evaluation": {"judge": {"source": "reward_model"}, "max_new_tokens": 64},
                "reward": NEW,
            },
            "evaluation.max_new_tokens",
        ),
    ],
)
def test_answers_that_do_not_fit_a_reward_model_are_refused(sections, where, chain):
    with pytest.raises(Refusal, match="with a reward model that reads at most 64,") as refused:
        check_reward(chain(**sections))
    assert refused.value.where == where
    section, field = where.split(".")
    check_reward(chain(**sections | {section: sections[section] | {field: 63}}))
