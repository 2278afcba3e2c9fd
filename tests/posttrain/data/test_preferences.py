"""Shapes of preference pairs. The expected normal forms are written by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from posttrain.data.kinds import KINDS
from posttrain.data.readers import BadRow
from posttrain.data.shapes import Tally
from schemas.errors import Refusal

normalise = KINDS["preferences"].normalise


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
Q, R, A, B, C = user("q"), user("r"), assistant("a"), assistant("b"), assistant("c")


def one(row: dict[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    bad: list[BadRow] = []
    record = next(normalise([(3, row)], "f.jsonl", bad.append), None)
    return record, [b.reason for b in bad]


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        # TRL: explicit prompt, standard and conversational
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [Q], [A], [B]),
        ({"prompt": [SYSTEM, Q], "chosen": [A], "rejected": [B]}, [SYSTEM, Q], [A], [B]),
        # TRL: implicit prompt
        ({"chosen": [Q, A], "rejected": [Q, B]}, [Q], [A], [B]),
        ({"chosen": [Q, A, R, B], "rejected": [Q, A, R, C]}, [Q, A, R], [B], [C]),
        # ultrafeedback_binarized: the prompt as text, and again in both sides
        ({"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]}, [Q], [A], [B]),
        ({"prompt": [Q], "chosen": [Q, A], "rejected": [Q, B]}, [Q], [A], [B]),
        # only one side repeats it: left as it is, so that the contract sees two messages
        ({"prompt": [Q], "chosen": [Q, A], "rejected": [B]}, [Q], [Q, A], [B]),
        # HH transcripts
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
            [Q],
            [A],
            [B],
        ),
        ({"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "a", "rejected": "b"}, [Q], [A], [B]),
        # the two sides' prompts differ: more than one message is left
        ({"chosen": [Q, A, R, B], "rejected": [Q, C, R, B]}, [Q], [A, R, B], [C, R, B]),
        # equal sides keep their last message each
        ({"chosen": [Q, A], "rejected": [Q, A]}, [Q], [A], [A]),
        # one side goes on after the other's last message
        ({"chosen": [Q, A], "rejected": [Q, A, R, B]}, [Q], [A], [A, R, B]),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, [Q], [], [B]),
        ({"prompt": "q", "chosen": "", "rejected": []}, [Q], [assistant("")], []),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, [], [A], [B]),
    ],
)
def test_shapes(row: dict[str, Any], prompt: object, chosen: object, rejected: object) -> None:
    record, reasons = one(row)
    assert record is not None
    assert (record["prompt"], record["chosen"], record["rejected"], reasons) == (prompt, chosen, rejected, [])
    assert (record["source"], record["row"], record["split"]) == ("f.jsonl", 3, None)


def test_answers_that_start_alike_stay_whole() -> None:
    """The common characters `The capital is P` are no prompt."""
    record, _ = one({"prompt": None, "chosen": "The capital is Paris.", "rejected": "The capital is Prague."})
    assert record is not None
    assert record["prompt"] == []
    assert record["chosen"] == [assistant("The capital is Paris.")]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"score_chosen": 9, "score_rejected": 2.5}, (9.0, 2.5)),
        ({"score_chosen": "8.5", "score_rejected": " 3"}, (8.5, 3.0)),
        ({"chosen_rating": 1.0, "rejected_avg_rating": 5}, (1.0, 5.0)),
        ({"score_chosen": "", "score_rejected": "nan"}, (None, None)),
        ({"chosen_score": 9, "rejected_score": 2.5}, (9.0, 2.5)),
        ({"score_chosen": None, "chosen_score": 0, "score_rejected": math.nan}, (0.0, None)),
        ({}, (None, None)),
    ],
)
def test_scores(scores: dict[str, Any], expected: tuple[float | None, float | None]) -> None:
    record, _ = one({"prompt": "q", "chosen": "a", "rejected": "b"} | scores)
    assert record is not None
    assert (record["score_chosen"], record["score_rejected"]) == expected


def test_ultrafeedback_takes_the_best_against_the_worst() -> None:
    completions = [
        {"response": "middle", "overall_score": 5},
        {"response": "worst", "overall_score": 1.5},
        {"response": "best", "overall_score": 8.0},
        {"response": "unscored", "overall_score": None},
    ]
    record, _ = one({"instruction": "q", "completions": completions, "models": []})
    assert one({"instruction": "q", "completions": json.dumps(completions), "models": []})[0] == record
    assert record is not None
    assert (record["prompt"], record["chosen"], record["rejected"]) == ([Q], [assistant("best")], [assistant("worst")])
    assert (record["score_chosen"], record["score_rejected"]) == (8.0, 1.5)


@pytest.mark.parametrize(
    ("preference", "chosen", "scores"), [(1, "a", (1, 0)), (2.0, "b", (1, 0)), (1.75, "b", (0.75, 0.25)), (1.5, "a", (0.5, 0.5))]
)
def test_alpaca_eval(preference: float, chosen: str, scores: tuple[float, float]) -> None:
    """1 prefers output_1, 2 prefers output_2; the scores are 2 - p and p - 1."""
    record, _ = one({"instruction": "q", "output_1": "a", "output_2": "b", "preference": preference})
    assert record is not None
    assert record["chosen"] == [assistant(chosen)]
    assert (record["score_chosen"], record["score_rejected"]) == scores


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": 1, "rejected": "b"}, "wrong_type: `chosen` is a number, not text or a list of messages"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": "high"},
            "wrong_type: `score_chosen` is text, not a finite number",
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": True},
            "wrong_type: `score_chosen` is true or false, not a finite number",
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": math.inf},
            "wrong_type: `score_chosen` is a number, not a finite number",
        ),
        (
            {"instruction": "q", "completions": [{"response": "a", "score": 1}]},
            "wrong_type: `completions` has 1 answers with a score, not two or more",
        ),
        (
            {"instruction": "q", "output_1": "a", "output_2": "b", "preference": 0},
            "wrong_type: `preference` is 0, not a number from 1 to 2",
        ),
    ],
)
def test_a_wrong_type_costs_its_row(row: dict[str, Any], reason: str) -> None:
    assert one(row) == (None, [reason])


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        (("prompt", "choosen", "rejected"), "rename `choosen` to `chosen` (or set columns: {chosen: choosen})"),
        (
            ("prompt", "Chosen", "reject"),
            "rename `Chosen` to `chosen`, rename `reject` to `rejected` (or set columns: {chosen: Chosen, rejected: reject})",
        ),
        (
            ("Prompt", "Chosen", "Rejected"),
            "rename `Prompt` to `prompt`, rename `Chosen` to `chosen`, rename `Rejected` to `rejected` "
            "(or set columns: {prompt: Prompt, chosen: Chosen, rejected: Rejected})",
        ),
        (("prompt", "chosen"), "add `rejected`"),
    ],
)
def test_a_file_without_the_columns_is_refused_with_a_rename(columns: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(Refusal) as refusal:
        one(dict.fromkeys(columns, "x"))
    assert refusal.value.found == f"columns {', '.join(columns)}"
    assert "; or prompt + chosen + rejected; or " in refusal.value.allowed
    assert refusal.value.remedy == remedy


def test_columns_of_which_no_row_has_all_are_named() -> None:
    with pytest.raises(Refusal) as refusal:
        list(normalise([(1, {"prompt": "a", "rejected": "b"}), (2, {"chosen": "c"})], "f.jsonl", lambda bad: None))
    assert refusal.value.remedy == "write `prompt`, `chosen`, `rejected` in each row: no row has all of them"


SCORED = [{"response": "a", "overall_score": 9}, {"response": "b", "overall_score": 3}]


@pytest.mark.parametrize("known", [["None"], ["Paris.", "It is Paris."]])
def test_the_answers_that_ultrafeedback_was_scored_by_are_no_sides(known: list[str]) -> None:
    """Only its questions from TruthfulQA have some; what was scored are the completions."""
    row = {"instruction": "q", "completions": SCORED, "correct_answers": known, "incorrect_answers": known}
    record, bad = one(row)
    assert record is not None
    assert (record["prompt"], record["chosen"], record["rejected"], bad) == ([Q], [A], [B], [])
    assert [shape.name for shape in KINDS["preferences"].shapes if shape.found(row)] == ["UltraFeedback", "solutions"]


def test_right_and_wrong_answers_beside_plain_ones_are_the_sides() -> None:
    record, bad = one({"question": "q", "answers": ["a", "b"], "correct_answers": ["a"], "incorrect_answers": ["b"]})
    assert record is not None
    assert (record["chosen"], record["rejected"], bad) == ([A], [B], [])


ANSWERS = {"prompt": "q", "response_0": "a", "response_1": "b"}
ARENA = {"prompt": '["q"]', "response_a": '["a"]', "response_b": '["b"]', "winner_model_b": 0}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (ANSWERS | {"better_response_id": 0.5}, "better_response_id"),
        (ANSWERS | {"safer_response_id": "0.01"}, "safer_response_id"),
        ({"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0.9}, "labels"),
        (ARENA | {"winner_model_a": 0.5}, "winner_model_a"),
    ],
)
def test_a_verdict_between_two_answers_is_none(row: dict[str, Any], name: str) -> None:
    record, bad = one(row)
    assert (record, bad) == (None, [f"wrong_type: `{name}` is {row[name]!r}, not 0 or 1"])


def test_scores_may_be_decimals_as_databases_write_them() -> None:
    record, bad = one(
        {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": Decimal("8.5"), "score_rejected": Decimal(1)}
    )
    assert record is not None
    assert (record["score_chosen"], record["score_rejected"], bad) == (8.5, 1.0, [])


def test_of_scores_under_several_names_the_others_are_not_left_out_in_silence() -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 5, "score_rejected": 1}
    rows = [pair | {"chosen_rating": 1, "rejected_rating": 5}, pair | {"chosen_rating": "5.0", "rejected_rating": None}, pair]
    tally = Tally()
    found = list(normalise(enumerate(rows, 1), "f.jsonl", lambda bad: None, tally=tally))
    assert [record["score_chosen"] for record in found] == [5.0, 5.0, 5.0]
    assert [(note[:64], count) for note, count in tally.notes.items()] == [
        ("{count} pairs have scores under several names that differ: the f", 1)
    ]


@pytest.mark.parametrize("written", [lambda value: value, json.dumps], ids=["object", "json"])
def test_completions_may_stand_in_columns(written: Callable[[object], object]) -> None:
    """As `datasets` keeps a `Sequence` of objects."""
    columns = {"response": ["b", "a"], "overall_score": [3, "9"], "annotations": [None, None]}
    record, bad = one({"instruction": "q", "completions": written(columns)})
    assert record is not None
    assert (record["prompt"], record["chosen"], record["rejected"], bad) == ([Q], [A], [B], [])
