"""Rows that repeat a text of an evaluation set."""

from __future__ import annotations

import json

import polars as pl
import pytest

from posttrain.data.checks.contamination import contaminated, evaluation_index
from posttrain.data.sources import SourceFile
from schemas.errors import Refusal

WORDS = [f"w{n}" for n in range(60)]


@pytest.fixture
def index(tmp_path):
    """Of a question of 20 words in a message, and one of 9 words in a column."""
    rows = [{"messages": [{"role": "user", "content": " ".join(WORDS[:20])}]}, {"question": " ".join(WORDS[30:39]), "n": 3}]
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return evaluation_index([SourceFile(path.name, str(path))], "data.checks.decontaminate")


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        (" ".join(["before", *WORDS[2:15], "after"]), True),  # 13 words
        (" ".join(["before", *WORDS[2:14], "after"]), False),  # 12
        (" ".join(["before", *WORDS[30:39], "after"]), True),  # the whole short question
        (" ".join(["before", *WORDS[30:38], "after"]), False),
        (" ".join(WORDS[2:15]).upper().replace(" ", ", "), True),  # case and punctuation do not count
        ("", False),
    ],
)
def test_a_run_of_13_words_or_a_whole_short_text(index, text, hit):
    assert contaminated([pl.Series(["fine", text]), pl.Series([None, "fine"])], index).tolist() == [False, hit]
    assert contaminated([pl.Series(["fine"]), pl.Series([text])], index).tolist() == [hit]


def test_prompts_alone_are_one_part_and_a_table_may_have_none(index):
    assert contaminated([pl.Series(["fine", " ".join(WORDS[2:15])])], index).tolist() == [False, True]
    assert contaminated([], index).tolist() == []


def test_a_file_without_texts_is_refused(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"question": "Why?"}\n')
    with pytest.raises(Refusal) as caught:
        evaluation_index([SourceFile(path.name, str(path))], "data.checks.decontaminate")
    assert caught.value.where == "data.checks.decontaminate"
    assert "empty.jsonl" in caught.value.found
