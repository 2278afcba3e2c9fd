"""The sum of rewards that PPO maximises."""

from __future__ import annotations

import pytest
import torch

from posttrain.rewards.sources import Answered, RewardSources, Said
from schemas.errors import Refusal

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
