"""Rows with several answers to a prompt: told of where they are read as something else, with a way out where nothing says which
is better."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.data.answers import several_answers, undecided
from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow
from posttrain.data.shapes import Tally
from schemas.errors import Refusal

Row = dict[str, Any]
TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
RANKED: dict[str, Row] = {
    "pairs": {"chosen": "a", "rejected": "b"},
    "scores apart": {"responses": ["a", "b"], "scores": [1, 2]},
    "ranks apart": {"answers": ["a", "b"], "ranks": [1, 2]},
    "scores apart as text": {"responses": '["a", "b"]', "scores": "[1, 2]"},
    "objects with ranks": {"answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}]},
    "a verdict": {"response_a": "a", "response_b": "b", "winner": "model_a"},
    "marks": {"response": "a", "helpfulness": 3},
}
"""Beside a prompt."""


def normalised(kind: str, rows: list[Row]) -> tuple[list[Row], list[BadRow], Tally]:
    bad: list[BadRow] = []
    tally = Tally()
    return list(KINDS[kind].normalise(enumerate(rows, 1), "f", bad.append, tally=tally)), bad, tally


@pytest.mark.parametrize("ranked", RANKED)
@pytest.mark.parametrize("kind", ["instructions", "feedback"])
def test_several_answers_that_are_read_as_one_are_told_of(kind: str, ranked: str) -> None:
    beside = {"label": True} if kind == "feedback" else {}
    rows = [{"prompt": "q", "completion": "a"} | beside | RANKED[ranked]] * 3 + [{"prompt": "q", "completion": "b"} | beside]
    _, _, tally = normalised(kind, rows)
    (said,) = tally.notes
    assert said.startswith("these rows have several answers to a prompt: name the file in data.preferences")
    assert tally.notes[said] == 3


@pytest.mark.parametrize(
    "row",
    [
        {"answers": ["a", "b"]},
        {"completions": [{"text": "a"}]},
        {"scores": [1, 2]},
        {"response_a": "a", "response_b": "b"},
        {"chosen": None, "rejected": "b"},
    ],
)
def test_nothing_is_told_where_nothing_could_be_made_of_the_answers(row: Row) -> None:
    assert not normalised("instructions", [{"prompt": "q", "completion": "a"} | row])[2].notes


def test_pairs_are_not_told_of_what_says_less() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "messages": TALK, "responses": ["a", "b"], "scores": [1, 2]}
    assert not normalised("preferences", [row])[2].notes


@pytest.mark.parametrize("name", ["label", "kto_tag", "desirable"])
@pytest.mark.parametrize("kind", ["instructions", "preferences"])
def test_labels_of_any_name_are_not_left_unread(kind: str, name: str) -> None:
    """Answers that somebody disliked would be learned."""
    row = {"prompt": "q", "completion": "a"} if kind == "instructions" else {"prompt": "q", "chosen": "a", "rejected": "b"}
    with pytest.raises(Refusal, match=f"`{name}` in 1 rows: it says which answers are good"):
        normalised(kind, [row | {name: False}])
    assert len(normalised("feedback", [{"prompt": "q", "completion": "a", name: False}])[0]) == 1


UNDECIDED: dict[str, tuple[Row, str, Row]] = {
    "two responses": ({"prompt": "q", "response_a": "a", "response_b": "b"}, "add `winner`", {"winner": "model_a"}),
    "SafeRLHF": ({"prompt": "q", "response_0": "a", "response_1": "b"}, "add `better_response_id`", {"better_response_id": 1}),
    "AlpacaEval": ({"instruction": "q", "output_1": "a", "output_2": "b"}, "add `preference`", {"preference": 1}),
    "WebGPT": ({"question": "q", "answer_0": "a", "answer_1": "b"}, "add `score_0`, `score_1`", {"score_0": 1, "score_1": 0}),
    "SHP": ({"history": "q", "human_ref_A": "a", "human_ref_B": "b"}, "add `labels`", {"labels": 1}),
    "arena": ({"conversation_a": TALK, "conversation_b": [TALK[0], TALK[1] | {"content": "b"}]}, "add `winner`", {"winner": "a"}),
    "other names": (
        {"question": "q", "answer_1": "a", "answer_2": "b"},
        "call the better one `chosen` and the other `rejected`", {"chosen": "a", "rejected": "b"},
    ),
    "a list": ({"prompt": "q", "responses": ["a", "b"]}, "add `scores`, a number for each", {"scores": [1, 2]}),
    "a list of objects": (
        {"question": "q", "answers": [{"text": "a"}, {"text": "b"}]},
        "give each a `score`", {"answers": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]},
    ),
}  # fmt: skip
"""Columns, what is said, and what makes a row of preferences of them."""


@pytest.mark.parametrize("case", UNDECIDED)
def test_answers_without_a_verdict_have_a_way_out_that_works(case: str) -> None:
    row, said, verdict = UNDECIDED[case]
    with pytest.raises(Refusal) as refusal:
        normalised("instructions", [row])
    remedy = refusal.value.remedy
    assert (said in remedy, "name the file in data.preferences" in remedy, "completion" in remedy) == (True, True, False)
    assert len(normalised("preferences", [row | verdict])[0]) == 1
    alone = row | ({"prompt": "q"} if "write what is asked as `prompt`" in remedy else {})
    alone |= {"response": "a"} if "as `response`" in remedy else {"messages": TALK}
    assert len(normalised("instructions", [alone])[0]) == 1
    with pytest.raises(Refusal) as refusal:
        normalised("feedback", [row])
    if "with its `label`" in refusal.value.remedy:
        assert len(normalised("feedback", [alone | {"label": True}])[0]) == 1


@pytest.mark.parametrize("answers", [{"text": ["a"], "answer_start": [1]}, ["a"], [{"text": "a", "answer_start": 1}], '["a"]'])
def test_answers_of_a_quiz_are_not_sent_in_a_circle(answers: object) -> None:
    """They are no ranking, and `text` inside of them is no conversation."""
    row = {"context": "c", "question": "q", "answers": answers}
    with pytest.raises(Refusal) as refusal:
        normalised("instructions", [row])
    assert "write the answer to learn from as text, as `response`" in refusal.value.remedy
    assert "answers.text" not in refusal.value.remedy
    assert len(normalised("instructions", [row | {"response": "a"}])[0]) == 1
    assert several_answers(row) == ()


def test_rows_with_one_answer_or_none_are_not_undecided() -> None:
    for row in ({"prompt": "q", "response": "a"}, {"response_a": "a"}, {"answers": ["a"]}, {"prompt": "q", "responses": []}):
        assert undecided(row) is None
