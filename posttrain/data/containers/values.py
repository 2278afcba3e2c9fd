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
from posttrain.data.containers.json_tables import WRAPPERS, Uneven, by_columns
from posttrain.data.containers.json_text import Fault, excerpt, parse, slip, trailing, unfinished
from posttrain.data.containers.lines import DoubledKeys
from posttrain.data.containers.rows import BrokenStream, Reading, Row
from posttrain.data.split import DECLARED

CHUNK: Final = 1 << 16  # bytes
LONGEST_FIELD: Final = bounds.LONGEST_ARRAY // 4  # bytes of one column of a file that is laid out by columns
SPACE: Final = re.compile(r"[ \t\r\n\ufeff]*")
DECODER: Final = json.JSONDecoder(parse_constant=lambda name: None)
REWRITE: Final = "correct it there, or write JSON lines, one object a line, of which a bad one costs only itself"
JOINED: Final = "remove the commas at the ends of lines, or put [ ] around all"


class Stop(Exception):
    """The text cannot be read on from here: what is wrong, whether more of it would help, and what to do."""

    def __init__(self, why: str, cut: bool = False, remedy: str | None = None) -> None:
        super().__init__(why)
        self.cut, self.remedy = cut, remedy


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
                    why, remedy = slip(self._text, error)
                    raise Stop(why, remedy=remedy) from error
                if len(self._text) - self._at > longest:
                    raise Stop(f"a value of over {longest} bytes") from error
                if not self._more(max(CHUNK, len(self._text) - self._at)):
                    self._at = len(self._text)
                    raise Stop("the file ends in the middle of a value", cut=True) from error
            except RecursionError:
                raise Stop("a value that is nested too deeply") from None
            except ValueError:  # Python's own limit
                raise Stop("a number of over 4,300 digits") from None

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
        while found := self.text.peek():
            if found == ",":
                raise Stop("a comma between objects that are in no array", remedy=JOINED)
            yield from self._element()

    def _elements(self, also: dict[str, Any] | None = None) -> Iterator[Row]:
        """The elements of an array."""
        self.text.take("[")
        if self.text.peek() == "]":
            self.text.take("]")
            return
        while True:
            yield from self._element(also)
            if self._ends("]"):
                return

    def _ends(self, bracket: str) -> bool:
        """Whether the bracket comes next, not a comma and something else.

        Raises:
            Stop: when a comma comes before the bracket, or neither comes.
        """
        if self.text.take(f",{bracket}") == bracket:
            return True
        if self.text.peek() == bracket:
            why, remedy = trailing(bracket)
            raise Stop(why, remedy=remedy)
        return False

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
                found = self._field()
                if name in fields and isinstance(found, (dict, list)):  # of a table or a split all rows would be lost
                    raise Stop(f"`{name}` twice in one object", remedy="give all of its rows under one name")
                fields[name] = found
            closed = self._ends("}")
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
        try:
            rows = by_columns(fields)
        except Uneven as uneven:
            raise self.reading.uneven(str(uneven)) from None
        for row in [fields] if rows is None else rows:
            self.count += 1
            yield self.count, row


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
            raise reading.unreadable("JSON", place, stop.remedy or REWRITE) from None
    values.doubled.tell()
