"""Rewards that are verified: what is right, what is wrong, and what they do not apply to."""

from __future__ import annotations

import importlib.util

import pytest

from posttrain.rewards import verifiable
from posttrain.rewards.functions import load_function
from schemas.errors import Refusal


def said(function, response: str, **row):
    """(reward, extracted) of one response."""
    (verdict,) = function(["?"], [response], [row])
    return verdict.reward, verdict.extracted


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("Paris", "paris ", (1, "Paris")),
        ("I think the answer is: **Paris**.", "Paris", (1, "**Paris**.")),
        ("2 + 2\n#### four", "four", (1, "four")),
        (r"So \boxed{\frac{1}{2}} it is", r"\frac{1}{2}", (1, r"\frac{1}{2}")),
        ("The answer is Rome, not Paris", "Paris", (0, "Rome, not Paris")),
        ("", "Paris", (0, "")),
    ],
)
def test_exact(response, answer, expected):
    assert said(verifiable.exact, response, answer=answer) == expected


@pytest.mark.parametrize(
    ("response", "row", "expected"),
    [
        ("3 apples and 4 pears: 7", {"answer": 7}, (1, "7")),
        ("It costs $1,234.50.", {"answer": "1234.5"}, (1, "1234.5")),
        ("7-3=4", {"answer": 4}, (1, "4")),
        ("= -3", {"answer": 3}, (0, "-3")),
        ("\u22123", {"answer": -3}, (1, "-3")),
        ("one half is 1/2", {"answer": 0.5}, (1, "0.5")),
        ("50%", {"answer": 0.5}, (1, "0.5")),
        ("6.02e23", {"answer": 6.02e23}, (1, "6.02e+23")),
        ("3.1", {"answer": 3.14}, (0, "3.1")),
        ("3.1", {"answer": 3.14, "tolerance": 0.02}, (1, "3.1")),
        ("5 km", {"answer": 5, "unit": "km"}, (1, "5 km")),
        ("5 kmh", {"answer": 5, "unit": "km"}, (0, "5 km")),
        ("5", {"answer": 5, "unit": "km"}, (0, "5 km")),
        ("I do not know x2", {"answer": 2}, (0, None)),
        ("1/0", {"answer": 2}, (0, None)),
        ("7", {"answer": "seven"}, (None, None)),
    ],
)
def test_number(response, row, expected):
    assert said(verifiable.number, response, **row) == expected


@pytest.mark.skipif(importlib.util.find_spec("pint") is None, reason="needs the extra verifiable")
@pytest.mark.parametrize(
    ("response", "row", "expected"),
    [
        ("It is 1.5 km away.", {"answer": 1500, "unit": "m"}, (1, "1.5 km")),
        ("1500 m", {"answer": "1.5 km"}, (1, "1500 m")),
        ("so 36 km/h", {"answer": 10, "unit": "m/s"}, (1, "36 km/h")),
        ("so 36 km/h", {"answer": 9.9, "unit": "m/s", "tolerance": 0.02}, (1, "36 km/h")),
        ("9.81 m/s^2.", {"answer": 9.81, "unit": "m/s^2"}, (1, "9.81 m/s^2")),
        ("25 degC", {"answer": 298.15, "unit": "K"}, (1, "25 degC")),
        ("1500 s", {"answer": 1500, "unit": "m"}, (0, "1500 s")),  # of another dimension
        ("1500", {"answer": 1500, "unit": "m"}, (0, "1500")),
        ("1500 bananas", {"answer": 1500, "unit": "m"}, (0, "1500 bananas")),
        ("2 m^99999999", {"answer": 2, "unit": "m"}, (0, "1e+08")),  # not computed
        ("none", {"answer": 2, "unit": "m"}, (0, None)),
        ("2 m", {"answer": "two metres"}, (None, None)),
    ],
)
def test_quantity(response, row, expected):
    assert said(verifiable.quantity, response, **row) == expected


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("(B)", "B", (1, "B")),
        ("The answer is b. I mean C.", 2, (1, "C")),
        ("A dog? No: D.", "(d)", (1, "D")),
        ("Because", "B", (0, None)),
        ("I'm sure it's C", "B", (0, "C")),
    ],
)
def test_choice(response, answer, expected):
    assert said(verifiable.choice, response, answer=answer) == expected


def test_a_pattern_must_fit_the_whole_response():
    form = r"<think>.*</think>\s*<answer>(.*)</answer>"
    assert said(verifiable.pattern, "<think>a\nb</think>\n<answer>4</answer>\n", pattern=form) == (1, "4")
    assert said(verifiable.pattern, "Well: <think></think><answer>4</answer>", pattern=form) == (0, None)


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ('{"age": 3}', 1),
        ('Here:\n```json\n{"age": 3}\n```', 1),
        ('{"age": "3"}', 0),
        ("[" * 100_000, 0),
        ("no JSON", 0),
    ],
)
def test_json_schema(response, reward):
    schema = {"type": "object", "required": ["age"], "properties": {"age": {"type": "integer"}}}
    assert said(verifiable.json_schema, response, schema=schema)[0] == reward


def test_length_falls_with_the_relative_excess():
    """5 words of at most 4: an excess of a quarter. 1 of at least 4: three quarters are missing."""
    assert said(verifiable.length, "a b c", max_words=4) == (1, "3 words")
    assert said(verifiable.length, "a b c d e", max_words=4) == (0.75, "5 words")
    assert said(verifiable.length, "a", min_words=4, max_words=9) == (0.25, "1 words")
    assert said(verifiable.length, "a") == (None, None)


@pytest.mark.parametrize("name", ["exact", "number", "choice", "pattern", "json_schema"])
def test_a_row_without_the_column_is_not_judged(name):
    function = load_function(f"posttrain.rewards.verifiable:{name}", "alignment.reward.name")
    assert function(["?", "?"], ["4", "4"], [{}, {"answer": None}]) == [None, None]


def test_mathematics_that_is_equal_in_another_form():
    pytest.importorskip("math_verify", reason="the extra `verifiable` is not installed")
    assert said(verifiable.math_equal, r"$\frac{2}{4}$", answer="$0.5$")[0] == 1
    assert said(verifiable.math_equal, r"$\{2, 1\}$", answer=r"$\{1, 2\}$")[0] == 1
    assert said(verifiable.math_equal, "$3$", answer="$4$")[0] == 0


def test_a_library_that_is_missing_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refusal, match=r"needs math-verify.*(.|\n)*pip install 'posttrain\[verifiable\]'"):
        load_function("posttrain.rewards.verifiable:math_equal", "alignment.reward.name")
