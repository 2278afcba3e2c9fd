"""Reward functions in processes of their own: what hangs, dies or answers nonsense is counted, and costs its response alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from posttrain.rewards.functions import RewardFunction, load_function
from schemas.errors import Refusal

MODULE = """
import os, signal, sys, time
from posttrain.rewards.functions import Verdict

def reward(prompts, responses, rows):
    print("a print is no answer")
    found = []
    for response, row in zip(responses, rows, strict=True):
        if response == "hang": time.sleep(600)
        if response == "hang on": signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)
        if response == "die": os.kill(os.getpid(), 9)
        if response == "exit": sys.exit(0)
        if response == "leave": os._exit(3)
        if response == "raise": raise ValueError("three")
        if response == "flood": os.write(3, b"x" * 10_000_000)
        if response == "memory": bytearray(1 << 34)
        if response == "text": found.append("ten"); continue
        found.append({"none": None, "nan": float("nan"), "huge": 1e300}.get(response, Verdict(row["worth"], response[:3000])))
    return found

def pid(prompts, responses):
    return [float(os.getpid())] * len(responses)
"""
BAD = ["hang", "hang on", "die", "exit", "leave", "raise", "flood", "memory", "text", "nan", "huge"]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The functions of `MODULE` in the working directory, as a recipe names them."""
    (tmp_path / "rewards_of_this_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    loaded: list[RewardFunction] = []

    def build(name: str = "reward", **settings) -> RewardFunction:
        loaded.append(load_function(f"rewards_of_this_test:{name}", "alignment.reward.name", **settings))
        return loaded[-1]

    yield build
    for function in loaded:
        if function.pool:
            function.pool.close()


def test_a_response_that_kills_its_process_costs_itself_alone(load):
    function = load(workers=1, timeout=60.0, max_failed=0.34)
    verdicts = function.verdicts(["?"] * 3, ["fine", "die", "fine"], [{"worth": 2.0}] * 3)
    assert [each.reward for each in verdicts] == [2.0, None, 2.0]
    assert verdicts[1].failed


@pytest.mark.slow
def test_every_kind_of_failure_costs_its_own_response_alone(load):
    responses = [text for bad in BAD for text in ("fine", bad, "none")]
    rows = [{"worth": float(index)} for index in range(len(responses))]
    function = load(workers=2, timeout=9.0, max_failed=0.5, memory=8 << 30)
    started = time.monotonic()
    verdicts = function.verdicts(["?"] * len(responses), responses, rows)
    assert time.monotonic() - started < 60
    assert [each.failed for each in verdicts] == [text in BAD for text in responses]
    assert [each.reward for each in verdicts] == [
        float(index) if text == "fine" else None for index, text in enumerate(responses)
    ]


@pytest.mark.slow
def test_it_is_refused_with_what_happened_where_none_may_fail(load):
    for bad, told in {"die": "its process was killed by signal 9", "leave": "status 3", "hang": "no answer within"}.items():
        with pytest.raises(Refusal, match=rf"{told}.* for prompt 1: 'b'"):
            load(workers=1, timeout=4.0)(["a", "b"], ["fine", bad], [{"worth": 1.0}] * 2)


def test_responses_are_shared_by_the_processes_in_their_order(load):
    function = load("pid", workers=2, timeout=60.0)
    rewards = function(["?"] * 5, ["x"] * 5)
    assert len(set(rewards[:3])) == len(set(rewards[3:])) == 1
    assert len(set(rewards)) == 2
    assert os.getpid() not in rewards
    assert function(["?"] * 5, ["x"] * 5)[0] in rewards  # they stay


def test_what_is_read_is_cut(load):
    ((_, extracted, failed),) = load(workers=1, timeout=60.0).verdicts(["?"], ["y" * 2500], [{"worth": 1.0}])
    assert (len(extracted), failed) == (2000, False)
