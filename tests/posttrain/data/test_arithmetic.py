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
    """After the formula of each line its result is the only number, and the last word."""
    lines = [line for row in drawn("corpus") for line in row["text"].split("\n")]
    assert len(lines) == arithmetic.DOCUMENTS * (arithmetic.TOLD + arithmetic.DRILLED)
    assert all(int(line.split()[-1]) == computed(line) for line in lines)


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
