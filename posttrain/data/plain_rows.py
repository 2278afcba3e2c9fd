"""The usual rows, quickly, a column at a time: those whose columns are texts of one message each, and those of plain messages.

The others go the way of `file_rows`, row by row, which gives the same for these too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.data.columns import EMPTY
from posttrain.data.file_rows import FileRows, Fit, unread_columns
from posttrain.data.messages import Message, WrongType
from posttrain.data.pairs import QUOTED, SCORES
from posttrain.data.readers import Row
from posttrain.data.shapes import Record
from posttrain.data.usual import MAY_BE_MORE
from posttrain.data.usual_columns import TEXT, message_lists, of_one
from schemas.messages import MESSAGES

FEW: Final = 16  # rows for which columns are not worth it
_MARKS: Final = {name: side for side, names in SCORES.items() for name in names}
Columns = dict[str, Any]
"""Names and types in polars."""


@dataclass(frozen=True)
class Block:
    """Rows with the same columns, and the shape that they make."""

    fit: Fit
    names: tuple[str, ...]
    texts: dict[str, tuple[str, str]]
    """Column of the normal form → role and column of the rows; empty where the shape has no rows of plain text."""
    scores: dict[str, str]
    """`score_chosen` and `score_rejected` → column of the rows."""


def by_columns(rows: Sequence[Row], reader: FileRows, columns: Columns) -> tuple[list[pl.DataFrame], Sequence[int]]:
    """Tables of the usual ones of some rows, and the positions of the others.

    Args:
        rows: under the names that shapes know.
        reader: of their file, which is told of the rows in the tables.
        columns: those of the normal form.
    """
    block = block_of([row for _, row in rows[:FEW]], reader) if len(rows) >= FEW else None
    if block is None:
        return [], range(len(rows))
    tables: list[pl.DataFrame] = []
    alike = [tuple(row) == block.names for _, row in rows]
    left = [at for at, same in enumerate(alike) if same]
    for of_some in (_of_texts, _of_messages):
        made, taken = of_some([rows[at] for at in left], reader, block, columns)
        tables += [made] if made is not None else []
        left = [at for at, done in zip(left, taken.tolist(), strict=True) if not done]
    waiting = set(left)
    return tables, [at for at, same in enumerate(alike) if not same or at in waiting]


def block_of(rows: Sequence[dict[str, Any]], reader: FileRows) -> Block | None:
    """What the first of these rows that is complete has, if columns can be made of it."""
    first = next((row for row in rows if None not in row.values()), None)
    fit = reader.fit(first) if first is not None else None
    if first is None or fit is None or fit.context or reader.gathered or not (fit.shape.plain or fit.shape.usual):
        return None
    texts = {column: (role, fit.renamed.get(name, name)) for column, (role, name) in (fit.shape.plain or {}).items()}
    also = [name for name in fit.shape.also if name in first]
    sides = [_MARKS.get(name) for name in also]
    if None in sides or len(set(sides)) < len(sides):
        return None
    return Block(fit, tuple(first), texts, {f"score_{_MARKS[name]}": name for name in also})


Taken = tuple[pl.DataFrame | None, NDArray[np.bool_]]
"""A table, and which of the rows are in it."""


def _of_texts(rows: Sequence[Row], reader: FileRows, block: Block, columns: Columns) -> Taken:
    """Of the rows that have one text for each column."""
    taken = _splits_named(rows, block)
    for _, name in block.texts.values():
        taken[taken] = [type(row[name]) is str for (_, row), good in zip(rows, taken, strict=True) if good]
    if not block.texts or not taken.any():
        return None, np.zeros(len(rows), np.bool_)
    some = [row for row, good in zip(rows, taken, strict=True) if good]
    texts = {column: pa.array([row[name] for _, row in some], TEXT) for column, (_, name) in block.texts.items()}
    single = single_messages(texts)
    made = {column: of_one(block.texts[column][0], texts[column]) for column in texts}
    table = _table(some, made, reader, block, columns, single)
    taken[taken] = False if table is None else single
    return table, taken


def _of_messages(rows: Sequence[Row], reader: FileRows, block: Block, columns: Columns) -> Taken:
    """Of the rows that the shape's `usual` knows."""
    usual, renamed, taken = block.fit.shape.usual, block.fit.renamed, _splits_named(rows, block)
    if usual is None or not taken.any():
        return None, np.zeros(len(rows), np.bool_)
    named = (row | {known: row[name] for known, name in renamed.items()} if renamed else row for _, row in rows)
    records = [usual(row) if good else None for row, good in zip(named, taken, strict=True)]
    taken = np.array([record is not None for record in records], np.bool_)
    some = [row for row, record in zip(rows, records, strict=True) if record is not None]
    made = _normal([record for record in records if record is not None], columns)
    table = _table(some, made, reader, block, columns) if some else None
    return table, taken & (table is not None)


def _normal(records: Sequence[Record], columns: Columns) -> dict[str, pa.Array]:
    """The columns of records that all have the same ones."""
    found = {name: [record[name] for record in records] for name in (records[0] if records else ())}
    return {name: of_messages(each, plain=True) if columns[name] == MESSAGES else pa.array(each) for name, each in found.items()}


def _splits_named(rows: Sequence[Row], block: Block) -> NDArray[np.bool_]:
    """Which rows have a split that is text or null."""
    if "split" not in block.names:
        return np.ones(len(rows), np.bool_)
    return np.array([type(row["split"]) in (str, type(None)) for _, row in rows], np.bool_)


def single_messages(texts: dict[str, pa.Array]) -> NDArray[np.bool_]:
    """Which rows are one message in each column, and do not repeat the prompt at the start of every answer."""
    table = pl.DataFrame({column: pl.Series(array) for column, array in texts.items()})
    prompt, *answers = (pl.col(name) for name in table.columns)
    more = pl.any_horizontal(pl.all().str.contains(MAY_BE_MORE))
    repeats = pl.all_horizontal(each.str.starts_with(prompt) for each in answers) & (prompt.str.len_chars() >= QUOTED)
    found: NDArray[np.bool_] = table.select(~(more | repeats)).to_series().to_numpy()
    return found


def _scores(rows: Sequence[Row], block: Block) -> dict[str, pa.Array] | None:
    """Columns of scores; None where one of them is no number that floats have."""
    found = {}
    for column, name in block.scores.items():
        values = [row[name] for _, row in rows]
        if not set(map(type, values)) <= {float, int, type(None)}:
            return None
        try:
            numbers = [None if value is None or value != value else float(value) for value in values]
        except OverflowError:
            return None
        if any(number is not None and math.isinf(number) for number in numbers):
            return None
        found[column] = pa.array(numbers, pa.float64())
    return found


def _extra(rows: Sequence[Row], fit: Fit) -> pa.Array | None:
    if not fit.unread:
        return pa.nulls(len(rows), TEXT)
    try:
        return pa.array([unread_columns(row, fit.unread) for _, row in rows], TEXT)
    except WrongType:
        return None


def of_messages(lists: Sequence[list[Message]], plain: bool = False) -> pa.Array:
    """Lists of messages as Arrow has them, by fields: several times as fast as from nested objects.

    `plain`: no message has more than its role and its content.
    """
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    every = [message for messages in lists for message in messages]
    roles = [message["role"] for message in every]
    alone = roles[0] if len(set(roles)) == 1 else None  # of answers, and of most prompts
    return message_lists(
        ends,
        pa.array(roles, TEXT) if alone is None else pa.repeat(pa.scalar(alone, TEXT), len(roles)),
        pa.array([message["content"] for message in every], TEXT),
        None if plain else pa.array([message.get("extra") for message in every], TEXT),
    )


def _table(
    rows: Sequence[Row], made: dict[str, pa.Array], reader: FileRows, block: Block, columns: Columns,
    kept: NDArray[np.bool_] | None = None,
) -> pl.DataFrame | None:  # fmt: skip
    """Rows (those that are kept) in normal form, of which the reader is told; None where scores or columns are odd."""
    marks, extra = _scores(rows, block), _extra(rows, block.fit)
    if marks is None or extra is None:
        return None
    numbers = pa.array([number for number, _ in rows], pa.int64())
    splits = pa.array([row.get("split") for _, row in rows], TEXT)
    table = table_of({"row": numbers, "split": splits, "extra": extra} | made | marks, reader, columns)
    if kept is not None and not kept.all():
        table = table.filter(pl.Series(kept))
    counted = [name for name in block.fit.unread if reader.counts(name)]
    reader.counted(block.fit, table.height, _holding(rows, kept, counted))
    return table


def table_of(filled: dict[str, pa.Array], reader: FileRows, columns: Columns) -> pl.DataFrame:
    """Columns of rows in normal form; those that are not given are null."""
    count = len(filled["row"])
    filled = filled | {"source": pa.repeat(pa.scalar(reader.file, TEXT), count)}
    nothing = pa.nulls(count, pa.float64())
    return pl.DataFrame(pa.table({name: filled.get(name, nothing) for name in columns}))


def _holding(rows: Sequence[Row], kept: NDArray[np.bool_] | None, names: Sequence[str]) -> dict[str, int]:
    """In how many rows a column holds something."""
    some = rows if kept is None else [row for row, good in zip(rows, kept, strict=True) if good]
    return {name: sum(row[name] not in EMPTY for _, row in some) for name in names}
