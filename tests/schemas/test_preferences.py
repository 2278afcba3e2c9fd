"""The clean table of preference pairs refuses what no trainer may see."""

from __future__ import annotations

from typing import Any

import pandera.errors
import polars as pl
import pytest

from schemas.preferences import Preferences

GOOD: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "q", "extra": None}],
    "chosen": [{"role": "assistant", "content": "a", "extra": None}],
    "rejected": [{"role": "assistant", "content": "b", "extra": None}],
    "source": "f.jsonl",
    "row": 1,
    "score_chosen": None,
    "score_rejected": 0.5,
    "split": "train",
    "extra": '{"answer": 4}',
}
SCHEMA = {name: column.dtype.type for name, column in Preferences.to_schema().columns.items()}


def check(*rows: dict[str, Any]) -> pl.DataFrame:
    return Preferences.to_schema().validate(pl.DataFrame(list(rows), schema=SCHEMA), lazy=True)


def test_a_good_table_passes_unchanged() -> None:
    rows = [GOOD, GOOD | {"row": 2, "split": "holdout", "score_chosen": 0.6}]
    assert check(*rows).to_dicts() == rows


def test_no_rows_pass() -> None:
    assert check().height == 0


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"prompt": []}, "prompt_not_empty"),
        ({"prompt": None}, "not_nullable"),
        ({"chosen": []}, "answers"),
        ({"rejected": GOOD["rejected"] * 2}, "answers"),
        ({"chosen": GOOD["prompt"]}, "answers"),
        ({"chosen": GOOD["rejected"]}, "sides_differ"),
        ({"score_chosen": 0.5}, "scores_agree"),
        ({"score_chosen": 0.4}, "scores_agree"),
        ({"split": "test"}, "isin(('train', 'holdout'))"),
        ({"split": None}, "not_nullable"),
        ({"row": 0}, "greater_than_or_equal_to(1)"),
    ],
)
def test_bad_rows_are_refused(change: dict[str, Any], failed: str) -> None:
    with pytest.raises(pandera.errors.SchemaErrors) as error:
        check(GOOD | {"row": 2}, GOOD | change)
    assert failed in {name for name in error.value.failure_cases["check"] if name}


def test_a_row_may_not_come_twice() -> None:
    with pytest.raises(pandera.errors.SchemaErrors):
        check(GOOD, GOOD)
