"""Reward models on the policy's own answers: agreement by hand, unit standard deviation, a critic that is scaled alike."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from posttrain.checkpoints.load import load_model
from posttrain.models.policy import Policy
from posttrain.peft.wrap import wrap
from posttrain.rewards.sources import RewardSources, Said
from posttrain.training.ppo.actor_critic import ActorCritic, start_policy
from posttrain.training.ppo.critic import RewardStart, new_critic
from posttrain.training.ppo.on_policy import ANSWERS, FILE, agreement, measure, scale_critic
from schemas.errors import Refusal

CPU = torch.device("cpu")


def test_agreement_by_hand():
    """Two prompts of three answers. Pairs that the truth orders: 3 of the first, of which the reward orders one alike; 2 of the
    second (two are equal), of which it orders one alike and ties one: 2.5 of 5. Best by reward: 1 and 5; possible: 3 and 5."""
    rewards, truth = torch.tensor([3.0, 1.0, 2.0, 4.0, 4.0, 0.0]), torch.tensor([1.0, 2.0, 3.0, 5.0, 2.0, 2.0])
    found = agreement(rewards, truth, 3)
    assert found["ordered"]["value"] == pytest.approx(2.5 / 5)
    assert found["best"]["value"] == (1 + 5) / 2
    assert found["possible"]["value"] == (3 + 5) / 2
    assert found["mean"]["value"] == pytest.approx((2 + 3) / 2)
    assert found["correlation"] == pytest.approx(np.corrcoef(rewards, truth)[0, 1])
    assert all(found[name]["interval"][0] <= found[name]["value"] <= found[name]["interval"][1] for name in ("best", "ordered"))


def test_a_prompt_with_an_answer_that_a_source_does_not_apply_to_is_left_out():
    nan = float("nan")
    found = agreement(torch.tensor([1.0, 2.0, 1.0, nan]), torch.tensor([1.0, 2.0, 9.0, 9.0]), 2)
    assert found["mean"]["value"] == 1.5
    assert found["correlation"] == pytest.approx(1.0)
    assert agreement(torch.tensor([nan, 1.0]), torch.tensor([1.0, 2.0]), 2)["ordered"] is None


@pytest.fixture
def collector(ppo_job, share_of_good, ppo_section):
    """A collector whose reward model is the truth, 7 times as large, with a truth that watches."""

    def build(factor: float = 7.0, standardise: bool = True):
        job, objective, _ = ppo_job()
        spec = ppo_section(
            reward={"source": "registry", "uri": "models:/m@champion", "standardise": standardise},
            monitor={"source": "function", "name": "m:truth"},
        )

        def model(answered):
            return Said(factor * share_of_good(answered) + 1)

        sources = {"reward_m_champion": (model, 1.0), "monitor_truth": (lambda answered: Said(share_of_good(answered)), None)}
        return job, replace(objective.collect, spec=spec, rewards=RewardSources(sources))

    return build


def test_rewards_have_unit_standard_deviation_on_the_policys_own_answers(collector, tmp_path):
    job, collect = collector()
    seen = measure(collect, collect.prompts, tmp_path)
    unit = replace(collect, rewards=collect.rewards.scaled(seen.divisors))
    again = unit.answered(collect.prompts, range(12), collect.seed + 2, ANSWERS, "the same answers")
    assert float(again.rewarded.total.std(unbiased=False)) == pytest.approx(1.0)
    written = json.loads((tmp_path / FILE).read_text())
    assert written["agreement"][0]["correlation"] == pytest.approx(1.0)
    assert written["agreement"][0]["ordered"]["value"] == 1.0
    assert written["rewards"][0]["std"] == pytest.approx(seen.divisors["reward_m_champion"])
    assert seen.numbers()["on_policy_correlation_reward_m_champion_monitor_truth"] == pytest.approx(1.0)
    assert not job.scorer.training


def test_a_reward_model_that_shall_not_be_standardised_is_measured_and_left_alone(collector, tmp_path):
    _, collect = collector(standardise=False)
    assert measure(collect, collect.prompts, tmp_path).divisors == {}
    assert (tmp_path / FILE).exists()


def test_a_reward_model_that_says_the_same_of_all_is_refused(collector, tmp_path):
    _, collect = collector(factor=0.0)
    with pytest.raises(Refusal, match="the same reward"):
        measure(collect, collect.prompts, tmp_path)


def test_without_a_reward_model_nothing_is_answered(ppo_job, tmp_path):
    _, objective, _ = ppo_job()
    assert measure(replace(objective.collect, sampler=None), objective.collect.prompts, tmp_path) is None


def test_a_critic_from_the_reward_model_is_scaled_like_it(checkpoint, trained_reward, random_examples, ppo_section, lora):
    folder = trained_reward("lora", {"method": "lora", "r": 4})
    base, spec = load_model(Policy(str(checkpoint)), CPU), ppo_section(value_model="adapter")
    critic = new_critic(base, spec, 0, RewardStart(folder, 1.0))
    policy = wrap(base, lora(), 0, "alignment.peft")
    start_policy(policy, spec, critic)
    examples = random_examples([(5, 4, 7)])
    before = ActorCritic(policy, CPU).eval()(examples).values.detach()
    scale_critic(policy, 4.0)
    torch.testing.assert_close(ActorCritic(policy, CPU).eval()(examples).values.detach(), before / 4)
