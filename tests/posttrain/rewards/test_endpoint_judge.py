"""A language model as a judge: what is won follows from its verdicts in both orders, and what has none is counted."""

from __future__ import annotations

import re

import pytest

from posttrain.rewards.endpoint_judge import ModelJudge
from posttrain.runtime import chat_endpoint
from schemas.errors import Refusal
from schemas.judge import EndpointJudge

ASK = [{"role": "user", "content": "How was it?"}]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(chat_endpoint, "FIRST_PAUSE", 0.001)


def judge(served, cache=None, **more) -> ModelJudge:
    given = {"source": "endpoint", "url": served.url, "model": "m", "allow_http": True, "retries": 0, **more}
    return ModelJudge(EndpointJudge.model_validate(given), "evaluation.judge", cache)


def shown(body) -> list[str]:
    """The responses of a question, in the order in which they are shown."""
    return re.findall(r"\[response[ AB]* \w{12}\]\n(.*?)\n\[end", body["messages"][1]["content"], re.S)


def longer_wins(body, before):
    first, second = shown(body)
    return f"Verdict: {'A' if len(first) > len(second) else 'B' if len(first) < len(second) else 'tie'}"


def test_what_is_won_is_the_mean_over_both_orders(chat_server):
    """Longer, shorter, as long with other words, and equal, which is not asked about: 1, 0, 1/2 and 1/2 of 6 questions."""
    served = chat_server(longer_wins)
    asked, told = judge(served), []
    assert asked.compare([ASK] * 4, ["long one", "short", "abc", "same"], ["one", "longer", "xyz", "same"], told.append) == [
        1.0, 0.0, 0.5, 0.5,
    ]  # fmt: skip
    assert len(served.requests) == 6
    assert asked.consistent == [1.0, 1.0, 1.0]
    assert told[-1] == 4


def test_a_judge_that_likes_the_first_place_gives_ties_and_is_counted(chat_server):
    asked = judge(chat_server(lambda body, before: "Verdict: A"))
    assert asked.compare([ASK] * 3, ["a", "b", "c"], ["x", "y", "z"]) == [0.5] * 3
    assert asked.consistent == [0.0] * 3


def test_a_tie_in_one_order_and_a_win_in_the_other_is_three_quarters(chat_server):
    asked = judge(chat_server(lambda body, before: "Verdict: A" if shown(body)[0] == "ours" else "Verdict: tie"))
    assert asked.compare([ASK], ["ours"], ["theirs"]) == [0.75]
    assert asked.consistent == [0.0]


def test_without_a_verdict_in_one_order_there_is_none_and_the_reasons_are_counted(chat_server):
    """Of eight questions one fails and one is answered with garbage: two pairs are masked."""

    def answer(body, before):
        first = shown(body)[0]
        return (500, "") if first == "1" else "I cannot say." if first == "2" else longer_wins(body, before)

    asked = judge(chat_server(answer), max_failed=0.25)
    assert asked.compare([ASK] * 4, ["1", "2", "3", "4"], ["long"] * 4) == [None, None, 0.0, 0.0]
    assert asked.counts == {"questions": 8, "failed": 1, "unparsable": 1, "out_of_budget": 0}
    assert asked.consistent == [1.0, 1.0]


def test_too_many_without_a_verdict_are_refused_and_those_that_were_read_are_kept(chat_server, tmp_path):
    """The second run, in which the server is well, asks only for what the first one lacks."""
    well = []
    served = chat_server(lambda body, before: longer_wins(body, before) if well or before < 4 else "no idea")
    with pytest.raises(Refusal, match="of 8 questions 0 failed, 4 had no verdict, 0 were beyond max_calls; the first: 'no idea'"):
        judge(served, tmp_path, concurrency=1).compare([ASK] * 4, list("abcd"), ["long"] * 4)
    well.append(True)
    assert judge(served, tmp_path).compare([ASK] * 4, list("abcd"), ["long"] * 4) == [0.0] * 4
    assert len(served.requests) == 12


def test_a_budget_that_ends_leaves_the_last_pairs_without_a_verdict(chat_server):
    asked = judge(chat_server(longer_wins), max_calls=5, concurrency=1)
    assert asked.compare([ASK] * 4, list("abcd"), ["long"] * 4) == [0.0, 0.0, None, None]
    assert asked.counts["out_of_budget"] == 3
    with pytest.raises(Refusal, match="2 were beyond max_calls"):
        asked.compare([ASK], ["e"], ["long"])


def test_pointwise_every_response_has_a_score_of_its_own(chat_server):
    """The number of its letters; what is off the scale has no score."""
    asked = judge(chat_server(lambda body, before: f"Score: {len(shown(body)[0])}"), mode="pointwise", scale=5)
    assert asked([ASK] * 5, ["a", "abc", "abcde", "ab", "abcdef"]) == [1.0, 3.0, 5.0, 2.0, None]
    assert asked.counts["unparsable"] == 1
