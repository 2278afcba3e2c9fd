"""The sum of rewards that PPO maximises."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from posttrain.rewards.sources import Answered, RewardSources, Said, load_rewards
from schemas.errors import Refusal
from schemas.ppo import PPO

ANSWERED = Answered([], [], [], ["a", "b"])


def of(**sources) -> RewardSources:
    return RewardSources(
        {name: (lambda answered, said=said: Said(torch.tensor(said)), weight) for name, (said, weight) in sources.items()}
    )


def test_sources_are_weighed_and_those_that_watch_are_left_out():
    rewarded = of(a=([1.0, 2.0], 2.0), b=([10.0, 20.0], -0.5), watches=([7.0, 7.0], None))(ANSWERED)
    assert rewarded.total.tolist() == [-3.0, -6.0]
    assert rewarded.said["watches"].rewards.tolist() == [7.0, 7.0]


def test_a_sum_beyond_fp32_is_refused_with_its_prompt_and_not_infinite():
    with pytest.raises(Refusal, match="for prompt 1: a 3") as refused:
        of(a=([1.0, 3e38], 2.0))(ANSWERED)
    assert refused.value.where == "alignment.reward"


NAN = float("nan")


def test_sources_that_do_not_apply_are_left_out_of_sum_and_mean():
    """The first answer has both, the second one alone, and what watches only the second."""
    rewarded = of(a=([1.0, NAN], 1.0), b=([10.0, 20.0], 1.0), watches=([NAN, 7.0], None))(ANSWERED)
    assert rewarded.total.tolist() == [11.0, 20.0]
    assert rewarded.numbers() == {"a": 1.0, "b": 15.0, "watches": 7.0, "not_applicable_share": 0.0}


def test_an_answer_that_no_source_applies_to_has_no_reward():
    rewarded = of(a=([1.0, NAN], 1.0), watches=([3.0, 7.0], None))(ANSWERED)
    assert rewarded.total[0] == 1
    assert rewarded.total[1].isnan()
    assert rewarded.numbers()["not_applicable_share"] == 0.5


def test_a_source_that_applies_to_no_answer_is_refused():
    with pytest.raises(Refusal, match="no number for any of 2 responses"):
        of(a=([NAN, NAN], 1.0), watches=([3.0, 7.0], None))(ANSWERED)


def test_scaled_sources_are_divided_in_the_sum_and_in_the_curve():
    """a is divided by 4 and weighs 2, b stays."""
    rewarded = of(a=([4.0, 8.0], 2.0), b=([1.0, 1.0], 1.0), watches=([6.0, 6.0], None)).scaled({"a": 4.0, "watches": 3.0})(
        ANSWERED
    )
    assert rewarded.total.tolist() == [3.0, 5.0]
    assert rewarded.numbers() == {"a": 1.5, "b": 1.0, "watches": 2.0}


def test_an_ensemble_loses_by_its_disagreement():
    """Weights 1 and 3: of 0 and 4 the mean is 3, the variance (9 + 3)/4 = 3; both agree on the second. k = ½, on 4 units."""
    sources = of(a=([0.0, 2.0], 1.0), b=([4.0, 2.0], 3.0), function=([10.0, 10.0], 1.0))
    rewarded = replace(sources, ensemble=("a", "b"), penalty=0.5)(ANSWERED)
    assert rewarded.total.tolist() == pytest.approx([12 + 10 - 0.5 * 4 * 3**0.5, 8 + 10])
    assert rewarded.numbers()["ensemble_std"] == pytest.approx(3**0.5 / 2)


def test_a_language_model_behind_an_endpoint_scores_each_response(chat_server, tmp_path):
    """The number of letters of what it is shown; what it says of the third is no score, and is left out and counted."""

    def answer(body, before):
        (shown,) = re.findall(r"\[response \w{12}\]\n(.*?)\n\[end", body["messages"][1]["content"], re.S)
        return f"Score: {len(shown)}" if shown != "???" else "I cannot say."

    served = chat_server(answer)
    source = {"source": "endpoint", "url": served.url, "model": "org/some-judge", "allow_http": True, "retries": 0, "weight": 2.0}
    section = {"algorithm": "ppo", "reward": source | {"max_failed": 0.5}, "advantage": "rloo", "samples": 2}
    conversation = [{"role": "user", "content": "How was it?"}]
    answered = Answered([conversation] * 4, [], [], ["a", "abc", "???", "ab"])
    rewards = load_rewards(PPO.model_validate(section), {}, tmp_path)
    total = rewards(answered).total
    assert total[[0, 1, 3]].tolist() == [2.0, 6.0, 4.0]
    assert total[2].isnan()
    assert rewards(answered).numbers() == {"reward_some_judge": 2.0, "not_applicable_share": 0.25, "reward_failures": 1.0}
    assert len(served.requests) == 4 + 1  # what was read is known, what was not is asked again
    strict = load_rewards(PPO.model_validate(section | {"reward": source | {"max_failed": 0.0}}), {}, tmp_path)
    with pytest.raises(Refusal, match="1 had no verdict") as refused:
        strict(answered)
    assert refused.value.where == "alignment.reward"


@pytest.mark.parametrize("sources", [1, 2])
def test_an_ensemble_of_one_or_with_a_weight_against_is_refused(sources):
    models = [{"source": "registry", "uri": f"models:/m{i}@champion", "weight": 1.0 - 2 * i} for i in range(sources)]
    with pytest.raises(ValidationError, match="ensemble_penalty"):
        PPO.model_validate({"algorithm": "ppo", "reward": models, "ensemble_penalty": 1.0})
