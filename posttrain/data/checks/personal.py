"""Personal data and secrets in rows: found, or replaced by placeholders in every message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from posttrain.text.buffers import arrow, of_series
from posttrain.text.personal_data import KINDS, counted, redact_all

PARTS: Final = ("prompt", "chosen", "rejected", "completion")


def personal(texts: Sequence[pl.Series], kinds: Collection[str]) -> NDArray[np.bool_]:
    """[rows] whether a part of a row has something of these kinds.

    Raises:
        Refusal: when telephone numbers are asked for and the extra `text` is not installed.
    """
    found = np.zeros(len(texts[0]) if texts else 0, np.bool_)
    for each in texts:
        found |= counted(of_series(each), kinds).any(1)
    return found


def redacted(table: pl.DataFrame, kinds: Collection[str]) -> tuple[pl.DataFrame, Counter[str], NDArray[np.bool_]]:
    """The table with placeholders, how many there are of each kind, and which rows were changed.

    Args:
        table: rows in normal form.
        kinds: what is replaced.

    Raises:
        Refusal: as `personal`.
    """
    counts: Counter[str] = Counter()
    changed = np.zeros(table.height, np.bool_)
    for column in (name for name in PARTS if name in table.columns):
        messages = table.select(pl.col(column), row=pl.int_range(pl.len())).explode(column).drop_nulls(column)
        texts = messages[column].struct.field("content")
        new, found = redact_all(of_series(texts), kinds)
        hit = found.any(1)
        if not hit.any():
            continue
        counts.update({kind: int(count) for kind, count in zip(KINDS, found.sum(0), strict=True) if count})
        changed[messages["row"].to_numpy()[hit]] = True
        table = _with_contents(table, column, messages, pl.Series(arrow(new)))
    return table, counts, changed


def _with_contents(table: pl.DataFrame, column: str, messages: pl.DataFrame, contents: pl.Series) -> pl.DataFrame:
    """The table with other contents in the messages of a column, in their order; rows without messages stay as they are."""
    fields: Any = messages[column].struct.unnest().with_columns(content=contents.cast(pl.String))
    whole = messages.select("row").with_columns(fields.to_struct(column)).group_by("row", maintain_order=True).agg(column)
    rows = table.with_columns(row_number=pl.int_range(pl.len()))
    joined = rows.join(whole, left_on="row_number", right_on="row", how="left", suffix="/new", maintain_order="left")
    return joined.with_columns(pl.coalesce(f"{column}/new", column).alias(column)).select(table.columns)
