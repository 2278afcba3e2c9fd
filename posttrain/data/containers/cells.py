"""CSV and TSV: the first line names the columns; every cell is text, an empty one is null."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Final

from posttrain.data import bounds
from posttrain.data.containers.rows import BrokenStream, Reading, Row

DELIMITERS: Final = ",;\t|"
csv.field_size_limit(bounds.LONGEST_ROW)  # of the process, and 128 KiB unless said: answers are longer


def read_cells(reading: Reading, stream: io.BufferedReader, delimiter: str | None) -> Iterator[Row]:
    """Number of the record, the header left aside, and its columns.

    Args:
        reading: the file, and whom to tell.
        stream: at its start.
        delimiter: what stands between cells; None for whichever of `DELIMITERS` the header has most of.

    Raises:
        Refusal: when the header names a column twice, or a quotation mark is not closed.
    """
    counted = _Counted(stream)
    # Newlines in quotes are part of a cell; bytes that are not UTF-8 are named by their row.
    text = io.TextIOWrapper(counted, encoding="utf-8-sig", errors="surrogateescape", newline="")
    row = 0
    try:
        first = text.readline()
        used = delimiter or max(DELIMITERS, key=first.count)
        lines = csv.reader(_chain(first, text), delimiter=used, strict=True)
        header = _header(reading, next(lines, []))
        for cells in lines:
            if not cells:
                continue
            row += 1
            reading.meter.count = counted.count
            yield from _record(reading, row, header, cells)
    except BrokenStream as error:
        reading.snapped(row + 1, error)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            reading.broken(row + 1, counted.count, "a quotation mark is not closed")
        else:
            place = f"{error} in record {row + 1:,}, before byte {counted.count:,}"
            raise reading.unreadable("CSV", place) from None


class _Counted(io.BufferedReader):
    """A stream that knows how many bytes were read of it."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.count = 0
        super().__init__(bounds.Counted(stream, self._add))

    def _add(self, count: int) -> None:
        self.count += count


def _chain(first: str, rest: io.TextIOWrapper) -> Iterator[str]:
    yield first
    yield from rest


def _header(reading: Reading, names: list[str]) -> list[str]:
    stripped = [name.strip() for name in names]
    reading.refuse_repeated(stripped)
    return stripped


def _record(reading: Reading, row: int, header: list[str], cells: list[str]) -> Iterator[Row]:
    """One record; that of an index, which pandas writes without a name, is left out."""
    try:
        said = "".join(cells).encode()
    except UnicodeEncodeError as error:
        reading.bad(row, f"not_utf8: character {error.start + 1} of the record")
        return
    if len(cells) != len(header):
        reading.bad(row, f"wrong_columns: {len(cells)} cells, not {len(header)}", said.decode())
    elif len(said) > bounds.LONGEST_ROW:
        reading.bad(row, f"row_too_large: {len(said)} bytes, over {bounds.LONGEST_ROW}")
    else:
        yield row, {name: cell or None for name, cell in zip(header, cells, strict=True) if name}
