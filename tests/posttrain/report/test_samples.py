"""Which samples are shown."""

from __future__ import annotations

import polars as pl

from posttrain.report.samples import LONGEST, course, groups, policies


def _frame(gaps: list[float | None]) -> pl.DataFrame:
    n = len(gaps)
    return pl.DataFrame(
        {
            "prompt": [f"p{i}" for i in range(n)],
            "response_sft": ["s"] * n,
            "reward_sft": [1.0] * n,
            "response_dpo": ["d"] * n,
            "reward_dpo": [None if gap is None else 1.0 + gap for gap in gaps],
        }
    )


def test_best_and_worst_by_difference() -> None:
    """Differences 0, 3, -2, 5, none, 1, -4, 2: best p3, p1, p7 (5, 3, 2), worst first p6, p2, p0 (-4, -2, 0)."""
    random, best, worst = groups(_frame([0, 3, -2, 5, None, 1, -4, 2]), ["sft", "dpo"], seed=0)
    assert [s.prompt for s in best.samples] == ["p3", "p1", "p7"]
    assert [s.prompt for s in worst.samples] == ["p6", "p2", "p0"]
    assert len(random.samples) == 6


def test_random_ones_follow_the_seed() -> None:
    frame = _frame([0.0] * 100)
    picks = [tuple(s.prompt for s in groups(frame, ["sft", "dpo"], seed)[0].samples) for seed in (1, 1, 2)]
    assert picks[0] == picks[1] != picks[2]


def test_no_prompt_is_best_and_worst() -> None:
    """Three prompts leave one for each end."""
    shown = groups(_frame([1, 2, 3]), ["sft", "dpo"], 0)
    prompts = {group.title: [sample.prompt for sample in group.samples] for group in shown[1:]}
    assert prompts == {"Best against sft": ["p2"], "Worst against sft": ["p0"]}


def test_a_single_policy_has_random_samples_only() -> None:
    assert [g.title for g in groups(_frame([1, 2]), ["dpo"], 0)] == ["Random"]


def test_long_text_is_cut_and_says_so() -> None:
    frame = _frame([1.0]).with_columns(response_dpo=pl.lit("x" * (LONGEST + 1234)))
    assert groups(frame, ["sft", "dpo"], 0)[0].samples[0].answers[1].text.endswith("x … (1,234 more characters)")


def test_without_rewards_responses_are_shown_and_none_is_the_best() -> None:
    frame = _frame([1.0]).drop("reward_sft")
    assert policies(frame, ["base", "sft", "dpo"]) == ["sft", "dpo"]
    (random,) = groups(frame, ["sft", "dpo"], 0)
    assert [(answer.text, answer.reward) for answer in random.samples[0].answers] == [("s", None), ("d", 2.0)]
    assert policies(_frame([1.0]), []) == ["sft", "dpo"]
    assert policies(None, ["sft"]) == []


def test_the_course_says_what_each_reward_read():
    row = {"iteration": 0, "rank": "best", "prompt": "?", "response": "so 7", "reward": 1.0}
    read = {"reward_number": "7", "monitor_length": None, "monitor_exact": "so 7"}
    shown = course([row | {"extracted": read}, row])
    assert [each["read"] for each in shown] == ["reward_number: 7; monitor_exact: so 7", ""]
