"""The contract of a batch of documents."""

from __future__ import annotations

import polars as pl
import pytest
from pandera.errors import SchemaErrors

from schemas.documents import broken_rows


def batch(texts: list[str | None]) -> pl.DataFrame:
    rows = range(1, len(texts) + 1)
    columns = {"id": [str(row) for row in rows], "text": texts, "source": ["f"] * len(texts), "row": list(rows)}
    return pl.DataFrame(columns, schema={"id": pl.String, "text": pl.String, "source": pl.String, "row": pl.Int64})


def test_null_and_blank_are_broken() -> None:
    found = broken_rows(batch(["a", None, " b", "", " \n\t", "c"]))
    assert found.rows() == [(1, "text_null"), (3, "text_empty"), (4, "text_empty")]


@pytest.mark.parametrize("texts", [["a"], []])
def test_nothing_broken(texts: list[str | None]) -> None:
    assert broken_rows(batch(texts)).rows() == []


def test_broken_rows_are_joinable_by_position() -> None:
    assert broken_rows(batch(["a"])).schema == broken_rows(batch([None])).schema == {"position": pl.UInt32, "reason": pl.String}


@pytest.mark.parametrize(
    "wrong",
    [
        batch(["a"]).drop("row"),
        batch(["a"]).with_columns(extra=1),
        batch(["a"]).with_columns(row=pl.lit(0, dtype=pl.Int64)),
        batch(["a"]).with_columns(id=pl.lit(None, dtype=pl.String)),
    ],
)
def test_a_mistake_of_the_caller_is_not_quarantined(wrong: pl.DataFrame) -> None:
    with pytest.raises(SchemaErrors):
        broken_rows(wrong)
