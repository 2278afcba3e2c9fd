"""How large the pages of a Parquet file become, read from their headers before Arrow takes memory for them.

The footer says it of whole columns, and may say anything. parquet.thrift, PageHeader:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift; the compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import pyarrow.parquet as pq

LONGEST_LIST: Final = 100_000  # entries of a list of the footer: row groups, columns; Arrow makes them before it reads them
LONGEST_STRING: Final = 16 << 20  # bytes of a text of the footer: the schema of Arrow or pandas is one
UNCOMPRESSED_SIZE, COMPRESSED_SIZE = 2, 3  # fields of PageHeader
STOP, TRUE, FALSE, BYTE, INT16, INT32, INT64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)  # types
NESTED: Final = 8  # structs of a page header in each other; those of the format are 3


class PagesWatched(io.RawIOBase):
    """A Parquet file whose columns are judged as they are read, before they are decompressed.

    Arrow reads each column of a row group whole, where it does not read ahead (`pre_buffer`).

    Args:
        stream: the file.
        found: its footer.
        judge: is given the bytes that a column decodes to, and refuses them.
    """

    def __init__(self, stream: IO[bytes], found: pq.FileMetaData, judge: Callable[[int], None]) -> None:
        self._stream, self._judge = stream, judge
        groups = map(found.row_group, range(found.num_row_groups))
        self._columns = dict(_place(group.column(c)) for group in groups for c in range(group.num_columns))

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As in the file."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """As in the file."""
        return self._stream.tell()

    def read(self, size: int = -1) -> Any:
        """As in the file; a column is judged."""
        start = self._stream.tell()
        content = self._stream.read(size)
        length = self._columns.get(start, 0)
        if 0 < length <= len(content):
            self._judge(sum(decoded_sizes(memoryview(content)[:length])))
        return content


def _place(column: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Where a column begins, with its dictionary, and its bytes."""
    starts = (column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    return min(starts), column.total_compressed_size


def decoded_sizes(column: memoryview) -> Iterator[int]:
    """Bytes of each page of a column once decompressed.

    Raises:
        IndexError: when its headers are none.
    """
    at = 0
    while at < len(column):
        sizes, at = _header(column, at)
        compressed = sizes.get(COMPRESSED_SIZE, -1)
        if compressed < 0 or at + compressed > len(column):
            raise IndexError("a page that ends outside of its column")
        yield max(0, sizes.get(UNCOMPRESSED_SIZE, 0))
        at += compressed


def _header(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """The whole numbers of a struct by the number of their field, and where it ends."""
    if depth > NESTED:
        raise IndexError("structs that are nested too deep for a page header")
    numbers: dict[int, int] = {}
    field = 0
    while kind := data[at] & 0x0F:
        step = data[at] >> 4
        at += 1
        if step:
            field += step
        else:
            field, at = _number(data, at)
        if kind in (INT16, INT32, INT64):
            numbers[field], at = _number(data, at)
        else:
            at = _skipped(data, at, kind, depth)
    return numbers, at + 1


def _skipped(data: memoryview, at: int, kind: int, depth: int) -> int:
    """Where a value ends. In a list a truth value has a byte, in a struct none."""
    if kind in (TRUE, FALSE):
        return at
    if kind in (INT16, INT32, INT64):
        return _number(data, at)[1]
    if kind == STRUCT:
        return _header(data, at, depth + 1)[1]
    if kind == BINARY:
        length, at = _varint(data, at)
        return at + length
    if kind in (LIST, SET):
        count, inner, at = data[at] >> 4, data[at] & 0x0F, at + 1
        if count == 15:
            count, at = _varint(data, at)
        for _ in range(min(count, len(data))):  # each takes a byte or more
            at = at + 1 if inner in (TRUE, FALSE, BYTE) else _skipped(data, at, inner, depth)
        return at
    if kind in (BYTE, DOUBLE):
        return at + (1 if kind == BYTE else 8)
    raise IndexError("a value of a type that page headers do not have")


def _number(data: memoryview, at: int) -> tuple[int, int]:
    """A signed number, in zigzag, and where it ends."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise IndexError("a number of more than 64 bits")
