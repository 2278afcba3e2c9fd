"""The sum of rewards that PPO maximises."""

from __future__ import annotations

import pytest
import torch

from posttrain.rewards.sources import Answered, RewardSources
from schemas.errors import Refusal

ANSWERED = Answered([], [], [], ["a", "b"])


def of(**sources) -> RewardSources:
    return RewardSources(
        {name: (lambda answered, said=said: torch.tensor(said), weight) for name, (said, weight) in sources.items()}
    )


def test_sources_are_weighed_and_those_that_watch_are_left_out():
    total, said = of(a=([1.0, 2.0], 2.0), b=([10.0, 20.0], -0.5), watches=([7.0, 7.0], None))(ANSWERED)
    assert total.tolist() == [-3.0, -6.0]
    assert said["watches"].tolist() == [7.0, 7.0]


def test_a_sum_beyond_fp32_is_refused_with_its_prompt_and_not_infinite():
    with pytest.raises(Refusal, match="for prompt 1: a 3") as refused:
        of(a=([1.0, 3e38], 2.0))(ANSWERED)
    assert refused.value.where == "alignment.reward"
