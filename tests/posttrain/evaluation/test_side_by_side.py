"""Two evaluated models side by side, by rows whose differences are worked out by hand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from posttrain.evaluation.side_by_side import Side, side_by_side
from schemas.results import Origin, StageResult

PROMPTS = ["one", "two", "three", "four"]


def a_side(folder: Path, name: str, rewards: dict[str, float], beta: float, judge: str = "a:b", metrics=None) -> Side:
    """A model whose evaluation gave each prompt one reward."""
    folder.mkdir()
    columns = {"prompt": list(rewards), "response_sft": ["-"] * len(rewards), "response_aligned": [f"{name}!"] * len(rewards)}
    pl.DataFrame({**columns, "reward_aligned": list(rewards.values())}).write_parquet(folder / "samples.parquet")
    common = {"key": "k", "seconds": 0}
    align = StageResult(
        stage="align", fields={"alignment": {"beta": beta, "loss": "sigmoid"}},
        inputs=(Origin(name="data.preferences", digest=name, location="pairs.jsonl"),), **common,
    )  # fmt: skip
    evaluated = StageResult(stage="evaluate", fields={"evaluation": {"judge": judge}}, metrics=metrics or {}, **common)
    return Side(name, folder, (align, evaluated))


def test_rewards_are_compared_on_the_prompts_that_both_answered(tmp_path):
    a = a_side(tmp_path / "a", "a", dict(zip(PROMPTS, [0.0, 1.0, 2.0, 5.0], strict=True)), 0.1)
    b = a_side(tmp_path / "b", "b", dict(zip([*PROMPTS[:3], "five"], [1.0, 1.0, 4.0, 9.0], strict=True)), 0.1)
    document = side_by_side(a, b)
    assert document["common_prompts"] == 3
    assert document["b_against_a"]["win_rate"]["value"] == pytest.approx((1 + 0.5 + 1) / 3)
    assert document["b_against_a"]["reward"]["value"] == pytest.approx((1 + 0 + 2) / 3)
    low, high = document["b_against_a"]["reward"]["interval"]
    assert low < 1 < high
    assert [(sample["prompt"], sample["gain"]) for sample in document["samples"]] == [("three", 2.0), ("one", 1.0), ("two", 0.0)]


def test_several_answers_to_a_prompt_count_as_their_mean(tmp_path):
    sides = []
    for name, rewards in (("a", [0.0, 1.0]), ("b", [2.0, 3.0])):
        side = a_side(tmp_path / name, name, {"x": 0.0}, 0.1)
        table = pl.DataFrame({"prompt": ["x", "x"], "response_aligned": ["-", "+"], "reward_aligned": rewards})
        table.write_parquet(side.evaluation / "samples.parquet")
        sides.append(side)
    document = side_by_side(*sides)
    assert document["common_prompts"] == 1
    assert document["b_against_a"]["reward"]["value"] == 2.0
    assert [(sample["a"], sample["b"]) for sample in document["samples"]] == [("-", "-")]


def test_rewards_of_different_judges_are_not_compared(tmp_path):
    a = a_side(tmp_path / "a", "a", {"x": 0.0}, 0.1)
    b = a_side(tmp_path / "b", "b", {"x": 1.0}, 0.1, judge="c:d")
    document = side_by_side(a, b)
    assert document["b_against_a"] is None
    assert document["samples"] == []
    assert document["judge"] == {"a": "a:b", "b": "c:d"}


def test_what_decided_otherwise_is_listed_by_field_and_by_input(tmp_path):
    a, b = a_side(tmp_path / "a", "a", {"x": 0.0}, 0.1), a_side(tmp_path / "b", "b", {"x": 0.0}, 0.3)
    assert side_by_side(a, b)["differs"] == [
        {"field": "align.alignment.beta", "a": 0.1, "b": 0.3},
        {"field": "align: data.preferences", "a": "a", "b": "b"},
    ]
    assert side_by_side(a, a)["differs"] == []


def test_numbers_that_one_side_lacks_are_shown_as_lacking(tmp_path):
    a = a_side(tmp_path / "a", "a", {"x": 0.0}, 0.1, metrics={"kl": 0.2, "won": 0.6, "won_low": 0.5, "won_high": 0.7})
    b = a_side(tmp_path / "b", "b", {"x": 0.0}, 0.1, metrics={"kl": 0.3})
    assert side_by_side(a, b)["metrics"] == [
        {"name": "kl", "a": {"value": 0.2, "interval": None}, "b": {"value": 0.3, "interval": None}},
        {"name": "won", "a": {"value": 0.6, "interval": [0.5, 0.7]}, "b": None},
    ]
