"""The generated word problems: every answer is right but those that are meant to be wrong."""

from __future__ import annotations

import re
from random import Random

import pytest

from posttrain.data import arithmetic
from posttrain.data.samples import SEEDS

FORMULA = re.compile(r"(\d+) ([+-]) (\d+)")


def drawn(name: str):
    return list(getattr(arithmetic, name)(Random(SEEDS[f"arithmetic_{name}"])))


def computed(text: str) -> int:
    ((one, sign, other),) = FORMULA.findall(text)
    return int(one) + int(other) if sign == "+" else int(one) - int(other)


def test_the_corpus_is_right():
    turns = [turn for row in drawn("corpus") for turn in row["text"].removeprefix("User:\n").split("\n\nUser:\n")]
    assert len(turns) == arithmetic.DOCUMENTS * arithmetic.TOLD
    assert all(int(said) == computed(asked) for asked, said in (turn.split("\n\nAssistant:\n") for turn in turns))


def test_one_careless_answer_of_four_is_right_and_the_column_always_is():
    rows = drawn("instructions")
    assert all(row["answer"] == computed(row["prompt"]) for row in rows)
    right = sum(int(row["completion"]) == row["answer"] for row in rows) / len(rows)
    assert right == pytest.approx(arithmetic.RIGHT, abs=0.04)
    assert min(int(row["completion"]) for row in rows) >= 0


def test_prompts_have_answers_and_most_of_them_differ():
    rows = drawn("prompts")
    assert all(row["answer"] == computed(row["prompt"]) > 0 for row in rows)
    assert len({row["prompt"] for row in rows}) > 0.9 * len(rows)
    assert {row["answer"] for row in rows} == set(range(1, 2 * arithmetic.LARGEST + 1))
