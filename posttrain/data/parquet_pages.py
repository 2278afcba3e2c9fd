"""How large the pages of a Parquet file become, read from their headers before Arrow takes memory for them.

The footer says it of whole columns, and may say anything. parquet.thrift, PageHeader:
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift; the compact protocol:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Callable
from typing import IO, Any, Final

import pyarrow.parquet as pq

LONGEST_LIST: Final = 100_000  # entries of a list of the footer: row groups, columns; Arrow makes them before it reads them
LONGEST_STRING: Final = 16 << 20  # bytes of a text of the footer: the schema of Arrow or pandas is one
UNCOMPRESSED_SIZE, COMPRESSED_SIZE = 2, 3  # fields of PageHeader
STOP, TRUE, FALSE, BYTE, INT16, INT32, INT64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)  # types
LONGEST_HEADER: Final = 16 << 20  # bytes, as of Arrow; the smallest and largest value of a page may be in it
LISTED: Final = 100  # entries of a list in a page header, where the format has no list
NESTED: Final = 8  # structs of a page header in each other; those of the format are 3


class NoHeader(IndexError):
    """Bytes that are no page header, however many more follow."""


class PagesWatched(io.RawIOBase):
    """A Parquet file whose pages are judged as they are read, before they are decompressed: in pieces or a column at a time.

    Args:
        stream: the file.
        found: its footer.
        judge: is given the bytes to which the pages of a column decode so far, and refuses them.

    Raises:
        IndexError: when the columns of the footer overlap; from `read`, where no page header stands where one should.
    """

    def __init__(self, stream: IO[bytes], found: pq.FileMetaData, judge: Callable[[int], None]) -> None:
        self._stream = stream
        groups = map(found.row_group, range(found.num_row_groups))
        listed = [_place(group.column(number)) for group in groups for number in range(group.num_columns)]
        self._columns = [_Column(start, start + length, judge) for start, length in sorted(listed)]
        if any(one.end > other.start for one, other in itertools.pairwise(self._columns)):
            raise NoHeader("columns that overlap, of which one would hide the other")
        self._starts = [column.start for column in self._columns]

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
        """As in the file; the headers in it are judged."""
        start = self._stream.tell()
        content = self._stream.read(size)
        first = max(0, bisect.bisect_right(self._starts, start) - 1)
        for column in self._columns[first:]:
            if column.start >= start + len(content):
                break
            column.look(start, content)
        return content


class _Column:
    """A column of a row group: where its next page header is expected, and what its pages decode to so far."""

    def __init__(self, start: int, end: int, judge: Callable[[int], None]) -> None:
        self.start, self.end, self.judge = start, end, judge
        self.next, self.pending, self.decoded = start, b"", 0

    def look(self, at: int, content: bytes) -> None:
        """Read the headers in bytes of the file from `at` on; one that is cut is completed by what is read next.

        Raises:
            IndexError: when there are none where they should be.
        """
        while self.next < self.end:
            begin = self.next + len(self.pending) - at
            if not 0 <= begin < len(content):
                return
            piece = memoryview(content)[begin : min(begin + LONGEST_HEADER, self.end - at)]
            data = memoryview(self.pending + piece) if self.pending else piece
            try:
                sizes, length = _header(data, 0)
            except NoHeader:
                raise
            except IndexError:  # cut
                if len(data) >= LONGEST_HEADER or self.next + len(data) >= self.end:
                    raise
                self.pending = bytes(data)
                return
            self._take(sizes, length)

    def _take(self, sizes: dict[int, int], length: int) -> None:
        compressed = sizes.get(COMPRESSED_SIZE, -1)
        if compressed < 0 or self.next + length + compressed > self.end:
            raise NoHeader("a page that ends outside of its column")
        self.next, self.pending = self.next + length + compressed, b""
        self.decoded += max(0, sizes.get(UNCOMPRESSED_SIZE, 0))
        self.judge(self.decoded)


def _place(column: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Where a column begins, with its dictionary, and its bytes."""
    starts = (column.data_page_offset, column.dictionary_page_offset or 0)
    return min((start for start in starts if start > 0), default=0), column.total_compressed_size  # 0: it has no such page


def _header(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, int], int]:
    """The whole numbers of a struct by the number of their field, and where it ends."""
    if depth > NESTED:
        raise NoHeader("structs that are nested too deep for a page header")
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
        if count > LISTED:
            raise NoHeader("a list, of which page headers have none")
        for _ in range(count):
            at = at + 1 if inner in (TRUE, FALSE, BYTE) else _skipped(data, at, inner, depth)
        return at
    if kind in (BYTE, DOUBLE):
        return at + (1 if kind == BYTE else 8)
    raise NoHeader("a value of a type that page headers do not have")


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
    raise NoHeader("a number of more than 64 bits")
