"""JSON lines: one object a line. A bad line costs itself; a file that ends in the middle of an object is incomplete."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

from posttrain.data import bounds
from posttrain.data.containers.json_text import BOM, Fault, doubled_keys, excerpt, is_cut, parse
from posttrain.data.containers.rows import BrokenStream, Reading, Row

LONGEST_LINE: Final = bounds.LONGEST_ROW
PIECE: Final = 1 << 20  # bytes of an over-long line that are read at a time
NAMED: Final = 5  # doubled keys of a file


def read_lines(reading: Reading, stream: io.BufferedReader) -> Iterator[Row]:
    """Line number and columns of each readable line; blank lines are skipped, and counted."""
    doubled = DoubledKeys(reading)
    for row, line, end in _lines(reading, stream):
        try:
            value = parse(line)
        except Fault as fault:
            if end and is_cut(line):
                reading.broken(row, end, "the file ends in the middle of an object")
            else:
                reading.bad(row, str(fault), excerpt(line))
            continue
        if isinstance(value, dict):
            doubled.look(row, line, value)
            yield row, value
        else:
            reading.bad(row, "not_an_object", excerpt(line))
    doubled.tell()


class DoubledKeys:
    """Which rows of a file have a key twice: a parser keeps the last, so that a person should know."""

    def __init__(self, reading: Reading) -> None:
        self._reading, self._rows, self._first = reading, 0, 0
        self._keys: dict[str, None] = {}

    def look(self, row: int, text: bytes, value: object) -> None:
        """Look at one row and what was parsed from it."""
        found = doubled_keys(text, value) if isinstance(value, dict) else []
        if found:
            self._rows += 1
            self._first = self._first or row
            self._keys |= dict.fromkeys(found)

    def tell(self) -> None:
        """Say so, once for the file."""
        if self._rows:
            keys = ", ".join(list(self._keys)[:NAMED])
            name = self._reading.name
            self._reading.note(f"{name}: {self._rows:,} rows have a key twice ({keys}), the first {self._first}; the last counts")


def _lines(reading: Reading, stream: io.BufferedReader) -> Iterator[tuple[int, bytes, int]]:
    """Numbered lines that are not blank and not too long, without a byte order mark; and where the file ends without a newline,
    at what byte, else 0."""
    row, read = 0, 0
    while True:
        try:
            line = stream.readline(LONGEST_LINE + 1)
            whole = len(line) <= LONGEST_LINE or line.endswith(b"\n")
            read += len(line) + (0 if whole else _skip_line(stream))
        except BrokenStream as error:
            reading.snapped(row + 1, error)
            return
        if not line:
            return
        row, line = row + 1, line.removeprefix(BOM)
        if not whole:
            reading.bad(row, f"line_too_long: over {LONGEST_LINE} bytes", excerpt(line))
        elif line and not line.isspace():
            yield row, line, 0 if line.endswith(b"\n") else read


def _skip_line(stream: io.BufferedReader) -> int:
    """Read to the end of an over-long line in pieces of bounded size; how many bytes that were."""
    skipped = 0
    while piece := stream.readline(PIECE):
        skipped += len(piece)
        if piece.endswith(b"\n"):
            break
    return skipped
