"""The rows of a data set as tables in normal form, one after the other, each of a bounded number of rows and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import polars as pl
import pyarrow as pa

from posttrain.data.columns import prepared
from posttrain.data.file_rows import FileRows
from posttrain.data.kinds import Kind
from posttrain.data.line_tables import by_lines
from posttrain.data.plain_rows import by_columns, of_messages
from posttrain.data.readers import BadRow, Lines, Meter, OnNote, Row, limited, read_rows
from posttrain.data.shapes import Record, Tally
from posttrain.data.sources import SourceFile
from posttrain.runtime.garbage import uncollected
from schemas.messages import MESSAGES

CHUNK: Final = 20_000  # rows that are held as Python objects at a time
BYTES: Final = 32 << 20  # that these may have in their file


class Collector:
    """Reads the files of a data set.

    Where several rows of a file make one record, or one makes several, the records count.

    Args:
        kind: what the rows should be.
        files: where they are.
        keep_incomplete: whether the rows before a break in a file are read, instead of the file being refused.
        note: is given what a person should know about a file, a sentence each.
        on_bad: is given the rows that could not be read or normalised.
        tally: is given what is said of shapes and columns.
    """

    def __init__(
        self,
        kind: Kind,
        files: list[SourceFile],
        keep_incomplete: bool,
        note: OnNote,
        on_bad: Callable[[BadRow], None],
        tally: Tally | None = None,
    ) -> None:
        self._kind, self._files, self._keep, self._note, self._on_bad = kind, files, keep_incomplete, note, on_bad
        self._schema = pl.DataFrame(schema=kind.columns).to_arrow().schema
        self.tally, self.records = tally or Tally(), 0

    def tables(self) -> Iterator[pl.DataFrame]:
        """Tables with the columns of the kind, in the order of the rows.

        Raises:
            Refusal: when a file cannot be read as what it should be.
        """
        yield pl.DataFrame(schema=self._kind.columns)
        for file in self._files:
            for table in self._of_file(file):
                self.records += table.height
                yield table

    def _of_file(self, file: SourceFile) -> Iterator[pl.DataFrame]:
        refused, before = 0, self.tally.read

        def bad(row: BadRow) -> None:
            nonlocal refused
            refused += 1
            self._on_bad(row)

        reader = self._kind.rows_of(file.name, limited(file, bad), file.reading, self.tally)
        read, taken, batches = 0, self.tally.taken, self._batches(file)
        while True:
            with uncollected():
                some = next(batches, None)
                if some is None:
                    break
                table, count = self._of_lines(some, reader) if isinstance(some, Lines) else (self._table(some, reader), len(some))
            read += count
            yield table
        yield self._from_records(list(reader.close()))
        # Every row that was read is in a record, or was refused.
        made = self.tally.taken - taken
        assert read == made + refused, f"{read} rows of {file.name} read: {made} in records and {refused} refused"
        if self.tally.read + read == before and len(self._files) > 1:  # of one file the refusal says so
            self._note(f"{file.name} has no rows")
        self.tally.read += read

    def _batches(self, file: SourceFile) -> Iterator[list[Row] | Lines]:
        """Rows of the file, or JSON lines that are not parsed yet."""
        meter, held, start = Meter(), list[Row](), 0
        known, fits = self._kind.known(file.reading), self._kind.fits(file.reading)
        for row in read_rows(
            file, self._unreadable, known=known, keep_incomplete=self._keep, note=self._note, meter=meter,
            whole=True, fits=fits,
        ):  # fmt: skip
            if isinstance(row, Lines):
                yield row
                continue
            held.append(row)
            if len(held) == CHUNK or meter.count - start > BYTES:
                yield held
                held, start = [], meter.count
        yield held

    def _unreadable(self, row: BadRow) -> None:
        """A row that the reader refuses is none of those that it gives."""
        self.tally.read += 1
        self._on_bad(row)

    def _of_lines(self, lines: Lines, reader: FileRows) -> tuple[pl.DataFrame, int]:
        """The table of some lines, and how many rows these are."""
        tables, rest = by_lines(lines, reader, self._kind.columns)
        count, rows = sum(table.height for table in tables), list(lines.rows(rest.tolist()))
        if rows or not tables:
            tables.append(self._table(rows, reader))
        return in_order(tables), count + len(rows)

    def _table(self, rows: list[Row], reader: FileRows) -> pl.DataFrame:
        named = [(number, prepared(row, reader.reading)) for number, row in rows] if reader.renames else rows
        tables, others = by_columns(named, reader, self._kind.columns)
        made: list[Record] = []
        for at in others:
            made += reader.take_prepared(*named[at], rows[at][1])
        if made or not tables:
            tables.append(self._from_records(made))
        return in_order(tables)

    def _from_records(self, records: list[Record]) -> pl.DataFrame:
        columns = self._kind.columns
        arrays = [
            of_messages([record[name] for record in records])
            if columns[name] == MESSAGES
            else pa.array([record.get(name) for record in records], self._schema.field(name).type)
            for name in columns
        ]
        return pl.DataFrame(pa.table(arrays, self._schema.names))


def in_order(tables: list[pl.DataFrame]) -> pl.DataFrame:
    """Rows of one file in one table."""
    return pl.concat(tables).sort("row", maintain_order=True) if len(tables) > 1 else tables[0]


def collect(
    kind: Kind,
    files: list[SourceFile],
    keep_incomplete: bool = False,
    note: OnNote = lambda sentence: None,
    tally: Tally | None = None,
) -> tuple[pl.DataFrame, list[BadRow], int]:
    """All rows of a small data set in one table, the rows that could not be read or normalised, and how many there were of both.

    Raises:
        Refusal: when a file cannot be read as what it should be.
    """
    bad: list[BadRow] = []
    collector = Collector(kind, files, keep_incomplete, note, bad.append, tally)
    table = pl.concat(collector.tables())
    return table, bad, table.height + len(bad)
