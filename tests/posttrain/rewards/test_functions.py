"""Functions of the user: with rows or without, not applying, and failing for some responses."""

from __future__ import annotations

import sys
import time
import types

import pytest

from posttrain.rewards import functions
from posttrain.rewards.functions import RewardFunction, Verdict, load_function
from schemas.errors import Refusal

PROMPTS, RESPONSES = ["a", "b", "c", "d"], ["1", "22", "333", "4444"]
ROWS = [{"answer": text} for text in ("1", "2", "333", "4")]


@pytest.fixture
def load(monkeypatch):
    """A function as a recipe names it."""

    def build(function, **settings) -> RewardFunction:
        module = types.ModuleType("function_of_this_test")
        module.reward = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return load_function("function_of_this_test:reward", "alignment.reward.name", **settings)

    return build


def right(prompts, responses, rows):
    return [float(response == row["answer"]) for response, row in zip(responses, rows, strict=True)]


def longer(prompts, responses, scale=2.0):
    return [scale * len(response) for response in responses]


def test_a_function_of_three_arguments_sees_the_rows(load):
    assert load(right)(PROMPTS, RESPONSES, ROWS) == [1, 0, 1, 0]


def test_an_option_in_third_place_is_no_place_for_rows(load):
    assert load(longer)(PROMPTS, RESPONSES, ROWS) == [2, 4, 6, 8]


@pytest.mark.parametrize(
    "function", [lambda prompts: [], lambda a, b, c, d: [], lambda prompts, responses, *, rows: []], ids=["1", "4", "keyword"]
)
def test_other_arguments_are_refused_before_anything_is_called(load, function):
    with pytest.raises(Refusal, match=r"a function of \(prompts, responses\) or \(prompts, responses, rows\)"):
        load(function)


def test_a_function_may_refuse_this_machine(load):
    def check():
        raise Refusal(where="here", found="no library", allowed="a library", remedy="install it")

    longer_here = types.FunctionType(longer.__code__, globals(), argdefs=(2.0,))
    longer_here.check = check
    with pytest.raises(Refusal, match="no library"):
        load(longer_here)


def test_none_does_not_apply_and_a_verdict_says_what_it_read(load):
    function = load(lambda prompts, responses: [None, 1, Verdict(0.5, "two"), Verdict(None, "three")])
    assert function(PROMPTS, RESPONSES) == [None, 1.0, 0.5, None]
    assert [each.extracted for each in function.verdicts(PROMPTS, RESPONSES)] == [None, None, "two", "three"]


def fails_on_three(prompts, responses):
    if "333" in responses:
        raise ValueError("three")
    return [1.0] * len(responses)


def test_single_failures_are_left_out_and_counted_as_far_as_the_recipe_allows(load):
    verdicts = load(fails_on_three, max_failed=0.25).verdicts(PROMPTS, RESPONSES)
    assert [each.reward for each in verdicts] == [1, 1, None, 1]
    assert [each.failed for each in verdicts] == [False, False, True, False]


def test_more_failures_are_refused_with_the_first_prompt(load):
    with pytest.raises(Refusal, match=r"ValueError: three for prompt 2: 'c'; 1 responses failed, 20% may"):
        load(fails_on_three, max_failed=0.2)(PROMPTS, RESPONSES)
    with pytest.raises(Refusal, match=r"ValueError: three for prompt 2: 'c'\n"):
        load(fails_on_three)(PROMPTS, RESPONSES)


def test_a_response_that_hangs_costs_no_more_than_its_share_of_the_time(load):
    def reward(prompts, responses):
        time.sleep(20 * responses.count("22"))
        return [1.0] * len(responses)

    started = time.monotonic()
    assert load(reward, timeout=0.8, max_failed=0.25)(PROMPTS, RESPONSES) == [1, None, 1, 1]
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), 1e39])
def test_a_number_that_is_none_is_a_failure_of_its_response(load, bad):
    def reward(prompts, responses):
        return [0.0, bad, None, 0.0]

    with pytest.raises(Refusal, match=r"for prompt 1: 'b'\n  allowed: finite numbers"):
        load(reward)(PROMPTS, RESPONSES)
    verdicts = load(reward, max_failed=0.25).verdicts(PROMPTS, RESPONSES)
    assert [each.reward for each in verdicts] == [0.0, None, None, 0.0]
    assert [each.failed for each in verdicts] == [False, True, False, False]


def test_failures_are_told_with_the_first_of_them(load, told):
    load(fails_on_three, max_failed=0.25)(PROMPTS, RESPONSES)
    assert told == [
        "alignment.reward.name (function_of_this_test:reward): failed for 1 of 4 responses: ValueError: three for prompt 2: 'c'"
    ]


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What is noted."""
    notes: list[str] = []
    monkeypatch.setattr(functions, "current", lambda: types.SimpleNamespace(note=notes.append))
    return notes
