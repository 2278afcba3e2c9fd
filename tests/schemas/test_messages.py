"""Types of messages in tables."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest

from schemas.messages import MESSAGES, answers, one_answer


@pytest.mark.parametrize(
    ("messages", "is_one"),
    [
        ([{"role": "assistant", "content": "yes"}], True),
        ([{"role": "user", "content": "yes"}], False),
        ([{"role": "assistant", "content": "yes"}] * 2, False),
        ([], False),
    ],
)
def test_an_answer_is_one_message_of_the_assistant(messages, is_one):
    table = pl.DataFrame({"said": [messages]}, schema={"said": MESSAGES})
    assert table.select(one_answer("said").fill_null(False)).item() is is_one


@pytest.mark.parametrize(
    ("roles", "are_answers"),
    [
        ("assistant", True), ("assistant tool assistant", True), ("assistant tool tool assistant tool assistant", True),
        ("assistant user assistant", True), ("assistant user assistant tool assistant", True),
        ("", False), ("user", False), ("assistant assistant", False), ("assistant user", False), ("user assistant", False),
        ("tool assistant", False), ("assistant tool", False), ("assistant system assistant", False),
    ],
)  # fmt: skip
def test_answers_begin_and_end_with_the_assistant(roles, are_answers):
    table = pl.DataFrame({"said": [[{"role": role, "content": "x"} for role in roles.split()]]}, schema={"said": MESSAGES})
    assert table.select(answers("said").fill_null(False)).item() is are_answers


def test_reading_rows_needs_no_library_of_contracts():
    """`posttrain check` answers in seconds, and pandera with pandas would be a quarter of one."""
    code = "import sys, posttrain.data.kinds; sys.exit('pandera' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
