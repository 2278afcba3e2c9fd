"""JSON lines as tables in normal form without an object of Python for each: the usual rows of files whose lines are alike.

Arrow reads some lines at once, in the columns of their first one. It refuses text that is not JSON, a key that comes twice, a
column that the first line lacks, and values of another type: then the lines are tried in smaller pieces. The others, and rows
that are not usual, go row by row (`plain_rows`, `file_rows`), which gives the same for these too. Where columns that no shape
reads come in another order than in the first line, `extra` has them in that of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from posttrain.data.columns import EMPTY
from posttrain.data.containers.lines import LONGEST_LINE
from posttrain.data.file_rows import FileRows, unread_columns
from posttrain.data.plain_rows import FEW, Block, Columns, block_of, single_messages, table_of
from posttrain.data.readers import Lines
from posttrain.data.shapes import Made
from posttrain.data.usual_columns import TALK, TEXT, of_one

SMALLEST: Final = 500  # lines of a piece that is not cut any further
_TYPES: Final = {str: TEXT, bool: pa.bool_(), int: pa.int64()}
_MESSAGE: Final = {"role", "content"}


def by_lines(lines: Lines, reader: FileRows, columns: Columns) -> tuple[list[pl.DataFrame], NDArray[np.int64]]:
    """Tables of the usual rows of some lines, and the positions of the other lines.

    Args:
        lines: of one file.
        reader: of the same, which is told of the rows in the tables.
        columns: those of the normal form.
    """
    rest = np.ones(len(lines.raw), np.bool_)
    tables: list[pl.DataFrame] = []
    pieces = [] if reader.renames or reader.gathered else [slice(0, len(lines.raw))]
    while pieces:
        piece = pieces.pop()
        raw = lines.raw[piece]
        layout = _layout(raw, reader, lines.side)
        if layout is None:
            continue
        given = _read(raw, layout)
        if given is not None:
            table, taken = _table(given, layout, lines, lines.first + piece.start, reader, columns)
            tables += table
            rest[piece] = ~taken
        elif len(raw) >= 2 * SMALLEST:
            middle = piece.start + len(raw) // 2
            pieces += [slice(middle, piece.stop), slice(piece.start, middle)]
    return tables, np.flatnonzero(rest)


@dataclass(frozen=True)
class _Layout:
    """What the first complete row has."""

    block: Block
    kinds: dict[str, pa.DataType]
    """Types of its columns."""


def _layout(raw: Sequence[bytes], reader: FileRows, side: str | None) -> _Layout | None:
    """None where tables cannot be made of such rows."""
    rows = list(_objects(raw[:FEW])) if len(raw) >= FEW else []
    first = next((row for row in rows if None not in row.values()), {})
    kinds = {name: TALK if _is_talk(value) else _TYPES.get(type(value)) for name, value in first.items()}
    block = block_of([first], reader) if first and "split" not in first else None
    if block is None:
        return None
    for name in block.scores.values():
        kinds[name] = pa.float64() if type(first[name]) in (int, float) else None
    unread = [kinds[name] for name in block.fit.unread]
    known = {name: kind for name, kind in kinds.items() if kind is not None}
    plain = block.texts and all(kinds[name] == TEXT for _, name in block.texts.values())
    if len(known) < len(kinds) or TALK in unread or not (plain or block.fit.shape.columnar):
        return None
    return _Layout(block, known)


def _objects(raw: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for line in raw:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if type(value) is dict:
            yield value


def _is_talk(value: Any) -> bool:
    """Whether a value is a list of messages with a role and a content alone."""
    return type(value) is list and value != [] and all(type(each) is dict and each.keys() == _MESSAGE for each in value)


def _read(raw: Sequence[bytes], layout: _Layout) -> dict[str, pa.Array] | None:
    """The columns of some lines, each of which is one object; None where a line is odd."""
    text = b"\n".join(raw)
    between = text.count(b"}\n{")
    if between < len(raw) - 1:
        between += text.count(b"}\r\n{")
    if between < len(raw) - 1 or text[:1] != b"{" or text[-2:].rstrip(b"\r")[-1:] != b"}" or max(map(len, raw)) > LONGEST_LINE:
        return None
    schema = pa.schema(list(layout.kinds.items()))
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(text),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
        table.validate(full=True)  # UTF-8 too
    except pa.ArrowException:
        return None
    return {name: table[name].combine_chunks() for name in table.column_names} if table.num_rows == len(raw) else None


def _table(
    given: dict[str, pa.Array], layout: _Layout, lines: Lines, first: int, reader: FileRows, columns: Columns
) -> tuple[list[pl.DataFrame], NDArray[np.bool_]]:  # fmt: skip
    """The table of the usual rows, if there are any, and which these are."""
    block, fit = layout.block, layout.block.fit
    taken = np.logical_and.reduce([_held(column) for column in given.values()])
    given = given if taken.all() else {name: column.filter(pa.array(taken)) for name, column in given.items()}
    made = _made(given | {known: given[name] for known, name in fit.renamed.items()}, block)
    if made is None or not made[0].any():
        return [], np.zeros_like(taken)
    usual, filled = made
    beside = {
        name: given[name] if usual.all() else given[name].filter(pa.array(usual))
        for name in (*fit.unread, *block.scores.values())
    }
    taken[taken] = usual
    filled |= {column: beside[name] for column, name in block.scores.items()}
    filled["row"] = pa.array(first + np.flatnonzero(taken), pa.int64())
    filled["split"] = pa.repeat(pa.scalar(lines.side, TEXT), int(usual.sum()))
    values = {name: beside[name].to_pylist() for name in fit.unread}
    filled["extra"] = _extra(values, int(usual.sum()))
    table = table_of(filled, reader, columns)
    holding = {name: sum(each not in EMPTY for each in held) for name, held in values.items() if reader.counts(name)}
    reader.counted(fit, table.height, holding)
    return [table], taken


def _held(column: pa.Array) -> NDArray[np.bool_]:
    """Where a column holds something that is no infinity: null stands for a column that is missing, too."""
    held: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return held & np.isfinite(column.to_numpy(zero_copy_only=False)) if column.type == pa.float64() else held


def _made(given: dict[str, pa.Array], block: Block) -> Made | None:
    """Of rows of one text a column, or of what the shape's `columnar` knows; None where it is neither."""
    texts = {column: given[name] for column, (_, name) in block.texts.items()}
    if texts and all(column.type == TEXT for column in texts.values()):
        single = single_messages(texts)
        kept = texts if single.all() else {name: column.filter(pa.array(single)) for name, column in texts.items()}
        return single, {name: of_one(block.texts[name][0], column) for name, column in kept.items()}
    return block.fit.shape.columnar(given) if block.fit.shape.columnar else None


def _extra(values: dict[str, list[Any]], count: int) -> pa.Array:
    """The columns that no shape reads, as JSON."""
    if not values:
        return pa.nulls(count, TEXT)
    rows = zip(*values.values(), strict=True)
    return pa.array([unread_columns(dict(zip(values, row, strict=True)), tuple(values)) for row in rows], TEXT)
