"""JSON that is not one object a line: an array, objects spread over lines or joined, one object that holds all rows.

What is read at a time is one element, however large the file. Elements are found by Python's scanner, which says where a value
ends, and parsed as a line of JSON lines is.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from posttrain.data import bounds
from posttrain.data.containers.json_text import Fault, excerpt, parse, unfinished
from posttrain.data.containers.lines import DoubledKeys
from posttrain.data.containers.rows import BrokenStream, Reading, Row
from posttrain.data.split import DECLARED

CHUNK: Final = 1 << 16  # bytes
LONGEST_FIELD: Final = bounds.LONGEST_ARRAY // 4  # bytes of one column of a file that is laid out by columns
SPACE: Final = re.compile(r"[ \t\r\n\ufeff]*")
DECODER: Final = json.JSONDecoder(parse_constant=lambda name: None)
WRAPPERS: Final = ("data", "rows", "examples", "records", "items", "instances")
TURN: Final = ("role", "from", "content", "value")  # of a message: a list of such is one value, not one for each row


class Stop(Exception):
    """The text cannot be read on from here: what is wrong, and whether more of it would help."""

    def __init__(self, why: str, cut: bool = False) -> None:
        super().__init__(why)
        self.cut = cut


class Text:
    """The text of a stream from where one is in it; bytes that are not UTF-8 are kept as they are, to be named by their row."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._dropped, self._ended = "", 0, 0, False

    @property
    def byte(self) -> int:
        """Where the stream is read next, from 1."""
        return self._dropped + len(_raw(self._text[: self._at])) + 1

    def peek(self) -> str:
        """The next character that is no white space, or nothing at the end."""
        while True:
            match = SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._more(CHUNK):
                return self._text[self._at : self._at + 1]

    def peek_inside(self) -> str:
        """The first character in the bracket that comes next, white space aside, or nothing at the end."""
        while True:
            match = SPACE.match(self._text, self._at + 1)
            at = match.end() if match else self._at + 1
            if at < len(self._text) or not self._more(CHUNK):
                return self._text[at : at + 1]

    def take(self, expected: str) -> str:
        """The next character that is no white space, which must be one of these.

        Raises:
            Stop: when it is another.
        """
        found = self.peek()
        if not found or found not in expected:
            wanted = " or ".join(expected)
            raise Stop(f"{repr(found) if found else 'the end'} where {wanted} belongs", cut=not found)
        self._at += 1
        return found

    def value(self, longest: int) -> bytes:
        """The bytes of the next value.

        Raises:
            Stop: when it is not JSON, longer than allowed, or cut.
        """
        self.peek()
        while True:
            try:
                _, end = DECODER.raw_decode(self._text, self._at)
                if end == len(self._text) and self._more(CHUNK):  # a number may go on
                    continue
                found, self._at = _raw(self._text[self._at : end]), end
                return found
            except json.JSONDecodeError as error:
                if not unfinished(self._text, error):
                    self._at = error.pos
                    raise Stop(error.msg) from error
                if len(self._text) - self._at > longest:
                    raise Stop(f"a value of over {longest} bytes") from error
                if not self._more(max(CHUNK, len(self._text) - self._at)):
                    self._at = len(self._text)
                    raise Stop("the file ends in the middle of a value", cut=True) from error
            except RecursionError:
                raise Stop("a value that is nested too deeply") from None

    def _more(self, count: int) -> bool:
        """Read on, and forget what lies behind; False at the end."""
        if self._ended:
            return False
        piece = self._next(count)
        self._ended = not piece
        self._dropped += len(_raw(self._text[: self._at]))
        self._text, self._at = self._text[self._at :] + self._decoder.decode(piece, final=self._ended), 0
        return True

    def _next(self, count: int) -> bytes:
        """So many bytes, or those that are left: what stands before a break comes before the break is told."""
        piece = b""
        try:
            while len(piece) < count and (more := self._stream.read1(count - len(piece))):
                piece += more
        except BrokenStream:
            if not piece:
                raise
        return piece


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _Values:
    """The rows of one such file."""

    def __init__(self, reading: Reading, stream: io.BufferedReader) -> None:
        self.reading, self.text = reading, Text(stream)
        self.count, self.doubled = 0, DoubledKeys(reading)

    def rows(self) -> Iterator[Row]:
        """All rows.

        Raises:
            Stop: where the text cannot be read on.
        """
        if self.text.peek() == "[":
            yield from self._elements()
        elif self.text.peek() == "{":
            yield from self._document()
        while self.text.peek():
            yield from self._element()

    def _elements(self, also: dict[str, Any] | None = None) -> Iterator[Row]:
        """The elements of an array."""
        self.text.take("[")
        if self.text.peek() == "]":
            self.text.take("]")
            return
        while True:
            yield from self._element(also)
            if self.text.take(",]") == "]":
                return

    def _element(self, also: dict[str, Any] | None = None) -> Iterator[Row]:
        """The next value as a row; `also` are columns that it has, whatever it says itself."""
        raw = self.text.value(bounds.LONGEST_ROW)
        self.count += 1
        self.reading.meter.count += len(raw)
        try:
            value = parse(raw)
        except Fault as fault:
            self.reading.bad(self.count, str(fault), excerpt(raw))
            return
        if isinstance(value, dict):
            self.doubled.look(self.count, raw, value)
            yield self.count, value | (also or {})
        else:
            self.reading.bad(self.count, "not_an_object", excerpt(raw))

    def _document(self) -> Iterator[Row]:
        """The first object: a row, or one that holds rows: in `data`, under the name of a split, or column by column."""
        fields: dict[str, Any] = {}
        streamed = False
        self.text.take("{")
        closed = self.text.peek() == "}" and bool(self.text.take("}"))
        while not closed:
            name = self._field()
            self.text.take(":")
            if self.text.peek() == "[" and (name in WRAPPERS or name in DECLARED) and self.text.peek_inside() == "{":
                streamed = True
                yield from self._elements({"split": name} if name in DECLARED else None)
            else:
                fields[name] = self._field()
            closed = self.text.take(",}") == "}"
        if not streamed:
            yield from self._of_fields(fields)
        elif fields:
            self.reading.note(f"{self.reading.name}: {', '.join(fields)} beside the rows is not read")

    def _field(self) -> Any:
        raw = self.text.value(LONGEST_FIELD)
        try:
            return parse(raw)
        except Fault as fault:
            raise Stop(str(fault)) from None

    def _of_fields(self, fields: dict[str, Any]) -> Iterator[Row]:
        rows = by_columns(fields)
        for row in [fields] if rows is None else rows:
            self.count += 1
            yield self.count, row


def by_columns(fields: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object that holds whole columns or named rows, as pandas writes them; None where it is one row itself.

    `{"a": [1, 2], "b": [3, 4]}`; `{"a": {"0": 1, "1": 2}, …}`; `{"0": {"a": 1}, …}`; `{"columns": ["a"], "data": [[1], [2]]}`.
    """
    values = list(fields.values())
    if not values:
        return None
    names, table = fields.get("columns"), fields.get("data")
    if isinstance(names, list) and isinstance(table, list):
        fits = all(isinstance(row, list) and len(row) == len(names) for row in table)
        return [dict(zip(names, row, strict=True)) for row in table] if fits else None
    if all(isinstance(each, dict) for each in values):
        inner = [each.keys() for each in values]
        if inner[0] and all(name.isdigit() for name in inner[0]) and all(keys == inner[0] for keys in inner):
            return [{name: column[at] for name, column in fields.items()} for at in inner[0]]
        return values if all(name.isdigit() for name in fields) else None
    if not all(isinstance(each, list) for each in values) or len({len(each) for each in values}) != 1:
        return None
    if any(isinstance(each, dict) and each.keys() & set(TURN) for column in values for each in column[:1]):
        return None
    return [dict(zip(fields, row, strict=True)) for row in zip(*values, strict=True)]


def read_values(reading: Reading, stream: io.BufferedReader) -> Iterator[Row]:
    """Ordinal and columns of each element that is an object.

    Raises:
        Refusal: when the text is not JSON: where one element ends and the next begins cannot be told then.
    """
    values = _Values(reading, stream)
    try:
        yield from values.rows()
    except BrokenStream as error:
        reading.snapped(values.count + 1, error)
    except Stop as stop:
        if stop.cut:
            reading.broken(values.count + 1, values.text.byte, str(stop))
        else:
            place = f"{stop} at byte {values.text.byte:,}, in row {values.count + 1:,}"
            raise reading.unreadable("JSON", f"{place}; in JSON lines, one object a line, a bad one costs only itself") from None
    values.doubled.tell()
