"""JSON lines: one object a line. A bad line costs itself; a file that ends in the middle of an object is incomplete."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

from posttrain.data import bounds
from posttrain.data.containers.json_text import BOM, Fault, doubled_keys, excerpt, is_cut, least_keys, parse
from posttrain.data.containers.rows import BrokenStream, Lines, Reading, Row, unheard

LONGEST_LINE: Final = bounds.LONGEST_ROW
BLOCK: Final = 1 << 18  # bytes that are read at a time
AT_ONCE: Final = 20_000  # lines of `Lines`
AT_ONCE_BYTES: Final = 32 << 20  # that these have
NAMED: Final = 5  # doubled keys of a file

Block = tuple[int, list[bytes], int]
"""Number of the first line, the lines, and where the file ends behind them without a line break, else 0."""


def read_lines(reading: Reading, stream: io.BufferedReader) -> Iterator[Row]:
    """Line number and columns of each readable line; blank lines are skipped, and counted."""
    doubled = DoubledKeys(reading)
    for first, lines, end in _blocks(reading, stream):
        yield from _parsed(reading, doubled, enumerate(lines, first), end)
    doubled.tell()


def read_whole_lines(reading: Reading, stream: io.BufferedReader) -> Iterator[Lines]:
    """The same lines, many at a time, for who can do without an object for each; what `rows` gives of them is the same."""
    doubled = DoubledKeys(reading)
    for first, lines, end in _gathered(_blocks(reading, stream)):

        def rows(places: Iterable[int], first: int = first, lines: list[bytes] = lines, end: int = end) -> Iterator[Row]:
            return _parsed(reading, doubled, ((first + at, lines[at]) for at in places), end)

        yield Lines(first, lines, rows)
    doubled.tell()


def _parsed(reading: Reading, doubled: DoubledKeys, lines: Iterable[tuple[int, bytes]], end: int) -> Iterator[Row]:
    """The rows of some lines; `end` is where the file ends behind the last of them, without a line break, else 0."""
    told = reading.note is not unheard
    for row, raw in lines:
        line = raw if raw[:1] == b"{" and len(raw) <= LONGEST_LINE else _kept(reading, row, raw)
        if not line:
            continue
        try:
            value = parse(line)
        except Fault as fault:
            if end and is_cut(line):
                reading.broken(row, end, "the file ends in the middle of an object")
            else:
                reading.bad(row, str(fault), excerpt(line))
            continue
        if type(value) is dict:
            if told and (line.count(b'":') != least_keys(value) or b'" :' in line):  # else each key was kept
                doubled.look(row, line, value)
            yield row, value
        else:
            reading.bad(row, "not_an_object", excerpt(line))


def _gathered(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same lines in fewer blocks; the last line of a file that has no line break stays alone."""
    held, size, start = list[bytes](), 0, 1
    for first, lines, end in blocks:
        if held and (end or len(held) + len(lines) > AT_ONCE or size > AT_ONCE_BYTES):
            yield start, held, 0
            held, size = [], 0
        start = start if held else first
        held += lines
        size += sum(map(len, lines))
        if end:
            yield start, held, end
            return
    if held:
        yield start, held, 0


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


def _blocks(reading: Reading, stream: io.BufferedReader) -> Iterator[Block]:
    """Some lines, with the number of the first; and where the file ends without a newline, at what byte, else 0.

    What stands of a line before a break is lost.
    """
    row, rest = 1, b""
    while True:
        try:
            block = stream.read1(BLOCK)
        except BrokenStream as error:
            reading.snapped(row, error)
            return
        if not block:
            break
        reading.meter.count += len(block)
        first, *lines = block.split(b"\n")
        if lines:
            *lines, rest = (rest + first, *lines)
        elif len(rest) <= LONGEST_LINE:  # of a longer one nothing more is kept
            rest += first
        yield row, lines, 0
        row += len(lines)
    if rest:
        yield row, [rest], reading.meter.count


def _kept(reading: Reading, row: int, line: bytes) -> bytes:
    """The line without a byte order mark; nothing where it is blank or too long."""
    if len(line) > LONGEST_LINE:
        reading.bad(row, f"line_too_long: over {LONGEST_LINE} bytes", excerpt(line))
        return b""
    return b"" if line.isspace() else line.removeprefix(BOM)
