"""Shapes of conversations, and what a row that fits none of them becomes."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from posttrain.data.conversations import hint
from posttrain.data.kinds import KINDS
from posttrain.data.messages import transcript
from posttrain.data.readers import BadRow
from schemas.errors import Refusal

normalise = KINDS["instructions"].normalise


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}


def one(row: dict[str, Any]) -> tuple[dict[str, Any] | None, list[BadRow]]:
    bad: list[BadRow] = []
    return next(normalise([(7, row)], "f.jsonl", bad.append), None), bad


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"messages": [user("q"), assistant("a")]}, [user("q")], [assistant("a")]),
        (
            {"messages": [SYSTEM, user("q"), assistant("a"), user("r"), assistant("b")]},
            [SYSTEM, user("q"), assistant("a"), user("r")],
            [assistant("b")],
        ),
        ({"messages": [{"role": "system", "content": " "}, user("q"), assistant("a")]}, [user("q")], [assistant("a")]),
        ({"prompt": "q", "completion": "a"}, [user("q")], [assistant("a")]),
        ({"prompt": [SYSTEM, user("q")], "completion": [assistant("a")]}, [SYSTEM, user("q")], [assistant("a")]),
        ({"prompt": "q", "response": "a"}, [user("q")], [assistant("a")]),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "response": " a"}, [user("q")], [assistant(" a")]),
        ({"instruction": "Add.", "input": "1+1", "output": "2"}, [user("Add.\n\n1+1")], [assistant("2")]),
        ({"instruction": "Hi.", "input": "", "output": "Ho."}, [user("Hi.")], [assistant("Ho.")]),
        ({"instruction": "Hi.", "output": "Ho."}, [user("Hi.")], [assistant("Ho.")]),
        ({"text": "### Human: q\n### Assistant: a"}, [user("q")], [assistant("a")]),
        ({"messages": [user("q")]}, [], [user("q")]),
        ({"prompt": "q", "completion": None}, [user("q")], []),
        ({"messages": None}, [], []),
    ],
)
def test_shapes(row: dict[str, Any], prompt: object, completion: object) -> None:
    expected = {"prompt": prompt, "completion": completion, "source": "f.jsonl", "row": 7, "split": None, "extra": None}
    assert one(row) == (expected, [])


@pytest.mark.parametrize(
    ("marks", "kept"),
    [
        ((1, 1), 4),
        ((0, 1), 4),  # what is not trained on may stand before
        ((1, 0), 2),
    ],
)
def test_turns_of_weight_0_behind_the_last_answer_that_is_trained_on_are_left_out(marks: tuple[int, int], kept: int) -> None:
    record, _ = one(
        {"messages": [user("q"), assistant("a") | {"weight": marks[0]}, user("r"), assistant("b") | {"weight": marks[1]}]}
    )
    assert record
    assert [each["content"] for each in [*record["prompt"], *record["completion"]]] == ["q", "a", "r", "b"][:kept]
    assert len(record["completion"]) == 1


def test_a_conversation_that_goes_on_with_the_user_stays_whole() -> None:
    """The check of roles says what is wrong with it."""
    record, _ = one({"messages": [user("q"), assistant("a"), user("r")]})
    assert record
    assert (record["prompt"], record["completion"]) == ([user("q"), assistant("a")], [user("r")])


def test_an_only_answer_is_one_and_where_all_have_weight_0_nothing_is_trained_on() -> None:
    record, _ = one({"messages": [assistant("a"), user("r"), assistant("b") | {"weight": 0}]})
    assert record
    assert (record["prompt"], record["completion"]) == ([], [assistant("a")])
    for talk in ([assistant("a")], [user("q"), assistant("a"), user("r"), assistant("b")]):
        weightless = [each | {"weight": 0} if each["role"] == "assistant" else each for each in talk]
        record, bad = one({"messages": weightless})
        assert (record, [each.reason for each in bad]) == (None, ["nothing_to_train: every answer has weight 0"])


def test_other_columns_are_kept_with_their_types() -> None:
    """Rewards and judges see them; what the conversation was made of is not there a second time."""
    row = {"instruction": "Add.", "input": "1", "output": "2", "split": "test", "answer": 2, "tags": ["x"], "big": 2**70}
    record, _ = one(row)
    assert record
    assert json.loads(record["extra"]) == {"answer": 2, "tags": ["x"], "big": 2**70}


def test_a_column_that_json_cannot_say_becomes_text() -> None:
    record, _ = one({"prompt": "q", "completion": "a", "day": datetime.date(2024, 2, 29)})
    assert record
    assert json.loads(record["extra"]) == {"day": "2024-02-29"}


def test_a_declared_split_is_kept() -> None:
    record, _ = one({"prompt": "q", "completion": "a", "split": "test"})
    assert record is not None
    assert record["split"] == "test"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": 3, "completion": "a"}, "wrong_type: `prompt` is a number, not text or a list of messages"),
        ({"prompt": "q", "completion": {"a": 1}}, "wrong_type: `completion` is an object, not text or a list of messages"),
        ({"messages": ["q"]}, "wrong_type: `messages[0]` is text, not a message with `role` and `content`"),
        ({"messages": [{"content": "q"}]}, "wrong_type: `messages[0].role` is null, not text"),
        (
            {"messages": [user("q"), {"role": "assistant", "content": [5]}]},
            "wrong_type: `messages[1].content[0]` is a number, not a part with text",
        ),
        ({"instruction": True, "output": "a"}, "wrong_type: `instruction` is true or false, not text"),
        (
            {"text": None},
            "wrong_type: `text` has no turn that opens with `### Human:` or `### Assistant:`; documents go to data.corpus",
        ),
    ],
)
def test_a_wrong_type_costs_its_row(row: dict[str, Any], reason: str) -> None:
    record, bad = one(row)
    assert record is None
    assert [(b.file, b.row, b.reason) for b in bad] == [("f.jsonl", 7, reason)]


def test_a_row_without_the_columns_among_others_is_quarantined() -> None:
    bad: list[BadRow] = []
    rows: list[tuple[int, dict[str, Any]]] = [(1, {"words": "x"}), (2, {"prompt": "q", "completion": "a"})]
    assert [record["row"] for record in normalise(rows, "f", bad.append)] == [2]
    assert [(b.row, b.reason, b.value) for b in bad] == [(1, "missing_columns: found words", '{"words":"x"}')]


def test_a_file_without_the_columns_is_refused_with_a_rename() -> None:
    with pytest.raises(Refusal) as refusal:
        list(normalise([(1, {"prompt": "q", "completions": "a"})], "f", lambda _: None))
    assert (refusal.value.where, refusal.value.found) == ("f", "columns prompt, completions")
    assert refusal.value.remedy == "rename `completions` to `completion` (or set columns: {completion: completions})"
    assert "messages; or conversations|conversation; or prompt + completion|response|answer|output; or" in refusal.value.allowed


def test_no_rows_are_no_refusal_here() -> None:
    assert list(normalise([], "f", lambda _: None)) == []


def test_a_transcript_splits_at_turns_alone() -> None:
    """`Human:` within a line is content; a turn needs two newlines before it."""
    text = "\n\nHuman: say Human: hi\nAssistant: no\n\nAssistant: ok \n\nHuman:"
    assert transcript(text) == [user("say Human: hi\nAssistant: no"), assistant("ok"), user("")]


@pytest.mark.parametrize("columns", [["prompt", "chosen", "rejected"], ["prompt", "response_a", "response_b", "winner"]])
def test_columns_of_several_answers_belong_elsewhere(columns: list[str]) -> None:
    found = hint(dict.fromkeys(columns, "text"))
    assert found
    assert found.said == "these rows have several answers to a prompt: name the file in data.preferences"
    assert hint(dict.fromkeys(columns[:1], "text")) is None
