"""The usual rows, quickly: those whose columns are texts of one message each become tables a column at a time.

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
from schemas.messages import MESSAGE

FEW: Final = 16  # rows for which columns are not worth it
# Text that may be more than one message: a transcript, messages as JSON, Alpaca's words for no answer.
MAY_BE_MORE: Final = r"(?i)\A(?:[\s\[{#]|human:|assistant:|<?nooutput)"
TEXT: Final = pa.large_string()
_MARKS: Final = {name: side for side, names in SCORES.items() for name in names}


@dataclass(frozen=True)
class _Block:
    """Rows with the same columns, and the shape that they make."""

    fit: Fit
    names: tuple[str, ...]
    texts: dict[str, tuple[str, str]]
    """Column of the normal form → role and column of the rows."""
    scores: dict[str, str]
    """`score_chosen` and `score_rejected` → column of the rows."""


def plain_table(rows: Sequence[Row], reader: FileRows, columns: Sequence[str]) -> tuple[pl.DataFrame | None, Sequence[int]]:
    """A table of those rows that are plain, and the positions of the others.

    Args:
        rows: under the names that shapes know.
        reader: of their file, which is told of the rows in the table.
        columns: those of the normal form.
    """
    block = _block(rows, reader, columns) if len(rows) >= FEW else None
    if block is None:
        return None, range(len(rows))
    alike = np.fromiter((tuple(row) == block.names for _, row in rows), np.bool_, len(rows))
    for _, name in block.texts.values():
        alike[alike] = [type(row[name]) is str for (_, row), good in zip(rows, alike, strict=True) if good]
    if "split" in block.names:
        alike[alike] = [type(row["split"]) in (str, type(None)) for (_, row), good in zip(rows, alike, strict=True) if good]
    some = [row for row, good in zip(rows, alike, strict=True) if good]
    texts = {column: pa.array([row[name] for _, row in some], TEXT) for column, (_, name) in block.texts.items()}
    single = _single({column: pl.Series(array) for column, array in texts.items()})
    marks, extra = _scores(some, block), _extra(some, block.fit)
    if marks is None or extra is None:
        return None, range(len(rows))
    alike[alike] = single
    made = {column: _messages(block.texts[column][0], texts[column]) for column in texts} | marks | {"extra": extra}
    return _table(some, single, made, reader, block.fit, columns), np.flatnonzero(~alike).tolist()


def _block(rows: Sequence[Row], reader: FileRows, columns: Sequence[str]) -> _Block | None:
    """What the first row that is complete has, if columns can be made of it."""
    first = next((row for _, row in rows[:FEW] if None not in row.values()), None)
    fit = reader.fit(first) if first is not None else None
    if first is None or fit is None or fit.shape.plain is None or fit.context or reader.gathered:
        return None
    texts = {column: (role, fit.renamed.get(name, name)) for column, (role, name) in fit.shape.plain.items()}
    also = [name for name in fit.shape.also if name in first]
    sides = [_MARKS.get(name) for name in also]
    if None in sides or len(set(sides)) < len(sides):
        return None
    return _Block(fit, tuple(first), texts, {f"score_{_MARKS[name]}": name for name in also})


def _single(texts: dict[str, pl.Series]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows are one message in each column, and do not repeat the prompt at the start of every answer."""
    table = pl.DataFrame(texts)
    prompt, *answers = (pl.col(name) for name in table.columns)
    more = pl.any_horizontal(pl.all().str.contains(MAY_BE_MORE))
    repeats = pl.all_horizontal(each.str.starts_with(prompt) for each in answers) & (prompt.str.len_chars() >= QUOTED)
    return table.select(~(more | repeats)).to_series().to_numpy()


def _scores(rows: Sequence[Row], block: _Block) -> dict[str, pa.Array] | None:
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


def _messages(role: str, texts: pa.Array) -> pa.Array:
    """A list of one message for each text."""
    ends = np.arange(len(texts) + 1, dtype=np.int64)
    return _lists(ends, role=pa.repeat(pa.scalar(role, TEXT), len(texts)), content=texts, extra=pa.nulls(len(texts), TEXT))


def of_messages(lists: Sequence[list[Message]]) -> pa.Array:
    """Lists of messages as Arrow has them, by fields: several times as fast as from nested objects."""
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    every = [message for messages in lists for message in messages]
    return _lists(
        ends,
        role=pa.array([message["role"] for message in every], TEXT),
        content=pa.array([message["content"] for message in every], TEXT),
        extra=pa.array([message.get("extra") for message in every], TEXT),
    )


def _lists(ends: NDArray[np.int64], **fields: pa.Array) -> pa.Array:
    order = [field.name for field in MESSAGE.fields]
    return pa.LargeListArray.from_arrays(ends, pa.StructArray.from_arrays([fields[name] for name in order], order))


def _table(
    rows: Sequence[Row], single: Any, made: dict[str, pa.Array], reader: FileRows, fit: Fit, columns: Sequence[str]
) -> pl.DataFrame:
    """The plain ones of some rows, in normal form, and told to the reader of the file."""
    numbers = pa.array([number for number, _ in rows], pa.int64())
    splits = pa.array([row.get("split") for _, row in rows], TEXT)
    source = pa.repeat(pa.scalar(reader.file, TEXT), len(rows))
    filled = {"row": numbers, "split": splits, "source": source} | made
    nothing = pa.nulls(len(rows), pa.float64())
    table = pl.DataFrame(pa.table({name: filled.get(name, nothing) for name in columns})).filter(pl.Series(single))
    held = _holding(rows, single, [name for name in fit.unread if reader.counts(name)])
    reader.counted(fit, table.height, held)
    return table


def _holding(rows: Sequence[Row], single: Any, names: Sequence[str]) -> dict[str, int]:
    """In how many rows a column holds something."""
    return {name: sum(row[name] not in EMPTY for (_, row), good in zip(rows, single, strict=True) if good) for name in names}
