"""Rewards as the recipe shapes them, by hand, and which prompts take the place of those that teach nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posttrain.data.packing import Example
from posttrain.rewards.sources import Answered, Rewarded, Said
from posttrain.training.ppo.batch import Batch, drawn_to_vary
from posttrain.training.ppo.rollout import shaped

NAN = float("nan")


def batch(first: int, *rewards: tuple[float, float]) -> Batch:
    """Prompts numbered from `first` with two responses each; what was read from a response is its number."""
    prompts = range(first, first + len(rewards))
    examples = [Example(np.array([p], np.int32), (np.array([p, 0], np.int32), np.array([p, 1], np.int32))) for p in prompts]
    scores = torch.tensor([reward for pair in rewards for reward in pair])
    rows = [{"n": 2 * p + k} for p in prompts for k in range(2)]
    responses = [branch for e in examples for branch in e.branches]
    asked, texts = [[{"role": "user", "content": "?"}]] * len(rows), [str(row["n"]) for row in rows]
    answered = Answered(asked, [e.prompt for e in examples for _ in range(2)], responses, texts, rows)
    said = {"reward_f": Said(scores, [str(row["n"]) for row in rows], failed=1)}
    return Batch(list(prompts), examples, answered, Rewarded(scores, said), scores, torch.ones(len(scores), dtype=torch.bool))


def drawn(ppo_section, rounds: list[Batch], **changes) -> tuple[Batch, dict[str, float], list[tuple[int, int]]]:
    asked: list[tuple[int, int]] = []

    def draw(attempt: int, count: int) -> Batch:
        asked.append((attempt, count))
        return rounds[attempt]

    spec = ppo_section(advantage="grpo", samples=2, rollouts=6, minibatches=1, **changes)
    kept, numbers = drawn_to_vary(spec, draw)
    return kept, numbers, asked


def test_what_comes_is_taken_where_nothing_is_asked(ppo_section):
    kept, numbers, asked = drawn(ppo_section, [batch(0, (1, 1), (0, 1), (2, 2))])
    assert (kept.drawn, asked) == ([0, 1, 2], [(0, 3)])
    assert numbers == {"groups_without_variance": pytest.approx(2 / 3)}


def test_as_many_are_drawn_as_are_missing_and_the_parts_of_a_prompt_stay_together(ppo_section):
    """Of three prompts one varies; two others are drawn, of which one does; the next attempt brings the third."""
    rounds = [batch(0, (1, 1), (0, 1), (2, 2)), batch(10, (3, 3), (5, 4)), batch(20, (7, 8))]
    kept, numbers, asked = drawn(ppo_section, rounds, dynamic_sampling=5)
    assert asked == [(0, 3), (1, 2), (2, 1)]
    assert kept.drawn == [1, 11, 20]
    assert kept.scores.tolist() == [0, 1, 5, 4, 7, 8]
    assert [int(example.prompt[0]) for example in kept.examples] == [1, 11, 20]
    assert kept.answered.texts == ["2", "3", "22", "23", "40", "41"] == kept.rewarded.said["reward_f"].extracted
    assert [row["n"] for row in kept.answered.rows] == [2, 3, 22, 23, 40, 41]
    assert kept.rewarded.total.tolist() == kept.scores.tolist() == kept.rewarded.said["reward_f"].rewards.tolist()
    assert numbers == {"groups_without_variance": 0.5, "prompts_drawn": 6}
    assert kept.rewarded.said["reward_f"].failed == 3


def test_when_attempts_run_out_the_last_prompts_with_rewards_fill_the_batch(ppo_section):
    rounds = [batch(0, (1, 1), (0, 1), (2, 2)), batch(10, (3, 3), (NAN, NAN))]
    kept, numbers, asked = drawn(ppo_section, rounds, dynamic_sampling=1)
    assert asked == [(0, 3), (1, 2)]
    assert kept.drawn == [1, 10, 2]
    assert numbers["groups_without_variance"] == pytest.approx(4 / 5)


def test_an_end_is_rewarded_and_a_cut_is_fined(ppo_section):
    spec = ppo_section(eos_reward=0.5, missing_eos_penalty=2.0)
    found = shaped(torch.tensor([1.0, 1.0]), [np.zeros(3)] * 2, torch.tensor([True, False]), spec)
    assert found.tolist() == [1.5, -1.0]


def test_the_last_tokens_before_the_cut_cost_as_in_dapo(ppo_section):
    """At most 6 tokens, a buffer of 4, a penalty of 2: nothing up to 2 tokens, then ½ a token; then clipped to ± 1.2."""
    spec = ppo_section(overlong_buffer=4, overlong_penalty=2.0, reward_clip=1.2)
    responses = [np.zeros(n) for n in (1, 2, 3, 5, 6)]
    found = shaped(torch.zeros(5), responses, torch.ones(5, dtype=torch.bool), spec)
    assert found.tolist() == pytest.approx([0, 0, -0.5, -1.2, -1.2])


def test_a_response_without_a_reward_has_none_whatever_its_end(ppo_section):
    spec = ppo_section(eos_reward=0.5, overlong_buffer=4)
    assert math.isnan(float(shaped(torch.tensor([NAN]), [np.zeros(6)], torch.tensor([True]), spec)))
