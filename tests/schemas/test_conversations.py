"""The clean table of conversations refuses what no trainer may see."""

from __future__ import annotations

from typing import Any

import pandera.errors
import polars as pl
import pytest

from schemas.conversations import Conversations

GOOD: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "q", "extra": None}],
    "completion": [{"role": "assistant", "content": "a", "extra": None}],
    "source": "f.jsonl",
    "row": 1,
    "split": "train",
    "extra": '{"answer": 4}',
}
SCHEMA = {name: column.dtype.type for name, column in Conversations.to_schema().columns.items()}


def check(*rows: dict[str, Any]) -> pl.DataFrame:
    return Conversations.to_schema().validate(pl.DataFrame(list(rows), schema=SCHEMA), lazy=True)


def test_a_good_table_passes_unchanged() -> None:
    rows = [GOOD, GOOD | {"row": 2, "split": "holdout"}]
    assert check(*rows).to_dicts() == rows


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"prompt": []}, "prompt_not_empty"),
        ({"completion": []}, "one_answer"),
        ({"completion": GOOD["prompt"]}, "one_answer"),
        ({"split": "eval"}, "isin(('train', 'holdout'))"),
        ({"source": None}, "not_nullable"),
    ],
)
def test_bad_rows_are_refused(change: dict[str, Any], failed: str) -> None:
    with pytest.raises(pandera.errors.SchemaErrors) as error:
        check(GOOD | {"row": 2}, GOOD | change)
    assert failed in {name for name in error.value.failure_cases["check"] if name}


def test_a_row_may_not_come_twice() -> None:
    with pytest.raises(pandera.errors.SchemaErrors):
        check(GOOD, GOOD)
