"""What would steer a terminal is spelt out, and values of any size are short in messages."""

from __future__ import annotations

import json

import pytest

from schemas.errors import Refusal
from schemas.text import short, visible, visible_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\x9b31m\x7f\r", r"\x9b31m\x7f\x0d"),
        ("a\u202eb\u2066\u2028", r"a\u202eb\u2066\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("Grüße, 日本\n\t✓", "Grüße, 日本\n\t✓"),
    ],
)
def test_only_what_a_terminal_obeys_is_spelt_out(text, shown):
    assert visible(text) == shown


def test_json_means_what_it_meant():
    document = json.dumps({"a": "\u202e\x9b\U000e0041\x1b", "b": "é"}, ensure_ascii=False, indent=1)
    assert json.loads(visible_json(document)) == json.loads(document)
    assert visible_json(document).isprintable() or "\u202e" not in visible_json(document)


def test_a_refusal_holds_no_secret_steers_no_terminal_and_is_short():
    refusal = Refusal(where="a\x1b", found="https://u:hunter2@h\u202e", allowed="x" * 100_000, remedy="b")
    assert refusal.where == r"a\x1b"
    assert refusal.found == r"https://***@h\u202e"
    assert len(str(refusal)) < 21_000


def test_a_value_of_any_size_is_short():
    value: object = ["x" * 1000] * 1000
    for _ in range(50):
        value = [value, {"a": value}]
    assert len(short(value)) < 20_000
    assert short("abc") == "'abc'"
